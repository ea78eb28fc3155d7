//! Listing and deleting dead letters. A dead letter leaves the queue only by an acknowledgement after the confirm of
//! its new copy, or when it was selected for deletion; listing removes none.

use std::{collections::BTreeMap, sync::Arc};

use super::{exclusive_session::ExclusiveSession, letter::DeadLetter};
use crate::broker::{connection::tenant_connections::TenantConnections, error::Error, publish::lanes::Lanes};

/// The size of a page: clients accept 4 MiB by default. A larger dead letter is a page of its own.
pub const PAGE_BYTES: usize = 3 << 20;

/// How many are removed with one acknowledgement.
const REMOVED_TOGETHER: usize = 100;

/// The requested page of a list.
#[derive(Debug)]
pub struct PageRequest {
    /// The position after which the page begins.
    pub after: Option<(u64, String)>,
    /// The maximum number of dead letters.
    pub max_letters: usize,
    /// Whether to omit the bodies.
    pub without_bodies: bool,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    /// Oldest first.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more after it.
    pub has_more: bool,
}

/// A tenant's dead letters.
pub struct DeadLetters {
    pub(super) connections: Arc<TenantConnections>,
    pub(super) lanes: Arc<Lanes>,
}

impl DeadLetters {
    pub(in crate::broker) fn new(lanes: Arc<Lanes>) -> Self {
        Self { connections: Arc::clone(&lanes.connections), lanes }
    }

    /// Lists the oldest dead letters of a selection, without removing them. Every call reads all dead letters of the
    /// tenant.
    ///
    /// # Errors
    /// [`Error::Busy`] when another call reads them; otherwise when the broker cannot be reached.
    pub async fn list(&self, page: PageRequest, selected: impl Fn(&DeadLetter) -> bool) -> Result<Page, Error> {
        let mut session = ExclusiveSession::begin(&self.connections).await?;
        let mut letters = BTreeMap::new();
        let (mut bytes, mut has_more) = (0, false);
        while let Some((_, mut letter)) = session.next().await? {
            let position = (letter.died, letter.id.clone());
            if page.after.as_ref().is_some_and(|after| position <= *after) || !selected(&letter) {
                continue;
            }
            if page.without_bodies {
                letter.remove_body();
            }
            bytes += letter.size();
            bytes -= letters.insert(position, letter).as_ref().map_or(0, DeadLetter::size);
            // Only the page is kept in memory.
            while letters.len() > page.max_letters || (bytes > PAGE_BYTES && letters.len() > 1) {
                has_more = true;
                bytes -= letters.pop_last().map_or(0, |(_, letter)| letter.size());
            }
        }
        session.end().await?;
        Ok(Page { letters: letters.into_values().collect(), has_more })
    }

    /// Deletes a selection; returns how many. They cannot return to the queue afterwards.
    ///
    /// # Errors
    /// [`Error::Busy`] when another call reads them; then none was deleted. Otherwise when the broker cannot be reached;
    /// then some may have been deleted.
    pub async fn purge(&self, selected: impl Fn(&DeadLetter) -> bool) -> Result<u64, Error> {
        let mut session = ExclusiveSession::begin(&self.connections).await?;
        let (mut purged, mut tags) = (0, Vec::new());
        while let Some((tag, letter)) = session.next().await? {
            if selected(&letter) {
                tags.push(tag);
                purged += 1;
            }
            if tags.len() == REMOVED_TOGETHER {
                session.remove(std::mem::take(&mut tags)).await?;
            }
        }
        session.remove(tags).await?;
        session.end().await?;
        Ok(purged)
    }
}
