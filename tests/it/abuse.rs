//! A flood of wrong secrets, from a stranger's address and from a neighbour's: who was right before goes on to get tokens, and
//! open streams go on. 2,000 of them here; `WARRENGATE_TEST_WRONG_SECRETS=10000` makes it the whole promise.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;
use warrengate::pb::{self, auth_client::AuthClient};

use crate::harness::{
    Tenant,
    raw::{RawPublish, reason},
    to_queue, web,
};

async fn ask(channel: &Channel, client_id: &str, secret: &str) -> Result<(), Status> {
    let request = pb::IssueTokenRequest { client_id: client_id.into(), client_secret: secret.into(), lifetime: None };
    AuthClient::new(channel.clone()).issue_token(request).await.map(drop)
}

#[tokio::test]
async fn a_flood_of_wrong_secrets_is_shed_and_who_was_right_before_gets_its_tokens() {
    let flood: usize =
        std::env::var("WARRENGATE_TEST_WRONG_SECRETS").ok().and_then(|number| number.parse().ok()).unwrap_or(2_000);
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let gateway = web::gateway(|_| {}).await;
    let (near, far) = (gateway.channel().await, web::channel_from(&gateway.endpoint(), [127, 0, 0, 2].into()).await);
    let right = tenant.secret.expose_secret();
    ask(&near, &tenant.client_id, right).await.unwrap();
    let token = gateway.token(&tenant.client_id, &tenant.secret).await;
    let mut stream = gateway.publish_stream(&token).await;
    let alone = rate(&mut stream, Duration::from_secs(2)).await;

    let (wrong, shed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let attackers: Vec<_> = (0..8)
        .map(|attacker| {
            // Half of them guess at this client from elsewhere, half try all kinds of ids from its own address.
            let (channel, client) =
                if attacker % 2 == 0 { (far.clone(), tenant.client_id.clone()) } else { (near.clone(), String::new()) };
            let (wrong, shed) = (Arc::clone(&wrong), Arc::clone(&shed));
            tokio::spawn(async move {
                for number in 0..flood / 8 {
                    let id = if client.is_empty() { format!("nobody-{attacker}-{number}") } else { client.clone() };
                    let status = ask(&channel, &id, "wgs_wrong").await.expect_err("refused");
                    match (status.code(), reason(&status).as_str()) {
                        (Code::Unauthenticated, "CLIENT_UNKNOWN_OR_SECRET_WRONG") => {
                            wrong.fetch_add(1, Ordering::Relaxed)
                        }
                        (Code::ResourceExhausted, "TOO_MANY_WRONG_SECRETS" | "TOO_MANY_SECRET_CHECKS") => {
                            assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
                            shed.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => panic!("{status:?}"),
                    };
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    let mut beside = Vec::new();
    while attackers.iter().any(|attacker| !attacker.is_finished()) {
        let asked = Instant::now();
        ask(&near, &tenant.client_id, right).await.expect("a token for who was right before");
        took.push(asked.elapsed());
        beside.push(rate(&mut stream, Duration::from_millis(100)).await);
    }
    for attacker in attackers {
        attacker.await.unwrap();
    }
    took.sort();
    let (wrong, shed) = (wrong.load(Ordering::Relaxed), shed.load(Ordering::Relaxed));
    let (p99, slowest) = (took[took.len() * 99 / 100], took[took.len() - 1]);
    let beside = beside.iter().sum::<f64>() / beside.len() as f64;
    eprintln!(
        "{} wrong secrets in {:?}: {wrong} looked at, {shed} shed; {} tokens beside them, p99 {p99:?}, slowest {slowest:?}; an open \
         stream {beside:.0} messages/s beside {alone:.0} alone",
        wrong + shed,
        began.elapsed(),
        took.len(),
    );
    assert!(wrong < shed, "{wrong} looked at, {shed} shed");
    assert!(p99 < Duration::from_secs(2), "{p99:?}");
    gateway.running.shutdown().await;
}

/// Messages a second, one at a time.
async fn rate(stream: &mut RawPublish, time: Duration) -> f64 {
    let began = Instant::now();
    let mut count = 0.0;
    while began.elapsed() < time {
        let result = stream.publish(to_queue("jobs", "one")).await.unwrap();
        assert_eq!(result.outcome(), pb::Outcome::Confirmed);
        count += 1.0;
    }
    count / began.elapsed().as_secs_f64()
}
