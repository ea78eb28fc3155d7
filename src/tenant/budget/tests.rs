//! Tests of budgets, without a store or a broker.

use futures_util::FutureExt as _;

use super::*;
use crate::{names::TenantId, pb, tenant::state::TenantEntry};

fn plan(limits: pb::Plan) -> Arc<Plan> {
    Arc::new(Plan::parse(&pb::Plan { name: "gold".into(), ..limits }).expect("a plan"))
}

fn budget(limits: pb::Plan) -> Budget {
    Budget::next(None, plan(limits))
}

fn rate(messages: u32, burst: u32) -> pb::Plan {
    pb::Plan { max_publish_messages_per_second: messages, publish_messages_burst: burst, ..Default::default() }
}

fn bytes(rate: u64, burst: u64, message: u64) -> pb::Plan {
    pb::Plan {
        max_publish_bytes_per_second: rate,
        publish_bytes_burst: burst,
        max_message_bytes: message,
        ..Default::default()
    }
}

/// Checks messages of these sizes in one frame; returns the limits that refused them and the times to wait.
fn ask(budget: &Budget, sizes: &[usize]) -> Vec<Option<(Limit, Duration)>> {
    let mut check = budget.rate_check(sizes.len(), sizes.iter().map(|size| *size as u64).sum());
    sizes
        .iter()
        .map(|size| match check.take(*size) {
            Ok(()) => None,
            Err(Error::Throttled { limit, retry_after }) => Some((limit, retry_after)),
            Err(other) => panic!("{other}"),
        })
        .collect()
}

fn taken(answers: &[Option<(Limit, Duration)>]) -> usize {
    answers.iter().filter(|answer| answer.is_none()).count()
}

#[test]
fn an_unlimited_plan_refuses_nothing() {
    let budget = budget(pb::Plan::default());
    assert_eq!(taken(&ask(&budget, &[1 << 30; 1000])), 1000);
    assert!(!budget.rate_check(1, 1).is_throttled());
}

#[test]
fn a_burst_is_accepted_and_each_further_message_gets_the_time_after_which_it_fits() {
    // One message in ten seconds, so that the duration of this test does not matter.
    let budget = budget(pb::Plan { ..rate(1, 10) });
    let answers = ask(&budget, &[5; 13]);
    assert_eq!(taken(&answers), 10);
    let waits: Vec<_> = answers.into_iter().flatten().collect();
    assert!(waits.iter().all(|(limit, _)| *limit == Limit::MessageRate));
    for (number, (_, wait)) in (1..).zip(&waits) {
        let at_most = Duration::from_secs(number);
        assert!(*wait <= at_most && *wait > at_most - Duration::from_millis(900), "{number}: {wait:?}");
    }
}

#[test]
fn a_frame_that_exceeds_the_rate_takes_it_only_for_the_accepted_messages() {
    let budget = budget(pb::Plan { ..rate(1, 10) });
    assert_eq!(taken(&ask(&budget, &[0; 8])), 8);
    assert_eq!(taken(&ask(&budget, &[0; 8])), 2);
    assert_eq!(taken(&ask(&budget, &[0; 8])), 0);
}

#[test]
fn messages_are_not_counted_twice_when_the_bytes_of_their_frame_exceed_the_rate() {
    let both = pb::Plan { max_publish_messages_per_second: 1, publish_messages_burst: 10, ..bytes(1, 100, 100) };
    let budget = budget(both);
    // All ten messages were taken at once, and five of them fit the byte rate.
    let answers = ask(&budget, &[20; 10]);
    assert_eq!(taken(&answers), 5);
    assert!(answers.into_iter().flatten().all(|(limit, _)| limit == Limit::ByteRate));
    // The others took nothing from the message rate.
    assert_eq!(taken(&ask(&budget, &[0; 10])), 5);
}

#[test]
fn the_largest_message_fits_into_the_smallest_burst_and_an_empty_one_takes_no_bytes() {
    let budget = budget(bytes(1, 1000, 1000));
    assert_eq!(taken(&ask(&budget, &[1000])), 1);
    assert_eq!(taken(&ask(&budget, &[1])), 0);
    assert_eq!(taken(&ask(&budget, &[0, 0])), 2);
}

#[test]
fn a_message_refused_by_one_rate_takes_nothing_from_the_other() {
    let both = pb::Plan { max_publish_messages_per_second: 1, publish_messages_burst: 4, ..bytes(1, 100, 100) };
    let budget = budget(both);
    assert_eq!(taken(&ask(&budget, &[90])), 1);
    for _ in 0..10 {
        assert_eq!(ask(&budget, &[50])[0].map(|(limit, _)| limit), Some(Limit::ByteRate));
    }
    assert_eq!(taken(&ask(&budget, &[0; 5])), 3);
    // And vice versa.
    for _ in 0..10 {
        assert_eq!(ask(&budget, &[10])[0].map(|(limit, _)| limit), Some(Limit::MessageRate));
    }
    assert!(budget.bytes.as_ref().expect("a bucket").take(10).is_ok());
}

#[test]
fn stored_bytes_include_the_average_size_of_headers() {
    let budget = budget(pb::Plan { max_stored_bytes: 10_000, ..Default::default() });
    for _ in 0..100 {
        budget.rate_check(100, 0).count(100, 100_000, 0);
    }
    budget.used().set_stored(9, 0);
    assert_eq!(taken(&ask(&budget, &[1])), 1);
    // A thousand bytes each, none of which the broker counts.
    budget.used().set_stored(11, 0);
    assert_eq!(ask(&budget, &[1]), [Some((Limit::StoredBytes, STORED_INTERVAL))]);
}

