//! Access to a tenant's dead letters.

use tonic::{Status, Streaming};
use warrengate::pb::{self, DeadLetter, DeadLetterFilter, DeadLetterSelection};

use super::{
    Tenant,
    wait::{until, within},
};

impl Tenant {
    /// All dead letters, oldest first.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = self.dead_letter_page(pb::ListDeadLettersRequest { page_token, ..Default::default() }).await;
            let page = page.unwrap();
            all.extend(page.dead_letters);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }

    pub async fn dead_letter_page(
        &self,
        request: pb::ListDeadLettersRequest,
    ) -> Result<pb::ListDeadLettersResponse, Status> {
        let mut topology = self.client.topology();
        Ok(within("dead letters", topology.list_dead_letters(request)).await?.into_inner())
    }

    /// Waits until there are `count` dead letters.
    pub async fn has_dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        until(&format!("{count} dead letters"), async || {
            let found = self.dead_letters().await;
            assert!(found.len() <= count, "{found:?}");
            (found.len() == count).then_some(found)
        })
        .await
    }

    /// Waits for the only dead letter.
    pub async fn dead_letter(&self) -> DeadLetter {
        self.has_dead_letters(1).await.remove(0)
    }

    /// Starts to redrive dead letters.
    pub async fn start_redrive(
        &self,
        selection: DeadLetterSelection,
        max_per_second: u32,
    ) -> Result<Streaming<pb::RedriveDeadLettersResponse>, Status> {
        let request = pb::RedriveDeadLettersRequest { selection: Some(selection), max_per_second, edit: None };
        let mut topology = self.client.topology();
        Ok(within("a redrive", topology.redrive_dead_letters(request)).await?.into_inner())
    }

    /// Redrives dead letters; the report contains all failures.
    pub async fn redrive(&self, selection: DeadLetterSelection) -> pb::RedriveDeadLettersResponse {
        let mut reports = self.start_redrive(selection, 0).await.unwrap();
        let mut last = pb::RedriveDeadLettersResponse::default();
        while let Some(mut report) = within("a report", reports.message()).await.unwrap() {
            report.failures.splice(0..0, last.failures);
            last = report;
        }
        last
    }

    /// Deletes dead letters and returns their number.
    pub async fn purge_dead(&self, selection: DeadLetterSelection) -> u64 {
        let request = pb::PurgeDeadLettersRequest { selection: Some(selection) };
        let mut topology = self.client.topology();
        within("a purge", topology.purge_dead_letters(request)).await.unwrap().into_inner().purged
    }
}

pub fn all() -> DeadLetterSelection {
    DeadLetterSelection { all: true, ..Default::default() }
}

pub fn of_queue(queue: &str) -> DeadLetterFilter {
    DeadLetterFilter { queue: queue.into(), ..Default::default() }
}

pub fn filtered(filter: DeadLetterFilter) -> DeadLetterSelection {
    DeadLetterSelection { filter: Some(filter), ..Default::default() }
}

pub fn these<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> DeadLetterSelection {
    let dead_letter_ids = letters.into_iter().map(|letter| letter.dead_letter_id.clone()).collect();
    DeadLetterSelection { dead_letter_ids, ..Default::default() }
}

/// The bodies, as text.
pub fn bodies(letters: &[DeadLetter]) -> Vec<String> {
    let body = |letter: &DeadLetter| letter.message.as_ref().expect("a message").body.to_vec();
    letters.iter().map(|letter| String::from_utf8(body(letter)).unwrap()).collect()
}
