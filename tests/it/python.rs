//! A foreign client: the Python quick start, with stubs made by its own tools, against the real gateway.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use secrecy::ExposeSecret as _;

use crate::harness::{Tenant, World, wait::within_minutes};

/// Whose turn it is to make the environment, or to use it.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The virtual environment that all runs share.
pub fn environment() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("venv")
}

#[tokio::test]
async fn the_python_quick_start_publishes_and_subscribes() {
    let world = World::get();
    let tenant = Tenant::fresh().await;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/run.sh");
    let run = tokio::process::Command::new(example)
        .env("VENV", environment())
        .env("WARRENGATE_ENDPOINT", world.stack.endpoint())
        .env("WARRENGATE_CA", world.stack.gateway_ca())
        .env("WARRENGATE_CLIENT_ID", &tenant.client_id)
        .env("WARRENGATE_CLIENT_SECRET", tenant.secret.expose_secret())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let _turn = TURN.lock().await;
    // The first run makes a virtual environment and fetches grpcio.
    let output = within_minutes("the quick start", 10, run).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let scenario: serde_json::Value = serde_json::from_str(include_str!("../../examples/scenario.json")).unwrap();
    let expected: Vec<_> = scenario["expected"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
    let mut seen: Vec<_> = out.lines().collect();
    seen.sort_unstable();
    assert_eq!(seen, expected);
}
