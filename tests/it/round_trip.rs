//! A message from one client to another.

use warrengate::pb;

use crate::harness::{Tenant, wait::within};

#[tokio::test]
async fn a_message_is_delivered_from_one_client_to_another() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "hello").await;
    assert_eq!(tenant.take("jobs", 1).await, ["hello"]);
}

#[tokio::test]
async fn a_thousand_messages_are_each_confirmed_and_received_in_order() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let publisher = tenant.client.publisher();
    let mut receipts = Vec::new();
    for n in 0..1_000 {
        receipts.push(publisher.send(crate::harness::to_queue("jobs", n.to_string())).await.unwrap());
    }
    for receipt in receipts {
        let result = within("an outcome", receipt).await;
        assert_eq!(result.outcome(), pb::Outcome::Confirmed);
    }
    publisher.close().await.unwrap();
    let bodies = tenant.take("jobs", 1_000).await;
    let expected: Vec<_> = (0..1_000).map(|n: i32| n.to_string()).collect();
    assert_eq!(bodies, expected);
}
