//! Checks of dead letters: they are listed, compared with the history, redriven, and finally consumed.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use warrengate::{
    client::Client,
    pb::{self, DeadLetter},
};

use crate::{
    environment,
    environment::Environment,
    history::{History, Message},
    inject::Injected,
    load::Load,
    message::{Disposition, POISON, POISON_ATTEMPTS},
    report::say,
    wait,
};

/// The time for the last attempts and the writing of the dead letters.
const DEAD_WITHIN: Duration = Duration::from_secs(60);
/// A fault may affect a message for this time after its last attempt.
const AFFECTED_AFTER: Duration = Duration::from_secs(10);

/// Checks that every confirmed poison message is dead-lettered, redrives all, and checks that they are acknowledged.
pub async fn redrive(
    environments: &[&Environment],
    load: &Load,
    injected: &[Injected],
    violations: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for environment in environments {
        let endpoint = format!("https://127.0.0.1:{}", environment.gateways[0].grpc());
        for tenant in &environment.tenants {
            let client = environment::connect(&endpoint, &environment.ca, &tenant.client_id, &tenant.secret).await?;
            clients.push((tenant.id.clone(), client));
        }
    }
    let mut found = 0;
    for (tenant, client) in &clients {
        let expected = poison(&load.history, tenant);
        let mut dead = Vec::new();
        let all_dead = wait::until("poison among the dead letters", DEAD_WITHIN, async || {
            dead = list(client).await.unwrap_or_default();
            let ids: HashMap<_, _> = dead.iter().map(|letter| (id(letter), ())).collect();
            expected.keys().all(|id| ids.contains_key(id.as_str()))
        });
        // Missing dead letters are reported by the check below.
        let _ = all_dead.await;
        found += dead.len();
        check(tenant, &dead, &expected, injected, violations);
    }
    say(&format!("{found} dead letters; they are redriven and acknowledged now"));
    load.accept_poison();
    for (tenant, client) in &clients {
        let done = redrive_all(client).await.with_context(|| format!("redriving {tenant}'s dead letters"))?;
        if done.failed > 0 || done.remaining > 0 {
            violations.push(format!("{tenant}: {} dead letters could not be redriven", done.failed + done.remaining));
        }
    }
    load.wait_until_done(|disposition| disposition == Disposition::Poison).await;
    for (tenant, client) in &clients {
        let left = list(client).await?.len();
        if left > 0 {
            violations.push(format!("{tenant}: {left} dead letters remain after the redrive"));
        }
    }
    Ok(())
}

/// The tenant's confirmed poison messages.
fn poison(history: &History, tenant: &str) -> HashMap<String, Message> {
    history.fold(HashMap::new(), |found, id, message| {
        if message.disposition == Disposition::Poison && message.is_confirmed() && id.split('/').next() == Some(tenant)
        {
            found.insert(id.to_owned(), message.clone());
        }
    })
}

fn check(
    tenant: &str,
    dead: &[DeadLetter],
    expected: &HashMap<String, Message>,
    injected: &[Injected],
    violations: &mut Vec<String>,
) {
    let mut times: HashMap<&str, u32> = HashMap::new();
    let mut wrong = Vec::new();
    for letter in dead {
        *times.entry(id(letter)).or_default() += 1;
        let (queue, code, attempts) = (&letter.queue, &letter.code, letter.attempts);
        if queue != POISON || code != "delivery_limit" || attempts != POISON_ATTEMPTS {
            wrong.push(format!("{} of {queue}: {code} after {attempts} attempts", id(letter)));
        }
    }
    let missing = expected.keys().filter(|id| !times.contains_key(id.as_str())).count();
    if missing > 0 {
        wrong.push(format!("{missing} messages are missing"));
    }
    for (id, message) in expected {
        let unaffected = !injected.iter().any(|fault| fault.affects(message.sent, message.last() + AFFECTED_AFTER));
        if unaffected && times.get(id.as_str()).is_some_and(|times| *times > 1) {
            wrong.push(format!("{id} is dead-lettered more than once, and no fault affected it"));
        }
    }
    if let Some(first) = wrong.first() {
        violations.push(format!("{tenant}: {} dead letters are wrong: {first}", wrong.len()));
    }
}

fn id(letter: &DeadLetter) -> &str {
    letter.message.as_ref().map_or("", |message| message.message_id.as_str())
}

async fn list(client: &Client) -> anyhow::Result<Vec<DeadLetter>> {
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            pb::ListDeadLettersRequest { page_size: 1_000, page_token, without_bodies: true, ..Default::default() };
        let page = client.topology().list_dead_letters(request).await?.into_inner();
        all.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// Redrives all dead letters; returns the last report.
async fn redrive_all(client: &Client) -> anyhow::Result<pb::RedriveDeadLettersResponse> {
    let selection = pb::DeadLetterSelection { all: true, ..Default::default() };
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 0, edit: None };
    let mut progress = client.topology().redrive_dead_letters(request).await?.into_inner();
    let mut last = pb::RedriveDeadLettersResponse::default();
    while let Some(next) = progress.message().await? {
        last = next;
    }
    Ok(last)
}
