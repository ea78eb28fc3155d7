//! Traces in Jaeger: the same through its query API and through `warrengate trace`.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::process::Command;
use warrengate::{
    config::OtlpProtocol,
    pb::{NackAction, Outcome},
};

use crate::harness::{
    consumer::{RawSubscription, start},
    jaeger::Jaeger,
    to_queue,
    traced::Traced,
    wait::within,
};

#[tokio::test]
#[allow(clippy::print_stderr, reason = "a skipped test is reported")]
async fn jaeger_receives_the_trace_of_a_retried_message_and_the_command_draws_it() {
    let Some(jaeger) = Jaeger::find() else {
        // ./scripts/jaeger runs this test with a Jaeger; the CI workflow has a job for it.
        return eprintln!("skipped: no Jaeger; run ./scripts/jaeger test");
    };
    for (endpoint, protocol) in [(&jaeger.otlp, OtlpProtocol::Grpc), (&jaeger.otlp_http, OtlpProtocol::Http)] {
        let traced = Traced::start_with(|traces| {
            traces.endpoint = Some(endpoint.clone());
            traces.protocol = protocol;
        })
        .await;
        let tenant = &traced.tenant;
        tenant.queue("orders").await;
        let mut publication = to_queue("orders", "secret-body");
        let message_id = format!("order-{}", tenant.id);
        publication.message.as_mut().unwrap().message_id.clone_from(&message_id);
        let publisher = tenant.client.publisher();
        let result = within("an outcome", publisher.send(publication).await.unwrap()).await;
        publisher.close().await.unwrap();
        assert_eq!(result.outcome(), Outcome::Confirmed);
        let mut subscription = RawSubscription::open(&tenant.client, start("orders")).await;
        let first = subscription.one().await;
        subscription.nack(&[first.delivery_id], NackAction::Retry).await;
        let second = subscription.one().await;
        subscription.ack(&[second.delivery_id]).await;
        subscription.close().await;

        let spans = jaeger.trace(&result.trace_id, 5).await;
        let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
        let (send, deliveries) = (named("send orders")[0], named("deliver orders"));
        assert_eq!((spans.len(), deliveries.len()), (5, 2), "{spans:#?}");
        assert_eq!((send.kind, send.attribute("warrengate.outcome")), (SpanKind::Producer, "confirmed"));
        for delivery in &deliveries {
            assert_eq!((&delivery.parent, delivery.attribute("warrengate.tenant")), (&send.id, tenant.id.as_str()));
        }
        for (delivery, settlement) in deliveries.iter().zip(["retry orders", "ack orders"]) {
            assert_eq!(named(settlement)[0].parent, delivery.id);
        }
        assert!(!format!("{spans:?}").contains("secret-body"));

        // By the trace id and by the message id.
        for id in [&result.trace_id, &message_id] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
            let output = command.args(["trace", id, "--jaeger", &jaeger.query]).output();
            let output = within("warrengate trace", output).await.unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            for line in [&result.trace_id as &str, &message_id, "send orders", "├─ deliver orders !", "└─ ack orders"]
            {
                assert!(text.contains(line), "{line} in {text}");
            }
        }
        traced.gateway.shutdown().await;
    }
}

#[tokio::test]
async fn without_a_jaeger_the_command_says_what_to_do() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    let output = command.args(["trace", "order-17", "--jaeger", &format!("http://{unused}")]).output();
    let output = within("warrengate trace", output).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no Jaeger responds") && text.contains("scripts/jaeger"), "{text}");
}
