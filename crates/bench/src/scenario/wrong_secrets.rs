//! A flood of wrong secrets beside streams at full speed: the streams' throughput, the time until a correct secret gets
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
    rounds::{Setting, line, run},
};

/// 10,000 in 30 s.
const PACE: Duration = Duration::from_millis(3);
/// Between two right ones.
const RIGHT_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn measure(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let cell = Cell { mode: Mode::Both, tenants: 1, streams: 1, ..plan.first_cell() };
    let setting = Setting { plan, cell: &cell, gateway: None, tenants: "bench" };
    let (client, administrator) = (rig.admin().clone(), rig.administrator().clone());
    let (mut kept, mut grown, (told, mut waits)) = (Vec::new(), Vec::new(), mpsc::unbounded_channel());
    for round in 0..plan.rounds {
        let alone = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
        plan.say(&format!("alone   {}", line(&alone, plan.rounds)));
        let mut others = JoinSet::new();
        others.spawn(flood(client.clone()));
        others.spawn(ask_rightly(client.clone(), administrator.clone(), told.clone()));
        let flooded = Box::pin(run(rig, &setting, Path::Gateway, None, round)).await?;
        others.shutdown().await;
        plan.say(&format!("flooded {}", line(&flooded, plan.rounds)));
        kept.push(flooded.messages_per_second / alone.messages_per_second);
        let memory = alone.memory_mib.gateway.zip(flooded.memory_mib.gateway);
        grown.extend(memory.map(|(before, beside)| beside - before));
    }
    let waits: Vec<f64> = std::iter::from_fn(|| waits.try_recv().ok()).collect();
    let figures = named([
        ("throughput beside the flood ÷ alone", "", Figure::of(kept), "≥ 0.8"),
        ("a token for a right secret", "ms", Figure::of(waits), "< 2,000"),
        ("the gateway's memory beside the flood − alone", "MiB", Figure::of(grown), ""),
    ]);
    let what = format!("{}, through the gateway, alone and beside 333 wrong secrets a second", cell.title());
    Ok(ScenarioReport { scenario: Scenario::WrongSecrets, what, figures })
}

/// Asks with wrong secrets, evenly, whatever the answers are.
async fn flood(client: Client) {
    let mut ticks = tokio::time::interval(PACE);
    let mut asking = JoinSet::new();
    for number in 0_u64.. {
        ticks.tick().await;
        let request = request(&format!("nobody-{number}"), "wgs_wrong");
        let mut auth = client.auth();
        asking.spawn(async move { auth.issue_token(request).await.map(drop) });
        while asking.try_join_next().is_some() {}
    }
}

/// Asks with the right secret now and then, and says how many milliseconds each answer took.
async fn ask_rightly(client: Client, (id, secret): (String, SecretString), took: mpsc::UnboundedSender<f64>) {
    let mut ticks = tokio::time::interval(RIGHT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        let answer = client.auth().issue_token(request(&id, secret.expose_secret())).await;
        // Refused is never: the worst that there is.
        let millis = answer.map_or(f64::MAX, |_| asked.elapsed().as_secs_f64() * 1_000.0);
        if took.send(millis).is_err() {
            return;
        }
    }
}

fn request(id: &str, secret: &str) -> pb::IssueTokenRequest {
    pb::IssueTokenRequest { client_id: id.to_owned(), client_secret: secret.to_owned(), lifetime: None }
}
