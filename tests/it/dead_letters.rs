//! Dead letters: listing without consuming, redriving, deleting, and isolation between tenants.

use std::time::{Duration, Instant};

use tonic::Code;
use warrengate::pb::{self, DeadLetterFilter, NackAction, QueueType};

use crate::harness::{
    SharedStack, Tenant,
    consumer::{RawSubscription, ids, start},
    dead_letters::{all, bodies, filtered, of_queue, these},
    raw::{field, reason},
    tenant::all_grants,
    to_queue,
    wait::{until, within},
};

/// A tenant with this number of dead letters in each of these queues, numbered over all.
async fn with_dead(queues: &[(&str, usize)]) -> Tenant {
    let tenant = Tenant::fresh().await;
    let mut number = 0;
    for (queue, count) in queues {
        tenant.queue(queue).await;
        let all: Vec<_> = (number..number + count).map(|n| to_queue(queue, n.to_string())).collect();
        number += count;
        tenant.outcomes(all).await;
        let mut consumer = RawSubscription::open(&tenant.client, start(queue)).await;
        let taken = ids(&consumer.take(*count).await);
        consumer.nack_with_reason(&taken, NackAction::DeadLetter, &format!("of {queue}")).await;
        consumer.close().await;
    }
    tenant.has_dead_letters(number).await;
    tenant
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort_by_key(|body| body.parse::<usize>().unwrap());
    bodies
}

#[tokio::test]
async fn listing_removes_nothing_and_pages_follow_each_other() {
    let tenant = with_dead(&[("jobs", 25)]).await;
    let whole = tenant.dead_letters().await;
    for size in [1, 7, 25, 26] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListDeadLettersRequest { page_size: size, page_token, ..Default::default() };
            let page = tenant.dead_letter_page(request).await.unwrap();
            assert!(page.dead_letters.len() <= size as usize);
            found.extend(page.dead_letters);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, whole, "in pages of {size}");
    }
    assert_eq!(sorted(bodies(&whole)), numbers(0..25));
    let mut ids: Vec<_> = whole.iter().map(|letter| &letter.dead_letter_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 25, "each has a separate id");
    let request = pb::ListDeadLettersRequest { without_bodies: true, page_size: 3, ..Default::default() };
    let page = tenant.dead_letter_page(request).await.unwrap();
    assert_eq!(bodies(&page.dead_letters), ["", "", ""]);
    let forged = pb::ListDeadLettersRequest { page_token: "YQ".into(), ..Default::default() };
    assert_eq!(field(&tenant.dead_letter_page(forged).await.expect_err("refused")), "page_token");
}

#[tokio::test]
async fn concurrent_lists_exclude_each_other_and_all_see_everything() {
    let tenant = with_dead(&[("jobs", 50)]).await;
    let lists = (0..8).map(|_| tenant.dead_letters());
    for found in futures_util::future::join_all(lists).await {
        assert_eq!(sorted(bodies(&found)), numbers(0..50));
    }
}

