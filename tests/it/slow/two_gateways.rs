//! Two gateways on one PostgreSQL: changes propagate, one survives the failure of the other, and during a store outage
//! known clients continue for a limited time while nothing else is allowed.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tonic::Code;
use warrengate::{
    client::{Client, Credentials, SubscribeOptions},
    config::Config,
    gateway::{Gateway, RunningGateway},
    pb::{self, Outcome},
};

use crate::{
    harness::{
        SharedStack, Tenant,
        broker::Management,
        postgres::Postgres,
        proxy::Proxy,
        raw::{RawPublish, reason},
        tenant::all_grants,
        to_queue,
        wait::{until, within},
    },
    slow::rotations::load::under_load,
};

/// Two gateways on the shared broker with a separate store.
struct Pair {
    postgres: Postgres,
    config: Config,
    gateways: Vec<RunningGateway>,
    admin_secret: SecretString,
}

impl Pair {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap().unwrap();
        let mut config = SharedStack::get().stack.config().clone();
        config.grpc.listen.set_port(0);
        config.ops.listen.set_port(0);
        // Each accepts tokens of the other, as in production.
        config.store.url = postgres.url().into();
        change(&mut config);
        let mut first = Gateway::start(config.clone()).await.unwrap();
        let (_, admin_secret) = first.take_first_administrator().expect("the store is new");
        let second = Gateway::start(config.clone()).await.unwrap();
        Self { postgres, config, gateways: vec![first, second], admin_secret }
    }

    async fn client(&self, gateway: usize, id: &str, secret: &SecretString) -> Client {
        let endpoint = format!("https://{}", self.gateways[gateway].grpc_address());
        let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        SharedStack::get().client_at(&endpoint, credentials).await
    }

    async fn admin(&self, gateway: usize) -> Client {
        self.client(gateway, "admin", &self.admin_secret).await
    }

    /// A tenant created through the first gateway and used through the second.
    async fn tenant(&self) -> Tenant {
        let admin = self.admin(0).await;
        Tenant::made_by(&admin, async |id, secret| {
            // The token may be newer than the snapshot of the second gateway, which refuses it until the next poll.
            self.client(1, id, secret).await
        })
        .await
    }

    async fn stop(self) {
        for gateway in self.gateways {
            gateway.shutdown().await;
        }
    }
}

/// Publishes until a message is confirmed, which requires that the gateway has loaded the client.
async fn published(client: &Client, queue: &str) {
    until("a publish", async || {
        let results = client.publish_batch(vec![to_queue(queue, "x")]).await.ok()?;
        (results[0].outcome() == Outcome::Confirmed).then_some(())
    })
    .await;
}

/// Declares a queue once the gateway has loaded the tenant.
async fn declared(tenant: &Tenant, queue: &str) {
    until("a declaration", async || {
        let queue = pb::Queue { name: queue.into(), ..pb::Queue::default() };
        let request = pb::DeclareQueueRequest { queue: Some(queue), validate_only: false };
        tenant.client.topology().declare_queue(request).await.ok().map(drop)
    })
    .await;
}

