//! Lists, purges and redrives of many dead letters at the same time: an answer is true, or `DEAD_LETTERS_BUSY`.

use std::sync::Arc;

use tonic::Status;
use warrengate::pb::{self, NackAction};

use crate::{
    Scale,
    consumer::{RawSubscription, start},
    environment::{Environment, Tenant, reason},
    report::Report,
    target::{SHARE, mebibytes},
    wait::until,
};

const ATTACK: &str = "dead letters, 8 at once";
const BODY: usize = 2_000_000;
/// The number of pages that most lists read.
const PAGES: usize = 2;
const BUSY: &str = "DEAD_LETTERS_BUSY";

pub async fn parallel(environment: &Arc<Environment>, scale: Scale, report: &mut Report) {
    let count = scale.dead_megabytes * 1_000_000 / BODY;
    let tenant = environment.tenant().await;
    tenant.queue("jobs", pb::QueueType::Quorum).await;
    let mut subscription = RawSubscription::open(&tenant.client, start("jobs")).await;
    for _ in 0..count {
        tenant.fill("jobs", 1, pb::Message { body: vec![1; BODY].into(), ..Default::default() }).await;
        let delivery = subscription.one().await;
        subscription.nack(&[delivery.delivery_id], NackAction::DeadLetter).await;
    }
    subscription.is_quiet().await;
    subscription.close().await;
    let letters = until("all dead letters", async || {
        let ids = ids(&tenant).await.ok()?;
        (ids.len() == count).then_some(ids)
    })
    .await;
    let peak = environment.target.measure().await;

    // Each page reads all dead letters, so only one list continues to the end.
    let lists = (0..8).map(|number| list(&tenant, if number == 0 { usize::MAX } else { PAGES }, &letters));
    let lists = futures_util::future::join_all(lists).await;
    let busy = lists.iter().filter(|answer| is_busy(answer)).count();
    let untrue = lists.iter().filter(|answer| !is_busy(answer) && !matches!(answer, Ok(true))).count();
    let text = format!("{} true, {busy} busy, {untrue} untrue", lists.len() - busy - untrue);
    report.must(ATTACK, "every list is true or busy", text, untrue == 0);

    let changes = async {
        let purges = futures_util::future::join_all((0..2).map(|_| purge(&tenant)));
        let redrives = futures_util::future::join_all((0..2).map(|_| redrive(&tenant)));
        tokio::join!(purges, redrives)
    };
    let lists = futures_util::future::join_all((0..4).map(|_| list(&tenant, PAGES, &letters)));
    let ((purges, redrives), lists) = tokio::join!(changes, lists);
    let failed = lists.iter().filter(|answer| answer.is_err() && !is_busy(answer)).count()
        + purges.iter().chain(&redrives).filter(|answer| answer.is_err() && !is_busy(answer)).count();
    let gone: usize = purges.iter().chain(&redrives).flatten().sum();
    let left = until("a list", async || ids(&tenant).await.ok()).await.len();
    let text = format!("{gone} removed and {left} left of {count}, {failed} failed");
    report.must(ATTACK, "purged, redriven and remaining letters add up", text, gone + left == count && failed == 0);
    let grown = peak.growth();
    report.must(ATTACK, "memory at most a tenant's share more", mebibytes(grown), grown <= SHARE);
}

fn is_busy<T>(answer: &Result<T, Status>) -> bool {
    answer.as_ref().is_err_and(|status| reason(status) == BUSY)
}

/// The ids of all dead letters, the oldest first.
async fn ids(tenant: &Tenant) -> Result<Vec<String>, Status> {
    let request = pb::ListDeadLettersRequest { page_size: 1_000, without_bodies: true, ..Default::default() };
    let page = tenant.client.topology().list_dead_letters(request).await?.into_inner();
    Ok(page.dead_letters.into_iter().map(|letter| letter.dead_letter_id).collect())
}

/// Reads pages; whether they contain exactly these letters, and end with the last of them.
async fn list(tenant: &Tenant, pages: usize, letters: &[String]) -> Result<bool, Status> {
    let (mut found, mut page_token) = (0, String::new());
    for _ in 0..pages {
        let request = pb::ListDeadLettersRequest { page_token, page_size: 1_000, ..Default::default() };
        let page = tenant.client.topology().list_dead_letters(request).await?.into_inner();
        for letter in &page.dead_letters {
            let is_whole = letter.message.as_ref().is_some_and(|message| message.body.len() == BODY);
            if letters.get(found) != Some(&letter.dead_letter_id) || !is_whole {
                return Ok(false);
            }
            found += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found == letters.len());
        }
    }
    Ok(found > 0 && found < letters.len())
}

fn all() -> Option<pb::DeadLetterSelection> {
    Some(pb::DeadLetterSelection { all: true, ..Default::default() })
}

async fn purge(tenant: &Tenant) -> Result<usize, Status> {
    let request = pb::PurgeDeadLettersRequest { selection: all() };
    Ok(tenant.client.topology().purge_dead_letters(request).await?.into_inner().purged as usize)
}

async fn redrive(tenant: &Tenant) -> Result<usize, Status> {
    let request = pb::RedriveDeadLettersRequest { selection: all(), max_per_second: 0, edit: None };
    let mut answers = tenant.client.topology().redrive_dead_letters(request).await?.into_inner();
    let mut redriven = 0;
    while let Some(answer) = answers.message().await? {
        redriven = answer.redriven as usize;
    }
    Ok(redriven)
}