/// Each redrive keeps the dead letters for two seconds. Calls that wait for them must not take that for an empty queue.
#[tokio::test]
async fn calls_that_wait_for_a_slow_redrive_get_a_correct_answer_or_busy() {
    let tenant = with_dead(&[("slow", 8), ("kept", 30), ("purged", 5)]).await;
    let whole = tenant.dead_letters().await;
    let slow: Vec<_> = whole.iter().filter(|letter| letter.queue == "slow").collect();
    let redrives = slow.chunks(4).map(async |letters| {
        let request = pb::RedriveDeadLettersRequest {
            selection: Some(these(letters.iter().copied())),
            max_per_second: 2,
            edit: None,
        };
        let mut reports = tenant.client.topology().redrive_dead_letters(request).await?.into_inner();
        let mut last = pb::RedriveDeadLettersResponse::default();
        while let Some(report) = reports.message().await? {
            last = report;
        }
        Ok::<_, tonic::Status>(last.redriven)
    });
    let lists = (0..4).map(async |_| {
        let request = pb::ListDeadLettersRequest { filter: Some(of_queue("kept")), ..Default::default() };
        tenant.dead_letter_page(request).await.map(|page| page.dead_letters.len())
    });
    let purges = (0..2).map(async |_| {
        let selection = Some(filtered(of_queue("purged")));
        let request = pb::PurgeDeadLettersRequest { selection };
        tenant.client.topology().purge_dead_letters(request).await.map(|answer| answer.into_inner().purged)
    });
    let (redriven, listed, purged) = within(
        "all calls",
        futures_util::future::join3(
            futures_util::future::join_all(redrives),
            futures_util::future::join_all(lists),
            futures_util::future::join_all(purges),
        ),
    )
    .await;
    let busy = |status: &tonic::Status| assert_eq!(reason(status), "DEAD_LETTERS_BUSY", "{status}");
    let (mut all_redriven, mut all_purged) = (0, 0);
    for answer in redriven {
        answer.inspect(|count| all_redriven += count).map_or_else(|status| busy(&status), drop);
    }
    for answer in listed {
        answer.map_or_else(|status| busy(&status), |count| assert_eq!(count, 30));
    }
    for answer in purged {
        answer.inspect(|count| all_purged += count).map_or_else(|status| busy(&status), drop);
    }
    assert!(all_purged == 0 || all_purged == 5, "{all_purged} of 5");
    let left = tenant.has_dead_letters(43 - (all_redriven + all_purged) as usize).await;
    assert_eq!(left.iter().filter(|letter| letter.queue == "kept").count(), 30);
}

#[tokio::test]
async fn large_dead_letters_fill_pages_by_their_bytes() {
    let tenant = Tenant::fresh().await;
    tenant.queue_typed("jobs", QueueType::Classic).await;
    for _ in 0..4 {
        tenant.publish_to("jobs", vec![7; 2 << 20]).await;
    }
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    let taken = ids(&consumer.take(4).await);
    consumer.nack(&taken, NackAction::DeadLetter).await;
    consumer.close().await;
    let found = tenant.has_dead_letters(4).await;
    assert!(found.iter().all(|letter| letter.message.as_ref().unwrap().body.len() == 2 << 20));
    let page = tenant.dead_letter_page(pb::ListDeadLettersRequest::default()).await.unwrap();
    assert_eq!((page.dead_letters.len(), page.next_page_token.is_empty()), (1, false));
    // Bodies that are not returned do not fill a page.
    let request = pb::ListDeadLettersRequest { without_bodies: true, ..Default::default() };
    let page = tenant.dead_letter_page(request).await.unwrap();
    assert_eq!((page.dead_letters.len(), page.next_page_token.is_empty()), (4, true));
}

#[tokio::test]
async fn filters_choose_by_queue_code_reason_and_time() {
    let tenant = with_dead(&[("first", 3), ("second", 2)]).await;
    let short = pb::Queue {
        name: "short".into(),
        message_ttl: Some(Duration::from_millis(100).try_into().unwrap()),
        ..pb::Queue::default()
    };
    tenant.queue_of(short).await;
    tenant.publish_to("short", "5").await;
    let whole = tenant.has_dead_letters(6).await;
    let found = async |filter: DeadLetterFilter| {
        let request = pb::ListDeadLettersRequest { filter: Some(filter), ..Default::default() };
        sorted(bodies(&tenant.dead_letter_page(request).await.unwrap().dead_letters))
    };
    assert_eq!(found(of_queue("first")).await, ["0", "1", "2"]);
    assert_eq!(found(of_queue("none")).await, [""; 0]);
    assert_eq!(found(DeadLetterFilter { code: "rejected".into(), ..Default::default() }).await, numbers(0..5));
    let reason_contains = "of sec".into();
    assert_eq!(found(DeadLetterFilter { reason_contains, ..Default::default() }).await, ["3", "4"]);
    let died = whole[3].died;
    let after = found(DeadLetterFilter { died_after: died, ..Default::default() }).await.len();
    let before = found(DeadLetterFilter { died_before: died, ..Default::default() }).await.len();
    assert_eq!(after + before, 6);
    assert!(after >= 1 && before <= 5);

    // The message that the broker dead-lettered is listed and redriven like the others.
    let expired = whole.iter().find(|letter| letter.queue == "short").expect("it is listed");
    assert_eq!((expired.code.as_str(), expired.attempts), ("expired", 0));
    assert_eq!((expired.exchange.as_str(), expired.routing_key.as_str()), ("", "short"));
    assert_eq!(
        expired.dead_letter_id,
        tenant.dead_letters().await.iter().find(|l| l.queue == "short").unwrap().dead_letter_id
    );
    let mut consumer = RawSubscription::open(&tenant.client, start("short")).await;
    assert_eq!(tenant.redrive(these([expired])).await.redriven, 1);
    let again = consumer.one().await;
    assert_eq!((again.attempt, again.routing_key.as_str()), (1, "short"));
    consumer.ack(&[again.delivery_id]).await;
    consumer.close().await;
    assert_eq!(tenant.dead_letters().await.len(), 5);
}

