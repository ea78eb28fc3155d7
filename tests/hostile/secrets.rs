//! A tenant that floods secret checks, rotations and declarations, and the tokens and declarations of another tenant.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use warrengate::pb;

use crate::{
    Scale,
    environment::{Environment, Tenant, all_grants, issue_token},
    report::{Report, percentile},
};

/// The number of concurrent callers.
const CALLERS: usize = 40;
const ALONE: Duration = Duration::from_secs(3);

pub async fn floods(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let attacker = environment.tenant().await;
    let control = {
        let of = Arc::clone(environment);
        Arc::new(environment.undisturbed(async move || of.tenant().await).await)
    };
    let grants = pb::Grants { administer: true, ..all_grants() };
    let administrator = environment.connect(&environment.client_of(&attacker.id, "administrator", grants).await).await;
    let rotated = environment.client_of(&attacker.id, "rotated", all_grants()).await;

    let alone = percentile(&measure(environment, &control, ALONE, token).await, 99.0);
    let flood = spawn(async || {
        let (client, credentials) = (attacker.client.clone(), attacker.credentials.clone());
        move || {
            let (client, credentials) = (client.clone(), credentials.clone());
            async move { drop(issue_token(&client, &credentials).await) }
        }
    })
    .await;
    check("right secrets", "token", alone, measure(environment, &control, scale.flood, token).await, report);
    drop(flood);

    let flood = spawn(async || {
        let (client, id) = (administrator.clone(), rotated.0.clone());
        move || {
            let (client, client_id) = (client.clone(), id.clone());
            async move {
                let request = pb::RotateClientSecretRequest { client_id, overlap: None };
                drop(client.admin().rotate_client_secret(request).await);
            }
        }
    })
    .await;
    check("rotations", "token", alone, measure(environment, &control, scale.flood, token).await, report);
    drop(flood);

    let alone = percentile(&measure(environment, &control, ALONE, declaration).await, 99.0);
    let flood = spawn(async || {
        let client = attacker.client.clone();
        move || {
            let client = client.clone();
            async move { drop(declare(&client).await) }
        }
    })
    .await;
    check("declarations", "declaration", alone, measure(environment, &control, scale.flood, declaration).await, report);
    drop(flood);
}

fn check(flood: &str, what: &str, alone: f64, during: Vec<f64>, report: &mut Report) {
    let attack = format!("flood of {flood}");
    let refused = during.iter().filter(|took| took.is_infinite()).count();
    let text = format!("{refused} of {}", during.len());
    report.must(&attack, &format!("no {what} of another tenant is refused"), text, refused == 0);
    let p99 = percentile(&during, 99.0);
    let bound = format!("another tenant's {what}: p99 at most twice that before");
    report.time(&attack, &bound, format!("{p99:.0} ms, {alone:.0} ms before"), p99 <= 2.0 * alone);
}

/// Callers that run until the result is dropped.
async fn spawn<C, F>(mut caller: impl AsyncFnMut() -> C) -> JoinSet<()>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let call = caller().await;
        callers.spawn(async move {
            loop {
                call().await;
            }
        });
    }
    callers
}

async fn measure<F: Future<Output = f64>>(
    environment: &Environment,
    control: &Arc<Tenant>,
    time: Duration,
    one: impl Fn(Arc<Tenant>) -> F + Send + 'static,
) -> Vec<f64> {
    let control = Arc::clone(control);
    let measuring = async move || {
        let end = Instant::now() + time;
        let mut took = Vec::new();
        while Instant::now() < end {
            took.push(one(Arc::clone(&control)).await);
            // A client needs few tokens, and may fetch 20 a second.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        took
    };
    environment.undisturbed(measuring).await
}

/// How long a token takes, in milliseconds; infinite when it is refused.
async fn token(tenant: Arc<Tenant>) -> f64 {
    let began = Instant::now();
    let answer = issue_token(&tenant.client, &tenant.credentials).await;
    if answer.is_ok() { began.elapsed().as_secs_f64() * 1e3 } else { f64::INFINITY }
}

async fn declaration(tenant: Arc<Tenant>) -> f64 {
    let began = Instant::now();
    let answer = declare(&tenant.client).await;
    if answer.is_ok() { began.elapsed().as_secs_f64() * 1e3 } else { f64::INFINITY }
}

async fn declare(client: &warrengate::client::Client) -> Result<(), tonic::Status> {
    let exchange = pb::Exchange { name: "orders".into(), r#type: pb::ExchangeType::Topic.into(), ..Default::default() };
    let request = pb::DeclareExchangeRequest { exchange: Some(exchange), validate_only: false };
    client.topology().declare_exchange(request).await.map(drop)
}
