//! The Python quick start with the Python client library, against a gateway whose tokens expire during the run, so that
//! it has to renew one on an open stream.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use secrecy::ExposeSecret as _;

use crate::harness::{
    SharedStack, Tenant,
    wait::within_minutes,
    web::{self, http},
};

/// Serialises the creation and the use of the environment.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The virtual environment that all runs share.
pub fn environment() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("venv")
}

#[tokio::test]
async fn the_python_quick_start_publishes_subscribes_and_renews_its_token() {
    // The retry is four seconds after the first attempt, and the first token expires before that.
    let gateway = web::gateway(|config| {
        config.auth.token_lifetime = Duration::from_secs(4);
        config.auth.warn_before_expiry = Duration::from_secs(2);
    })
    .await;
    let tenant = Tenant::fresh().await;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/run.sh");
    let run = tokio::process::Command::new(example)
        .env("VENV", environment())
        .env("WARRENGATE_ENDPOINT", gateway.endpoint())
        .env("WARRENGATE_CA", SharedStack::get().stack.gateway_ca())
        .env("WARRENGATE_CLIENT_ID", &tenant.client_id)
        .env("WARRENGATE_CLIENT_SECRET", tenant.secret.expose_secret())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let _turn = TURN.lock().await;
    // The first run creates a virtual environment and downloads grpcio.
    let output = within_minutes("the quick start", 10, run).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let scenario: serde_json::Value = serde_json::from_str(include_str!("../../../examples/scenario.json")).unwrap();
    let lines = |name: &str| scenario[name].as_array().unwrap().iter().filter_map(|line| line.as_str());
    let renewed = lines("expected_of_short_tokens").next().unwrap();
    let mut seen: Vec<_> = out.lines().filter(|line| *line != renewed).collect();
    seen.sort_unstable();
    assert_eq!(seen, lines("expected").collect::<Vec<_>>());
    // The gateway has counted the tokens that the program reports.
    let renewals = out.lines().count() - seen.len();
    let page = http().get(format!("http://{}/metrics", gateway.running.ops_address())).send().await.unwrap();
    let sample = format!("warrengate_reauthentications_total{{tenant=\"{}\"}} {renewals}\n", tenant.id);
    assert!(renewals > 0 && page.text().await.unwrap().contains(&sample), "{sample}{out}");
    gateway.running.shutdown().await;
}
