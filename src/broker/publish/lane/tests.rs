//! A lane whose task panics. Nothing is connected: the messages wait for a broker that cannot be reached.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;

use super::{super::publisher::Publisher, Lanes, PendingPublish, PublishStatus, start};
use crate::{
    broker::connection::{context::ConnectionContext, tenant_connections::TenantConnections},
    config::{BrokerConfig, Endpoint},
    names::TenantId,
    pb,
    pki::{Authority, TenantCertificates},
};

/// Longer than the test.
const DEADLINE: Duration = Duration::from_secs(3600);

/// Panics in the task that wakes it: the lane's.
struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("as intended by the test");
    }
}

fn lanes(failed: watch::Sender<bool>) -> Arc<Lanes> {
    let options = BrokerConfig {
        // Nothing listens on the discard port.
        endpoints: vec![Endpoint { host: "localhost".into(), port: 9 }],
        ca_certificate: "unused".into(),
        ca_key: "unused".into(),
        heartbeat: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(1),
        publish_deadline: DEADLINE,
        idle_timeout: Duration::from_secs(60),
        certificate_lifetime: Duration::from_secs(3600),
        reconcile_interval: Duration::from_secs(3600),
    };
    let authority = Arc::new(Authority::generate("test broker CA", 1).expect("an authority"));
    let certificates = Arc::new(TenantCertificates::new(authority, Duration::from_secs(3600)));
    let metrics = crate::telemetry::Metrics::default();
    let context = ConnectionContext::new(options, certificates, Arc::clone(metrics.process())).expect("a context");
    let tenant = TenantId::parse("acme").expect("a tenant");
    let connections = Arc::new(TenantConnections::new(tenant, &Arc::new(context)));
    Arc::new(Lanes::new(connections, DEADLINE, Duration::from_secs(5), start, failed))
}

fn message(order: u64) -> PendingPublish {
    let mut publication = pb::Publication {
        routing_key: "jobs".into(),
        message: Some(pb::Message { body: "x".into(), ..pb::Message::default() }),
        ..pb::Publication::default()
    };
    PendingPublish::check(order, 1, &mut publication, SystemTime::now()).expect("valid")
}

async fn within<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), event).await.expect("an outcome within a minute")
}

#[tokio::test]
async fn a_panic_of_a_lane_settles_all_its_messages_as_unknown_and_is_reported() {
    let failed = watch::Sender::new(false);
    let lanes = lanes(failed.clone());
    let (mut first, mut second) = (Publisher::new(Arc::clone(&lanes)), Publisher::new(Arc::clone(&lanes)));
    first.push(vec![message(0)]);
    second.push(vec![message(0), message(1)]);
    {
        // The lane panics when it reports the outcome.
        let mut abandoned: BoxFuture<'_, _> = first.abandon().boxed();
        let waker = Waker::from(Arc::new(PanicsWhenWoken));
        assert!(abandoned.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    }
    let outcomes = within(second.settled()).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        assert!(
            matches!(&outcome.status, PublishStatus::Unknown(failure) if failure.reason == "INTERNAL"),
            "{outcome:?}"
        );
    }
    assert!(*failed.borrow(), "the failed task is reported");
    let mut third = Publisher::new(lanes);
    third.push(vec![message(0)]);
    let outcomes = within(third.abandon()).await;
    assert!(
        matches!(&outcomes[0].status, PublishStatus::Rejected(failure) if failure.reason == "DRAINING"),
        "another lane serves publishers that join later: {outcomes:?}"
    );
}