#[test]
fn large_rates_are_exact_to_one_percent() {
    for rate in [1_000, 999_983, 67_108_864, 10_000_000_000, 1 << 40] {
        let bucket = Bucket::next(None, (rate, rate)).expect("a bucket");
        for second in [bucket.time(rate), bucket.fill_time()] {
            assert!((0.99..=1.01).contains(&second.as_secs_f64()), "{rate}: {second:?}");
        }
    }
    assert!(Bucket::next(None, (0, 0)).is_none());
}

#[test]
fn a_plan_with_the_same_rate_grants_no_second_burst_and_a_larger_rate_applies_at_once() {
    let first = budget(rate(1, 5));
    assert_eq!(taken(&ask(&first, &[0; 9])), 5);
    let same = Budget::next(Some(&first), plan(pb::Plan { max_streams: 1, ..rate(1, 5) }));
    assert_eq!(taken(&ask(&same, &[0; 9])), 0);
    let larger = Budget::next(Some(&same), plan(rate(1, 7)));
    assert_eq!(taken(&ask(&larger, &[0; 9])), 7);
}

#[test]
fn a_tenant_at_its_storage_limit_cannot_publish_until_it_stores_less() {
    let budget = budget(pb::Plan { max_stored_messages: 10, max_stored_bytes: 100, ..Default::default() });
    assert_eq!(taken(&ask(&budget, &[1])), 1);
    budget.used().set_stored(10, 0);
    assert_eq!(ask(&budget, &[1]), [Some((Limit::StoredMessages, STORED_INTERVAL))]);
    budget.used().set_stored(9, 100);
    assert_eq!(ask(&budget, &[0]), [Some((Limit::StoredBytes, STORED_INTERVAL))]);
    budget.used().set_stored(9, 99);
    assert_eq!(taken(&ask(&budget, &[1])), 1);
}

#[test]
fn no_bucket_fills_up_during_a_pause() {
    assert_eq!(budget(rate(10, 10)).pause(), MAX_PAUSE);
    assert!(budget(rate(100_000, 100)).pause() < Duration::from_millis(1));
}

fn tenant(messages: u32, bytes: u64) -> Arc<TenantEntry> {
    let limits = pb::Plan { max_in_flight_messages: messages, max_in_flight_bytes: bytes, ..Default::default() };
    Arc::new(TenantEntry::new(TenantId::parse("acme").expect("an id"), plan(limits), None))
}

fn usage(tenant: &TenantEntry) -> (u64, u64) {
    let usage = tenant.used().usage();
    (usage.in_flight_messages, usage.in_flight_bytes)
}

#[tokio::test]
async fn permits_are_shared_by_the_tenants_streams_and_returned_when_messages_settle() {
    let tenant = tenant(10, 0);
    let (mut one, mut two) = (InFlightPermit::new(tenant.clone()), InFlightPermit::new(tenant.clone()));
    assert_eq!(one.take(0, [5; 8].into_iter()), 8);
    assert_eq!(two.take(0, [5; 8].into_iter()), 2);
    assert_eq!(usage(&tenant), (10, 50));
    assert!(two.wait(2, 5).now_or_never().is_none());
    one.settled([(0, 5)].into_iter());
    assert!(two.wait(2, 5).now_or_never().is_some(), "its position was kept");
    drop((one, two));
    assert_eq!(usage(&tenant), (0, 0));
    let mut three = InFlightPermit::new(tenant);
    assert_eq!(three.take(0, [5; 10].into_iter()), 10);
}

#[tokio::test]
async fn bytes_in_flight_are_limited_and_a_message_that_exceeds_the_limit_is_sent_alone() {
    let tenant = tenant(0, 100);
    let mut permit = InFlightPermit::new(tenant.clone());
    assert_eq!(permit.take(0, [40; 3].into_iter()), 2);
    permit.settled([(0, 40), (1, 40)].into_iter());
    assert_eq!(permit.take(2, [5000].into_iter()), 1);
    assert_eq!(permit.take(3, [1].into_iter()), 0);
    permit.settled([(2, 5000)].into_iter());
    assert_eq!(permit.take(3, [100].into_iter()), 1);
    assert_eq!(usage(&tenant), (1, 100));
}

#[tokio::test]
async fn permits_are_granted_in_the_order_of_requests() {
    let tenant = tenant(1, 0);
    let (mut busy, mut patient) = (InFlightPermit::new(tenant.clone()), InFlightPermit::new(tenant));
    assert_eq!(busy.take(0, [1].into_iter()), 1);
    assert!(patient.wait(0, 1).now_or_never().is_none());
    busy.settled([(0, 1)].into_iter());
    assert_eq!(busy.take(1, [1].into_iter()), 0, "the permit belongs to the waiting stream");
    assert!(patient.wait(0, 1).now_or_never().is_some());
}

#[tokio::test]
async fn a_changed_limit_wakes_waiting_streams_and_earlier_messages_do_not_count_against_it() {
    let tenant = tenant(2, 0);
    let mut permit = InFlightPermit::new(tenant.clone());
    assert_eq!(permit.take(0, [1; 5].into_iter()), 2);
    let waiting = async { permit.wait(2, 1).await };
    let change = async {
        tenant.set_plan(plan(pb::Plan { max_in_flight_messages: 3, ..Default::default() }));
    };
    tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(waiting, change) }).await.expect("woken");
    // The two earlier permits return to the old limiter; one of the three new ones is taken.
    permit.settled([(0, 1), (1, 1)].into_iter());
    assert_eq!(permit.take(3, [1; 5].into_iter()), 2);
    assert_eq!(usage(&tenant), (3, 3));
    permit.settled([(2, 1), (3, 1), (4, 1)].into_iter());
    assert_eq!(usage(&tenant), (0, 0));
}