#[tokio::test]
async fn one_some_or_all_dead_letters_are_redriven_to_their_queues_only() {
    let tenant = with_dead(&[("first", 10), ("second", 5)]).await;
    let whole = tenant.dead_letters().await;
    let one = whole.iter().find(|letter| letter.queue == "first").unwrap();
    let done = tenant.redrive(these([one])).await;
    assert_eq!((done.redriven, done.failed, done.remaining), (1, 0, 0));
    assert_eq!(tenant.take("first", 1).await, [one.message.as_ref().unwrap().body.clone()]);
    // It is no longer a dead letter; purging it again has no effect.
    assert_eq!(tenant.redrive(these([one])).await, pb::RedriveDeadLettersResponse::default());
    assert_eq!(tenant.redrive(filtered(of_queue("second"))).await.redriven, 5);
    tenant.has_depth("second", 5).await;
    assert_eq!(tenant.depth("first").await, 0);
    assert_eq!(tenant.redrive(all()).await.redriven, 9);
    tenant.has_depth("first", 9).await;
    assert_eq!(tenant.dead_letters().await, []);
    // Those that become dead letters again count the redrive.
    let mut consumer = RawSubscription::open(&tenant.client, start("second")).await;
    let taken = consumer.one().await;
    consumer.nack(&[taken.delivery_id], NackAction::DeadLetter).await;
    assert_eq!(tenant.dead_letter().await.redrives, 1);
}

/// RabbitMQ drops acknowledgements that a channel keeps back when it closes, so the letters return to the queue.
#[tokio::test]
async fn a_redrive_at_full_speed_sends_each_dead_letter_once_and_a_deletion_leaves_none() {
    const LETTERS: usize = 240;
    let tenant = with_dead(&[("jobs", LETTERS), ("others", LETTERS)]).await;
    let done = tenant.redrive(filtered(of_queue("jobs"))).await;
    assert_eq!((done.redriven, done.failed, done.remaining), (LETTERS as u64, 0, 0));
    tenant.has_depth("jobs", LETTERS as u64).await;
    let received = tenant.take("jobs", LETTERS).await.iter().map(|body| String::from_utf8_lossy(body).into()).collect();
    assert_eq!(sorted(received), sorted(numbers(0..LETTERS)));
    tenant.has_depth("jobs", 0).await;
    assert_eq!(tenant.dead_letters().await.len(), LETTERS);
    let request = pb::PurgeDeadLettersRequest { selection: Some(all()) };
    let purged = tenant.client.topology().purge_dead_letters(request).await.unwrap().into_inner().purged;
    assert_eq!(purged, LETTERS as u64);
    assert_eq!(tenant.dead_letters().await.len(), 0);
}

