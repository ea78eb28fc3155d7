//! A flood of wrong secrets during streams at full speed: the streams' throughput, the time until a correct secret gets
//! a token, and the gateway's memory. The flood is spread evenly over all kinds of ids, from one address.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use super::{ScenarioReport, named};
use warrengate::{client::Client, pb};

use crate::{
    Error,
    figures::Figure,
    job::{Mode, Path},
    plan::{Cell, Plan, Scenario},
    rig::Rig,
    rounds::{Setting, Shape, line, run},
};

/// About 10,000 in 30 s.
const INTERVAL: Duration = Duration::from_millis(3);
/// The pause between two correct secrets.
const CORRECT_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let cell = Cell { mode: Mode::Both, tenants: 1, streams: 1, ..plan.first_cell() };
    let setting = Setting { plan, cell: &cell, gateway: None, tenants: "bench", load: Shape::default() };
    let (client, administrator) = (rig.admin().clone(), rig.administrator().clone());
    let (mut ratios, mut growth, (durations, mut waits)) = (Vec::new(), Vec::new(), mpsc::unbounded_channel());
    for round in 0..plan.rounds {
        let alone = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
        plan.say(&format!("alone   {}", line(&alone, plan.rounds)));
        let mut others = JoinSet::new();
        others.spawn(flood(client.clone()));
        others.spawn(request_with_correct_secret(client.clone(), administrator.clone(), durations.clone()));
        let flooded = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
        others.shutdown().await;
        plan.say(&format!("flooded {}", line(&flooded, plan.rounds)));
        ratios.push(flooded.messages_per_second / alone.messages_per_second);
        let memory = alone.memory_mib.gateway.zip(flooded.memory_mib.gateway);
        growth.extend(memory.map(|(before, during)| during - before));
    }
    let waits: Vec<f64> = std::iter::from_fn(|| waits.try_recv().ok()).collect();
    let figures = named([
        ("throughput during the flood ÷ alone", "", Figure::of(ratios), "≥ 0.8"),
        ("a token for a correct secret", "ms", Figure::of(waits), "< 2,000"),
        ("the gateway's memory during the flood − alone", "MiB", Figure::of(growth), ""),
    ]);
    let description = format!("{}, through the gateway, alone and with 333 wrong secrets per second", cell.title());
    Ok(ScenarioReport { scenario: Scenario::WrongSecrets, description, figures })
}

/// Requests tokens with wrong secrets at an even pace, regardless of the answers.
async fn flood(client: Client) {
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut requests = JoinSet::new();
    for number in 0_u64.. {
        ticks.tick().await;
        let request = request(&format!("nobody-{number}"), "wgs_wrong");
        let mut auth = client.auth();
        requests.spawn(async move { auth.issue_token(request).await.map(drop) });
        while requests.try_join_next().is_some() {}
    }
}

/// Requests a token with the correct secret at intervals, and reports the milliseconds until each answer.
async fn request_with_correct_secret(
    client: Client,
    (id, secret): (String, SecretString),
    durations: mpsc::UnboundedSender<f64>,
) {
    let mut ticks = tokio::time::interval(CORRECT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        let answer = client.auth().issue_token(request(&id, secret.expose_secret())).await;
        // A refusal counts as the worst possible time.
        let millis = answer.map_or(f64::MAX, |_| sent.elapsed().as_secs_f64() * 1_000.0);
        if durations.send(millis).is_err() {
            return;
        }
    }
}

fn request(id: &str, secret: &str) -> pb::IssueTokenRequest {
    pb::IssueTokenRequest { client_id: id.to_owned(), client_secret: secret.to_owned(), lifetime: None }
}
