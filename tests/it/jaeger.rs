//! What an auditor sees: the same traces by Jaeger's query API, and by `warrengate trace`, which asks it.

use tokio::process::Command;

use crate::harness::wait::within;

#[tokio::test]
async fn without_a_jaeger_the_command_says_what_to_do() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    let output = command.args(["trace", "order-17", "--jaeger", &format!("http://{nobody}")]).output();
    let output = within("warrengate trace", output).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no Jaeger answers") && text.contains("scripts/jaeger"), "{text}");
}
