//! Checks of dead letters: they are listed, compared with the ledger, redriven, and finally consumed.

use std::{collections::HashMap, time::Duration};

use anyhow::Context as _;
use warrengate::{
    client::Client,
    pb::{self, DeadLetter},
};

use crate::{
    inject::Injected,
    ledger::{Ledger, Message},
    load::Load,
    message::{Fate, POISON, POISON_ATTEMPTS},
    report::say,
    wait, world,
    world::Side,
};

/// The last attempts fail, and the dead letters are written.
const DEAD_WITHIN: Duration = Duration::from_secs(60);
/// A fault may touch a message so long after its last attempt.
const AFTERWARDS: Duration = Duration::from_secs(10);

/// Sees every confirmed poison among the dead letters, sends all again, and sees it acknowledged.
pub async fn redrive(
    sides: &[&Side],
    load: &Load,
    injected: &[Injected],
    broken: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for side in sides {
        let endpoint = format!("https://127.0.0.1:{}", side.gateways[0].grpc());
        for tenant in &side.tenants {
            let client = world::connect(&endpoint, &side.ca, &tenant.client_id, &tenant.secret).await?;
            clients.push((tenant.id.clone(), client));
        }
    }
    let mut found = 0;
    for (tenant, client) in &clients {
        let expected = poison(&load.ledger, tenant);
        let mut dead = Vec::new();
        let all_dead = wait::until("poison among the dead letters", DEAD_WITHIN, async || {
            dead = list(client).await.unwrap_or_default();
            let ids: HashMap<_, _> = dead.iter().map(|letter| (id(letter), ())).collect();
            expected.keys().all(|id| ids.contains_key(id.as_str()))
        });
        // What is missing is said by the judgement.
        let _ = all_dead.await;
        found += dead.len();
        judge(tenant, &dead, &expected, injected, broken);
    }
    say(&format!("{found} dead letters; they are sent again, and taken now"));
    load.cure();
    for (tenant, client) in &clients {
        let done = send_again(client).await.with_context(|| format!("redriving {tenant}'s dead letters"))?;
        if done.failed > 0 || done.remaining > 0 {
            broken.push(format!("{tenant}: {} dead letters could not be sent again", done.failed + done.remaining));
        }
    }
    load.until_quiet(|fate| fate == Fate::Poison).await;
    for (tenant, client) in &clients {
        let left = list(client).await?.len();
        if left > 0 {
            broken.push(format!("{tenant}: {left} dead letters are there after all were sent again"));
        }
    }
    Ok(())
}

/// The tenant's confirmed poison.
fn poison(ledger: &Ledger, tenant: &str) -> HashMap<String, Message> {
    ledger.fold(HashMap::new(), |found, id, message| {
        if message.fate == Fate::Poison && message.is_confirmed() && id.split('/').next() == Some(tenant) {
            found.insert(id.to_owned(), message.clone());
        }
    })
}

fn judge(
    tenant: &str,
    dead: &[DeadLetter],
    expected: &HashMap<String, Message>,
    injected: &[Injected],
    broken: &mut Vec<String>,
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
        wrong.push(format!("{missing} that were never done are not there"));
    }
    for (id, message) in expected {
        let untouched = !injected.iter().any(|fault| fault.touches(message.sent, message.last() + AFTERWARDS));
        if untouched && times.get(id.as_str()).is_some_and(|times| *times > 1) {
            wrong.push(format!("{id} is there more than once, and no fault touched it"));
        }
    }
    if let Some(first) = wrong.first() {
        broken.push(format!("{tenant}: {} dead letters are wrong: {first}", wrong.len()));
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

/// The last word on it.
async fn send_again(client: &Client) -> anyhow::Result<pb::RedriveDeadLettersResponse> {
    let selection = pb::DeadLetterSelection { all: true, ..Default::default() };
    let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second: 0 };
    let mut progress = client.topology().redrive_dead_letters(request).await?.into_inner();
    let mut last = pb::RedriveDeadLettersResponse::default();
    while let Some(next) = progress.message().await? {
        last = next;
    }
    Ok(last)
}