#[tokio::test]
async fn letters_that_are_deleted_one_by_one_do_not_return() {
    // Behind letters that remain, each is acknowledged by itself.
    let tenant = with_dead(&[("kept", 3), ("deleted", 240), ("deleted", 240), ("also-deleted", 240)]).await;
    assert_eq!(tenant.purge_dead(filtered(of_queue("deleted"))).await, 480);
    assert_eq!(tenant.dead_letters().await.len(), 243);
    assert_eq!(tenant.purge_dead(filtered(of_queue("also-deleted"))).await, 240);
    let left = tenant.dead_letters().await;
    assert!(left.len() == 3 && left.iter().all(|letter| letter.queue == "kept"), "{left:?}");
}

/// Those that were sent are in their queue, and the others are dead letters.
async fn are_each_in_one_place(tenant: &Tenant, letters: usize) {
    let left = tenant.dead_letters().await.len();
    assert!(left < letters, "none was sent");
    tenant.has_depth("jobs", (letters - left) as u64).await;
}

#[tokio::test]
async fn no_letter_that_a_cancelled_redrive_has_sent_remains_a_dead_letter() {
    const LETTERS: usize = 4 * 240;
    let tenant = with_dead(&[("jobs", 240); 4]).await;
    let mut reports = tenant.start_redrive(all(), 0).await.unwrap();
    within("a report", reports.message()).await.unwrap().expect("a report");
    until("the first letters", async || (tenant.depth("jobs").await > 0).then_some(())).await;
    drop(reports);
    are_each_in_one_place(&tenant, LETTERS).await;
}

#[tokio::test]
async fn no_letter_that_a_redrive_has_sent_remains_a_dead_letter_when_its_grant_is_removed() {
    const LETTERS: usize = 4 * 240;
    let tenant = with_dead(&[("jobs", 240); 4]).await;
    let (shared, admin) = (SharedStack::get(), SharedStack::get().admin().await);
    let (client_id, secret) = Tenant::add_client(&admin, &tenant.id, "operator", all_grants()).await;
    let client = shared.client(&client_id, &secret).await;
    let operator = Tenant { id: tenant.id.clone(), client_id: client_id.clone(), secret, client };
    // Slower than at full speed, because the removal takes up to a second.
    let mut reports = operator.start_redrive(all(), 300).await.unwrap();
    within("a report", reports.message()).await.unwrap().expect("a report");
    let client = pb::Client { client_id, grants: Some(pb::Grants::default()), ..Default::default() };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["grants".into()] });
    let request = pb::UpdateClientRequest { client: Some(client), update_mask, validate_only: false };
    admin.admin().update_client(request).await.unwrap();
    let removed = Instant::now();
    let status = within("the end", async {
        loop {
            if let Err(status) = reports.message().await {
                break status;
            }
        }
    })
    .await;
    assert_eq!(reason(&status), "SUBSCRIBE_NOT_GRANTED");
    assert!(removed.elapsed() < Duration::from_secs(2), "{:?}", removed.elapsed());
    are_each_in_one_place(&tenant, LETTERS).await;
}

#[tokio::test]
async fn a_redrive_keeps_to_its_rate_reports_its_progress_and_stops_when_it_is_cancelled() {
    let tenant = with_dead(&[("jobs", 60)]).await;
    let begun = Instant::now();
    let mut reports = tenant.start_redrive(all(), 10).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let report = within("a report", reports.message()).await.unwrap().expect("another report");
        assert!(
            report.redriven as f64 <= begun.elapsed().as_secs_f64() * 10.0 + 2.0,
            "{report:?} after {:?}",
            begun.elapsed()
        );
        assert_eq!(report.redriven + report.remaining, 60, "{report:?}");
        seen.push(report.redriven);
    }
    assert!(seen.is_sorted() && seen[2] < 60, "{seen:?}");
    drop(reports);
    // The messages in flight are finished and the others are kept: none is lost and none is in both places.
    let left = until("the end of the redrive", async || {
        let before = tenant.dead_letters().await.len();
        let after = tenant.dead_letters().await.len();
        (before == after && tenant.depth("jobs").await as usize + after == 60).then_some(after)
    })
    .await;
    assert!(left > 0 && left < 60, "{left}");
    let again = tenant.redrive(all()).await;
    assert_eq!((again.redriven as usize, again.failed), (left, 0));
    tenant.has_depth("jobs", 60).await;
    assert_eq!(tenant.dead_letters().await, []);
}