const REVOCATIONS: usize = 100;
const PROMPT: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "measured figures, for `--nocapture`")]
async fn a_revocation_at_one_gateway_ends_streams_of_the_other_within_a_second_a_hundred_times() {
    let pair = Pair::start(|_| {}).await;
    let tenant = pair.tenant().await;
    declared(&tenant, "jobs").await;
    let admin = pair.admin(0).await;
    let mut took = Vec::new();
    for number in 0..REVOCATIONS {
        let (id, secret) = Tenant::add_client(&admin, &tenant.id, &format!("c{number}"), all_grants()).await;
        let client = pair.client(1, &id, &secret).await;
        published(&client, "jobs").await;
        let mut stream = RawPublish::open(&client).await.unwrap();
        assert_eq!(stream.publish(to_queue("jobs", "x")).await.unwrap().outcome(), Outcome::Confirmed);
        let asked = Instant::now();
        let revoking = async {
            let revoke = pb::RevokeClientRequest { client_id: id.clone() };
            admin.admin().revoke_client(revoke).await.unwrap();
            Instant::now()
        };
        let (answered, (status, ended)) = tokio::join!(revoking, stream.end());
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "CLIENT_REVOKED"), "{status:?}");
        took.push((ended.saturating_duration_since(asked), ended.saturating_duration_since(answered)));
    }
    took.sort();
    let (most, middle) = (took[REVOCATIONS - 1].0, took[REVOCATIONS / 2].0);
    println!(
        "{REVOCATIONS} revocations across gateways: median {} ms, most {} ms",
        middle.as_millis(),
        most.as_millis()
    );
    let late = took.iter().filter(|(_, after_the_answer)| *after_the_answer > PROMPT).count();
    assert_eq!(late, 0, "{took:?}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_certificate_rotated_at_one_gateway_is_renewed_at_the_other_without_ending_streams() {
    let pair = Pair::start(|_| {}).await;
    let tenant = pair.tenant().await;
    declared(&tenant, "load").await;
    let admin = pair.admin(0).await;
    let management = Management::new();
    let connections = async || {
        let all = management.connections(&tenant.id).await;
        all.iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect::<HashSet<_>>()
    };
    under_load(&tenant.client, "load", async {
        let before = until("the connections", async || Some(connections().await).filter(|all| all.len() >= 2)).await;
        let request = pb::RotateBrokerCredentialsRequest { tenant: tenant.id.clone() };
        admin.admin().rotate_broker_credentials(request).await.unwrap();
        until("other connections in place of all", async || {
            let now = connections().await;
            (now.len() >= 2 && now.is_disjoint(&before)).then_some(())
        })
        .await;
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn changes_made_at_one_gateway_survive_its_end() {
    let mut pair = Pair::start(|_| {}).await;
    let tenant = pair.tenant().await;
    declared(&tenant, "jobs").await;
    let admin = pair.admin(0).await;
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "gone", all_grants()).await;
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: id.clone() }).await.unwrap();
    drop(admin);
    pair.gateways.remove(0).shutdown().await;

    published(&tenant.client, "jobs").await;
    let admin = pair.admin(0).await;
    let tenants = admin.admin().list_tenants(pb::ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert!(tenants.iter().any(|row| row.id == tenant.id), "{tenants:?}");
    let filter = pb::ListAuditEventsRequest { tenant: tenant.id.clone(), ..Default::default() };
    let events = admin.admin().list_audit_events(filter).await.unwrap().into_inner().events;
    // Issued tokens are audited, too.
    let acts = events.iter().filter(|event| event.method.contains(".Admin/"));
    let methods: Vec<_> = acts.filter_map(|event| event.method.rsplit('/').next()).collect();
    assert_eq!(methods, ["RevokeClient", "CreateClient", "CreateClient", "CreateTenant"]);
    let request = pb::IssueTokenRequest { client_id: id, client_secret: secret.expose_secret().into(), lifetime: None };
    let endpoint = format!("https://{}", pair.gateways[0].grpc_address());
    let status = crate::harness::web::issue_token(&endpoint, request).await.expect_err("revoked");
    assert_eq!(reason(&status), "INVALID_CLIENT_CREDENTIALS");
    pair.stop().await;
}

/// Publishes numbered messages until stopped, one at a time, and returns the number of those that were confirmed.
async fn publish_numbers(client: Client, confirmed: watch::Sender<u64>) -> u64 {
    let publisher = client.publisher();
    let mut number = 0;
    while !confirmed.is_closed() {
        let receipt = publisher.send(to_queue("jobs", number.to_string())).await.unwrap();
        let result = within("an outcome", receipt).await;
        assert_eq!(result.outcome(), Outcome::Confirmed, "{number}: {result:?}");
        number += 1;
        confirmed.send_replace(number);
    }
    within("the end of the publisher", publisher.close()).await.unwrap();
    number
}

/// Receives and acknowledges messages until each number below the total has come; returns how often each came.
async fn receive_numbers(client: Client, mut total: watch::Receiver<Option<u64>>) -> BTreeMap<u64, usize> {
    let mut subscription = within("a subscription", client.subscribe(SubscribeOptions::queue("jobs"))).await.unwrap();
    let mut received = BTreeMap::new();
    loop {
        if total.borrow().is_some_and(|total| received.len() as u64 >= total) {
            within("the end", subscription.close()).await.unwrap();
            return received;
        }
        tokio::select! {
            delivery = within("a delivery", subscription.next()) => {
                let delivery = delivery.unwrap().expect("the subscription continues");
                let number = std::str::from_utf8(&delivery.message().body).unwrap().parse().unwrap();
                subscription.ack(&delivery).unwrap();
                *received.entry(number).or_default() += 1;
            }
            changed = total.changed() => changed.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_drains_and_replaces_each_gateway_under_load_and_loses_nothing() {
    let mut pair = Pair::start(|_| {}).await;
    let tenant = pair.tenant().await;
    declared(&tenant, "jobs").await;
    // One address for all gateways, as a load balancer has.
    let balancer = Proxy::to(pair.gateways[0].grpc_address().port()).await;
    let endpoint = format!("https://{}", balancer.endpoint());
    let connect = async || {
        let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
        SharedStack::get().client_at(&endpoint, credentials).await
    };
    let (confirmed, mut progress) = watch::channel(0);
    let (total, expected) = watch::channel(None);
    let publishing = tokio::spawn(publish_numbers(connect().await, confirmed));
    let receiving = tokio::spawn(receive_numbers(connect().await, expected));
    let more = async |progress: &mut watch::Receiver<u64>| {
        let wanted = *progress.borrow() + 50;
        within("fifty more messages", progress.wait_for(|confirmed| *confirmed >= wanted)).await.unwrap();
    };
    for index in 0..pair.gateways.len() {
        more(&mut progress).await;
        balancer.forward_to(pair.gateways[1 - index].grpc_address().port());
        let old = pair.gateways.remove(index);
        let (config, before) = (pair.config.clone(), *progress.borrow());
        within("the drain", old.shutdown()).await;
        pair.gateways.insert(index, Gateway::start(config).await.unwrap());
        more(&mut progress).await;
        assert!(*progress.borrow() > before, "messages were published while one gateway was replaced");
        balancer.forward_to(pair.gateways[index].grpc_address().port());
    }
    more(&mut progress).await;
    drop(progress);
    let published = within("the publisher", publishing).await.unwrap();
    total.send_replace(Some(published));
    let received = within("all messages", receiving).await.unwrap();
    let lost: Vec<_> = (0..published).filter(|number| !received.contains_key(number)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let twice = received.values().filter(|times| **times > 1).count();
    eprintln!("{published} messages while both gateways were replaced: none lost, {twice} delivered more than once");
    // Connected to a gateway that is running.
    let client = connect().await;
    let tenant = Tenant { client, ..tenant };
    until("an empty queue", async || (tenant.depth("jobs").await == 0).then_some(())).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_a_store_outage_known_clients_continue_for_a_limited_time_and_nothing_else_is_allowed() {
    let mut pair = Pair::start(|config| config.store.outage_grace = Duration::from_secs(20)).await;
    let tenant = pair.tenant().await;
    declared(&tenant, "jobs").await;
    published(&tenant.client, "jobs").await;
    let admin = pair.admin(1).await;
    let token = admin.token().await.unwrap().is_some();
    assert!(token);
    let mut stream = RawPublish::open(&tenant.client).await.unwrap();

    let away = Instant::now();
    pair.postgres = {
        let mut postgres = pair.postgres;
        tokio::task::spawn_blocking(move || {
            postgres.stop();
            postgres
        })
        .await
        .unwrap()
    };
    assert_eq!(stream.publish(to_queue("jobs", "known")).await.unwrap().outcome(), Outcome::Confirmed);
    let mut another = RawPublish::open(&tenant.client).await.unwrap();
    assert_eq!(another.publish(to_queue("jobs", "known")).await.unwrap().outcome(), Outcome::Confirmed);
    let suspend = pb::SuspendTenantRequest { tenant: tenant.id.clone() };
    let status =
        within("an answer", admin.admin().suspend_tenant(suspend)).await.expect_err("not without an audit record");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"), "{status:?}");
    let endpoint = format!("https://{}", pair.gateways[1].grpc_address());
    let request = pb::IssueTokenRequest {
        client_id: tenant.client_id.clone(),
        client_secret: tenant.secret.expose_secret().into(),
        lifetime: None,
    };
    let status = crate::harness::web::issue_token(&endpoint, request).await.expect_err("the store is unavailable");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    // After that time, streams end and new calls are refused.
    for stream in [&mut stream, &mut another] {
        let (status, _) = stream.end().await;
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "REGISTRY_STALE"), "{status:?}");
    }
    assert!(away.elapsed() >= Duration::from_secs(15), "{:?}", away.elapsed());

    pair.postgres = {
        let mut postgres = pair.postgres;
        tokio::task::spawn_blocking(move || {
            postgres.resume().unwrap();
            postgres
        })
        .await
        .unwrap()
    };
    published(&tenant.client, "jobs").await;
    assert!(pair.config.store.url.expose_secret().starts_with("postgres://"));
    pair.stop().await;
}
