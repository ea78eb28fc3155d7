//! A table of every limit of a plan: a tenant that exceeds it tenfold is refused with the right reason, and a stream of
//! another tenant continues.
//!
//! Times are not checked here; `warrengate-bench --scenario limits` measures them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tonic::{Code, Status};
use warrengate::pb::{self, Outcome, PublishResult};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, amqp, certificate_of, tls},
    plans::{limited, meters},
    publisher::RawPublisher,
    raw::{RawPublish, reason},
    tenant::all_grants,
    to_queue,
    wait::{until, within},
};

/// The effect of reaching a limit.
enum Effect {
    /// Messages are throttled, with this reason.
    Throttled(&'static str),
    /// Messages are rejected, with this reason.
    Rejected(&'static str),
    /// Calls are refused, with this reason.
    Refused(&'static str),
    /// Messages wait until there is capacity.
    Waits,
    /// The broker refuses it.
    AtTheBroker,
}

struct Case {
    limit: &'static str,
    plan: pb::Plan,
    effect: Effect,
}

fn cases() -> Vec<Case> {
    let plan = pb::Plan::default;
    let case = |limit, plan, effect| Case { limit, plan, effect };
    vec![
        case(
            "max_publish_messages_per_second",
            pb::Plan { max_publish_messages_per_second: 10, publish_messages_burst: 10, ..plan() },
            Effect::Throttled("MESSAGE_RATE"),
        ),
        case(
            "max_publish_bytes_per_second",
            pb::Plan {
                max_message_bytes: 2_000,
                max_publish_bytes_per_second: 10_000,
                publish_bytes_burst: 10_000,
                ..plan()
            },
            Effect::Throttled("BYTE_RATE"),
        ),
        case(
            "max_stored_messages",
            pb::Plan { max_stored_messages: 10, ..plan() },
            Effect::Throttled("STORED_MESSAGES"),
        ),
        case("max_stored_bytes", pb::Plan { max_stored_bytes: 10_000, ..plan() }, Effect::Throttled("STORED_BYTES")),
        case("max_message_bytes", pb::Plan { max_message_bytes: 100, ..plan() }, Effect::Rejected("MESSAGE_TOO_LARGE")),
        case("max_in_flight_messages", pb::Plan { max_in_flight_messages: 5, ..plan() }, Effect::Waits),
        case(
            "max_in_flight_bytes",
            pb::Plan { max_message_bytes: 1_000, max_in_flight_bytes: 5_000, ..plan() },
            Effect::Waits,
        ),
        case("max_streams", pb::Plan { max_streams: 3, ..plan() }, Effect::Refused("TOO_MANY_STREAMS")),
        case("max_queues", pb::Plan { max_queues: 2, ..plan() }, Effect::Refused("TOO_MANY_QUEUES")),
        case("max_exchanges", pb::Plan { max_exchanges: 2, ..plan() }, Effect::Refused("TOO_MANY_EXCHANGES")),
        case("max_bindings", pb::Plan { max_bindings: 2, ..plan() }, Effect::Refused("TOO_MANY_BINDINGS")),
        case("max_clients", pb::Plan { max_clients: 2, ..plan() }, Effect::Refused("TOO_MANY_CLIENTS")),
        case("max_connections", pb::Plan { max_connections: 3, ..plan() }, Effect::AtTheBroker),
    ]
}

/// A tenant within its plan, whose messages are confirmed one after the other on one stream.
struct Quiet {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Quiet {
    async fn start() -> Self {
        let tenant = Tenant::fresh().await;
        tenant.queue("jobs").await;
        let mut stream = RawPublish::open(&tenant.client).await.unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let result =
                        stream.publish(to_queue("jobs", "within its plan")).await.expect("its stream continues");
                    assert_eq!(result.outcome(), Outcome::Confirmed, "{}", result.reason);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, sent, task }
    }

    /// Waits until further messages are confirmed.
    async fn continues(&self, limit: &str) {
        let before = self.sent.load(Ordering::Relaxed);
        until(&format!("the other tenant continues during {limit}"), async || {
            assert!(!self.task.is_finished(), "{limit}: its stream has ended");
            (self.sent.load(Ordering::Relaxed) > before + 5).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        within("the other tenant's end", self.task).await.unwrap();
    }
}

/// Publishes a hundred messages of 1,000 bytes on one stream: ten times the limits of the table.
async fn hundred(tenant: &Tenant) -> Vec<PublishResult> {
    let mut stream = RawPublisher::open(&tenant.client).await;
    let mut results = Vec::new();
    for _ in 0..10 {
        stream.send((0..10).map(|_| to_queue("jobs", vec![b'x'; 1_000])).collect()).await;
        results.extend(stream.results(10).await);
    }
    results
}

/// Requests twenty of the counted resource; returns how many were refused, each with the expected reason.
async fn twenty(limit: &str, tenant: &Tenant, wanted: &str) -> usize {
    let admin = SharedStack::get().admin().await;
    let mut outstanding = Vec::new();
    let mut refused = 0;
    for number in 0..20 {
        let name = format!("n{number}");
        let mut topology = tenant.client.topology();
        let asked: Result<(), Status> = match limit {
            "max_streams" => RawPublisher::try_open(&tenant.client).await.map(|stream| outstanding.push(stream)),
            "max_queues" => {
                let queue = Some(pb::Queue { name, ..Default::default() });
                topology.declare_queue(pb::DeclareQueueRequest { queue, validate_only: false }).await.map(drop)
            }
            "max_exchanges" => {
                let exchange =
                    Some(pb::Exchange { name, r#type: pb::ExchangeType::Topic.into(), ..Default::default() });
                let request = pb::DeclareExchangeRequest { exchange, validate_only: false };
                topology.declare_exchange(request).await.map(drop)
            }
            "max_bindings" => {
                let binding = Some(pb::Binding {
                    source: "amq.topic".into(),
                    destination: "jobs".into(),
                    routing_key: name,
                    ..Default::default()
                });
                topology.bind(pb::BindRequest { binding }).await.map(drop)
            }
            "max_clients" => {
                let client_id = format!("{}.{name}", tenant.id);
                let client = Some(pb::Client { client_id, grants: Some(all_grants()), ..Default::default() });
                let request = pb::CreateClientRequest { client, ..Default::default() };
                admin.admin().create_client(request).await.map(drop)
            }
            other => panic!("{other} is not a counted resource"),
        };
        if let Err(status) = asked {
            let got = (status.code(), reason(&status));
            assert_eq!((got.0, got.1.as_str()), (Code::ResourceExhausted, wanted), "{limit}: {status:?}");
            refused += 1;
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_each_limit_is_refused_with_its_reason_without_effect_on_another_tenant() {
    let quiet = Quiet::start().await;
    for Case { limit, plan, effect } in cases() {
        let tenant = limited(plan).await;
        tenant.queue("jobs").await;
        let over = async |wanted: Outcome, reason: &str| {
            until(&format!("{limit} is reached"), async || {
                let results = hundred(&tenant).await;
                let over: Vec<_> = results.iter().filter(|result| result.outcome() != Outcome::Confirmed).collect();
                let as_it_should = |result: &&&PublishResult| {
                    result.outcome() == wanted && result.reason.starts_with(&format!("{reason}: "))
                };
                (over.iter().filter(as_it_should).count() >= 10).then_some(over.len())
            })
            .await
        };
        let refused = match effect {
            Effect::Throttled(reason) => over(Outcome::Throttled, reason).await,
            Effect::Rejected(reason) => over(Outcome::Rejected, reason).await,
            Effect::Refused(reason) => {
                let refused = twenty(limit, &tenant, reason).await;
                assert!((17..20).contains(&refused), "{limit}: {refused} of 20");
                refused
            }
            Effect::Waits => {
                // Published until messages in flight were observed; they never exceed the limit.
                let mut most = 0;
                while most == 0 {
                    let mut publishing = std::pin::pin!(hundred(&tenant));
                    let results = loop {
                        tokio::select! {
                            results = &mut publishing => break results,
                            meters = meters(&tenant) => {
                                let (used, allowed) = meters[limit];
                                assert!(used <= allowed, "{limit}: {used} of {allowed}");
                                most = most.max(used);
                            }
                        }
                    };
                    assert!(
                        results.iter().all(|result| result.outcome() == Outcome::Confirmed),
                        "{limit}: {results:?}"
                    );
                }
                let (used, allowed) = meters(&tenant).await[limit];
                assert!(used == 0 && allowed > 0, "{limit}: {used} of {allowed}");
                0
            }
            Effect::AtTheBroker => {
                let leaf = certificate_of(&tenant.id);
                let (mut open, mut refused) = (Vec::new(), 0);
                for _ in 0..20 {
                    match amqp(tls(Some(&leaf)), &format!("wg.{}", tenant.id), Login::External).await {
                        Ok(connection) => open.push(connection),
                        Err(error) => {
                            assert!(error.to_uppercase().replace('-', "_").contains("NOT_ALLOWED"), "{limit}: {error}");
                            refused += 1;
                        }
                    }
                }
                // The gateway's own connections for the tenant count, too.
                assert!((1..=3).contains(&open.len()), "{limit}: {} of 3", open.len());
                refused
            }
        };
        quiet.continues(limit).await;
        eprintln!("{limit}: {refused} refused, the other tenant continues");
    }
    quiet.end().await;
}
