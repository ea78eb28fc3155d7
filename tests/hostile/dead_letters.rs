//! Lists, purges and redrives of many dead letters at the same time: an answer is complete, or `DEAD_LETTERS_BUSY`.

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
    until("all dead letters", async || (list(&tenant).await.ok()? == count).then_some(())).await;
    let peak = environment.target.measure().await;

    let lists = futures_util::future::join_all((0..8).map(|_| list(&tenant))).await;
    let busy = lists.iter().filter(|answer| is_busy(answer)).count();
    let untrue =
        lists.iter().filter(|answer| !is_busy(answer) && !matches!(answer, Ok(found) if *found == count)).count();
    let text = format!("{} complete, {busy} busy, {untrue} incomplete", lists.len() - busy - untrue);
    report.must(ATTACK, "every list is complete or busy", text, untrue == 0);

    let changes = async {
        let purges = futures_util::future::join_all((0..2).map(|_| purge(&tenant)));
        let redrives = futures_util::future::join_all((0..2).map(|_| redrive(&tenant)));
        tokio::join!(purges, redrives)
    };
    let lists = futures_util::future::join_all((0..4).map(|_| list(&tenant)));
    let ((purges, redrives), lists) = tokio::join!(changes, lists);
    let failed = lists.iter().filter(|answer| answer.is_err() && !is_busy(answer)).count()
        + purges.iter().chain(&redrives).filter(|answer| answer.is_err() && !is_busy(answer)).count();
    let gone: usize = purges.iter().chain(&redrives).flatten().sum();
    let left = until("a list", async || list(&tenant).await.ok()).await;
    let text = format!("{gone} removed and {left} left of {count}, {failed} failed");
    report.must(ATTACK, "purged, redriven and remaining letters add up", text, gone + left == count && failed == 0);
    let grown = peak.growth();
    report.must(ATTACK, "memory at most a tenant's share more", mebibytes(grown), grown <= SHARE);
}

fn is_busy<T>(answer: &Result<T, Status>) -> bool {
    answer.as_ref().is_err_and(|status| reason(status) == BUSY)
}

/// The number of dead letters.
async fn list(tenant: &Tenant) -> Result<usize, Status> {
    let (mut found, mut page_token) = (0, String::new());
    loop {
        let request = pb::ListDeadLettersRequest { page_token, page_size: 1_000, ..Default::default() };
        let page = tenant.client.topology().list_dead_letters(request).await?.into_inner();
        found += page.dead_letters.len();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
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
