//! Dead letters that are sent again with another body or to another destination.

use tonic::Code;
use warrengate::pb::{self, NackAction};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, ids, start},
    dead_letters::all,
    raw::{field, reason},
    tenant::all_grants,
    to_queue,
    wait::within,
};

/// A tenant with one dead letter of the queue `jobs`.
async fn with_dead_letter() -> (Tenant, String) {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut publication = to_queue("jobs", "broken");
    let message = publication.message.as_mut().unwrap();
    message.message_id = "order-17".into();
    message.content_type = "text/plain".into();
    tenant.publish(publication).await;
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let held = ids(&consumer.take(1).await);
    consumer.nack_with_reason(&held, NackAction::DeadLetter, "cannot be read").await;
    consumer.close().await;
    let id = tenant.dead_letter().await.dead_letter_id;
    (tenant, id)
}

fn ids_of(ids: &[&str]) -> pb::DeadLetterSelection {
    let dead_letter_ids = ids.iter().map(|&id| id.to_owned()).collect();
    pb::DeadLetterSelection { dead_letter_ids, ..Default::default() }
}

fn to(exchange: &str, routing_key: &str) -> Option<pb::PublishDestination> {
    Some(pb::PublishDestination { exchange: exchange.into(), routing_key: routing_key.into() })
}

async fn redrive(
    client: &warrengate::client::Client,
    selection: pb::DeadLetterSelection,
    edit: pb::DeadLetterEdit,
) -> Result<pb::RedriveDeadLettersResponse, tonic::Status> {
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), edit: Some(edit), ..Default::default() };
    let mut reports = within("a redrive", client.topology().redrive_dead_letters(request)).await?.into_inner();
    let mut last = pb::RedriveDeadLettersResponse::default();
    while let Some(report) = within("a report", reports.message()).await? {
        last = report;
    }
    Ok(last)
}

async fn take(tenant: &Tenant, queue: &str) -> pb::Delivery {
    let mut consumer = RawSubscription::open(&tenant.client, start(queue)).await;
    let delivery = consumer.take(1).await.remove(0);
    consumer.ack(&[delivery.delivery_id]).await;
    consumer.close().await;
    delivery
}

#[tokio::test]
async fn a_dead_letter_is_sent_again_with_another_body_and_its_properties() {
    let (tenant, id) = with_dead_letter().await;
    let edit = pb::DeadLetterEdit { body: Some("corrected".into()), destination: None };
    let done = redrive(&tenant.client, ids_of(&[&id]), edit).await.unwrap();
    assert_eq!((done.redriven, done.failed), (1, 0));
    let delivery = take(&tenant, "jobs").await;
    let message = delivery.message.unwrap();
    assert_eq!(&message.body[..], b"corrected");
    assert_eq!((message.message_id.as_str(), message.content_type.as_str()), ("order-17", "text/plain"));
    assert_eq!((delivery.attempt, delivery.routing_key.as_str()), (1, "jobs"));
    assert!(tenant.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_dead_letter_is_sent_to_another_destination() {
    let (tenant, id) = with_dead_letter().await;
    tenant.queue("inspection").await;
    tenant.exchange("events", pb::ExchangeType::Topic).await;
    tenant.bind("events", "inspection", "checked.#").await;
    let edit = pb::DeadLetterEdit { body: None, destination: to("events", "unbound") };
    let failed = redrive(&tenant.client, ids_of(&[&id]), edit).await.unwrap();
    assert_eq!((failed.redriven, failed.failed), (0, 1));
    assert!(failed.failures[0].reason.starts_with("NO_ROUTE"), "{failed:?}");
    assert_eq!(tenant.dead_letter().await.dead_letter_id, id, "it remains a dead letter");

    let edit = pb::DeadLetterEdit { body: None, destination: to("missing", "x") };
    let failed = redrive(&tenant.client, ids_of(&[&id]), edit).await.unwrap();
    assert_eq!((failed.redriven, failed.failed), (0, 1));
    assert!(failed.failures[0].reason.starts_with("EXCHANGE_NOT_FOUND"), "{failed:?}");

    let edit = pb::DeadLetterEdit { body: None, destination: to("events", "checked.again") };
    let done = redrive(&tenant.client, ids_of(&[&id]), edit).await.unwrap();
    assert_eq!((done.redriven, done.failed), (1, 0));
    let delivery = take(&tenant, "inspection").await;
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("events", "checked.again"));
    assert_eq!(&delivery.message.unwrap().body[..], b"broken");
    assert_eq!(tenant.depth("jobs").await, 0);
}

#[tokio::test]
async fn an_edit_needs_one_id_a_change_and_the_publish_grant() {
    let (tenant, id) = with_dead_letter().await;
    let world = SharedStack::get();
    let body = || pb::DeadLetterEdit { body: Some("x".into()), destination: None };
    let two = ids_of(&[&id, "another"]);
    for (selection, edit, named) in [
        (all(), body(), "edit"),
        (two, body(), "edit"),
        (ids_of(&[&id]), pb::DeadLetterEdit::default(), "edit"),
        (
            ids_of(&[&id]),
            pb::DeadLetterEdit { body: None, destination: to("", "wg.dead-letters") },
            "edit.destination.routing_key",
        ),
        (
            ids_of(&[&id]),
            pb::DeadLetterEdit { body: None, destination: to("wg.return", "jobs") },
            "edit.destination.exchange",
        ),
    ] {
        let refused = redrive(&tenant.client, selection, edit).await.expect_err(named);
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, named));
    }
    let publish = vec![pb::PublishGrant { exchange: "amq.default".into(), routing_key: "jobs".into() }];
    let (client_id, secret) =
        Tenant::add_client(&world.admin().await, &tenant.id, "narrow", pb::Grants { publish, ..all_grants() }).await;
    let narrow = world.client(&client_id, &secret).await;
    let edit = pb::DeadLetterEdit { body: None, destination: to("", "elsewhere") };
    let denied = redrive(&narrow, ids_of(&[&id]), edit).await.expect_err("not granted");
    assert_eq!((denied.code(), reason(&denied).as_str()), (Code::PermissionDenied, "PUBLISH_NOT_GRANTED"));
    assert_eq!(tenant.dead_letter().await.dead_letter_id, id);
}