#[tokio::test]
async fn purging_deletes_exactly_the_selection() {
    let tenant = with_dead(&[("first", 4), ("second", 3)]).await;
    let whole = tenant.dead_letters().await;
    assert_eq!(tenant.purge_dead(these([&whole[0]])).await, 1);
    assert_eq!(tenant.purge_dead(filtered(of_queue("second"))).await, 3);
    let left = tenant.dead_letters().await;
    assert!(left.len() == 3 && left.iter().all(|letter| letter.queue == "first"), "{left:?}");
    assert_eq!(tenant.purge_dead(all()).await, 3);
    assert_eq!(tenant.dead_letters().await, []);
    // An empty selection does not select everything.
    for selection in [pb::DeadLetterSelection::default(), filtered(DeadLetterFilter::default())] {
        let request = pb::PurgeDeadLettersRequest { selection: Some(selection) };
        let status = tenant.client.topology().purge_dead_letters(request).await.expect_err("refused");
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "selection"));
    }
}

#[tokio::test]
async fn dead_letters_are_for_clients_that_may_subscribe_to_their_queue() {
    let tenant = with_dead(&[("mine", 2), ("theirs", 3)]).await;
    let shared = SharedStack::get();
    let grants = pb::Grants { subscribe: vec!["mine".into()], ..all_grants() };
    let (client_id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "narrow", grants).await;
    let client = shared.client(&client_id, &secret).await;
    let narrow = Tenant { id: tenant.id.clone(), client_id, secret, client };
    assert!(narrow.has_dead_letters(2).await.iter().all(|letter| letter.queue == "mine"));
    let theirs = tenant.dead_letters().await.into_iter().find(|letter| letter.queue == "theirs").unwrap();
    for selection in [these([&theirs]), filtered(of_queue("theirs"))] {
        assert_eq!(narrow.redrive(selection.clone()).await, pb::RedriveDeadLettersResponse::default());
        assert_eq!(narrow.purge_dead(selection).await, 0);
    }
    assert_eq!(narrow.redrive(all()).await.redriven, 2);
    assert_eq!(narrow.dead_letters().await, []);
    assert_eq!(tenant.dead_letters().await.len(), 3);
    // Another tenant's do not exist.
    let other = with_dead(&[("mine", 1)]).await;
    assert_eq!(other.redrive(these([&theirs])).await, pb::RedriveDeadLettersResponse::default());
    assert_eq!(other.purge_dead(these([&theirs])).await, 0);
    assert_eq!(other.dead_letters().await.len(), 1);
    assert_eq!(tenant.dead_letters().await.len(), 3);
    // A client without any subscribe grant is refused.
    let grants = pb::Grants { subscribe: Vec::new(), ..all_grants() };
    let (client_id, secret) = Tenant::add_client(&shared.admin().await, &tenant.id, "none", grants).await;
    let client = shared.client(&client_id, &secret).await;
    let mut topology = client.topology();
    let listed = topology.list_dead_letters(pb::ListDeadLettersRequest::default()).await.expect_err("not granted");
    let purge = pb::PurgeDeadLettersRequest { selection: Some(all()) };
    let purged = topology.purge_dead_letters(purge).await.expect_err("not granted");
    let redrive = pb::RedriveDeadLettersRequest { selection: Some(all()), ..Default::default() };
    let redriven = topology.redrive_dead_letters(redrive).await.expect_err("not granted");
    for status in [listed, purged, redriven] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "SUBSCRIBE_NOT_GRANTED"));
    }
}
