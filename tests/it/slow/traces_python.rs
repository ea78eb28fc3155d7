//! An application in another language that traces by itself on both ends: its spans and the gateway's form one tree.

use std::{path::Path, process::Stdio};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use secrecy::ExposeSecret as _;

use crate::harness::{SharedStack, traced::Traced, wait::within_minutes};

#[tokio::test]
async fn a_python_application_with_its_own_sdk_on_both_ends_has_one_complete_trace() {
    let traced = Traced::start().await;
    let run = tokio::process::Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/run.sh"))
        .env("VENV", Path::new(env!("CARGO_TARGET_TMPDIR")).join("venv-traced"))
        .env("WARRENGATE_ENDPOINT", traced.endpoint())
        .env("WARRENGATE_CA", SharedStack::get().stack.gateway_ca())
        .env("WARRENGATE_CLIENT_ID", &traced.tenant.client_id)
        .env("WARRENGATE_CLIENT_SECRET", traced.tenant.secret.expose_secret())
        .env("COLLECTOR", traced.collector.endpoint())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // The first run creates a virtual environment and downloads the SDK.
    let output = within_minutes("the application", 10, run).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let trace = out.lines().find_map(|line| line.strip_prefix("trace ")).expect("a trace");

    let spans = traced.collector.trace(trace, 5).await;
    let path = ["place order", "send traced-python", "deliver traced-python", "process order"];
    let mut parent = "";
    for name in path {
        let span = spans.iter().find(|span| span.name == name).expect(name);
        assert_eq!(span.parent, parent, "{spans:#?}");
        parent = &span.id;
    }
    let find = |name: &str| spans.iter().find(|span| span.name == name).expect(name);
    let (deliver, ack) = (find("deliver traced-python"), find("ack traced-python"));
    assert_eq!((&ack.parent, ack.kind), (&deliver.id, SpanKind::Client));
    let services = path.map(|name| find(name).service.as_str());
    assert_eq!(services, ["shop", "warrengate", "warrengate", "store"]);
}
