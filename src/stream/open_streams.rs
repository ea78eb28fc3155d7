//! The list of the open streams of a gateway, so that they can be shown and closed. An entry is in the list for as long
//! as its [`ListedStream`] exists.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    error::{Failure, Kind},
    names::{ClientId, TenantId},
    telemetry::StreamKind,
};

/// The open streams of one gateway. Cloning is cheap; clones share the same list.
#[derive(Clone, Default)]
pub struct OpenStreams(Arc<Mutex<Entries>>);

/// Ids increase with the time of opening and are unique among all gateways, so that an id from one gateway never closes
/// a stream of another.
type Entries = BTreeMap<Uuid, Arc<Entry>>;

struct Entry {
    tenant: TenantId,
    client: ClientId,
    kind: StreamKind,
    peer_address: String,
    since: SystemTime,
    queue: OnceLock<String>,
    in_flight: (AtomicU64, AtomicU64),
    counted: Mutex<Counted>,
    opened: Instant,
    close: CancellationToken,
}

/// Messages in total, in the current second and in the one before.
#[derive(Debug, Default)]
struct Counted {
    total: u64,
    second: u64,
    now: u64,
    before: u64,
}

impl Counted {
    fn advance_to(&mut self, second: u64) {
        match second.saturating_sub(self.second) {
            0 => return,
            1 => self.before = std::mem::take(&mut self.now),
            _ => (self.before, self.now) = (0, 0),
        }
        self.second = second;
    }
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Its id.
    pub id: Uuid,
    /// Its client.
    pub client: ClientId,
    /// Its kind.
    pub kind: StreamKind,
    /// The client's address.
    pub peer_address: String,
    /// When it was opened.
    pub since: SystemTime,
    /// The queue of a subscription, once it is known.
    pub queue: String,
    /// Messages in flight.
    pub in_flight_messages: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
    /// Messages since it was opened.
    pub messages: u64,
    /// Messages in the last full second.
    pub messages_per_second: u64,
}

impl fmt::Debug for OpenStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStreams").field("open", &self.len()).finish_non_exhaustive()
    }
}

impl OpenStreams {
    /// Adds a stream to the list.
    pub fn open(&self, tenant: &TenantId, client: &ClientId, kind: StreamKind, peer_address: &str) -> ListedStream {
        let entry = Arc::new(Entry {
            tenant: tenant.clone(),
            client: client.clone(),
            kind,
            peer_address: peer_address.to_owned(),
            since: SystemTime::now(),
            queue: OnceLock::new(),
            in_flight: Default::default(),
            counted: Mutex::default(),
            opened: Instant::now(),
            close: CancellationToken::new(),
        });
        let id = Uuid::now_v7();
        self.entries().insert(id, Arc::clone(&entry));
        ListedStream { id, entry, list: self.clone() }
    }

    /// The number of open streams of all tenants.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `limit` streams of a tenant that satisfy `wanted`, in the order in which they were opened, after this
    /// id.
    pub fn list(
        &self,
        tenant: &TenantId,
        after: Option<Uuid>,
        limit: usize,
        wanted: impl Fn(&ClientId, StreamKind) -> bool,
    ) -> Vec<StreamState> {
        let entries = self.entries();
        let later = entries.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
        let wanted = later.filter(|(_, entry)| entry.tenant == *tenant && wanted(&entry.client, entry.kind));
        wanted.take(limit).map(|(id, entry)| entry.state(*id)).collect()
    }

    /// Ends a stream of a tenant; returns its client, or `None` if the tenant has no stream with this id here.
    pub fn close(&self, tenant: &TenantId, id: Uuid) -> Option<ClientId> {
        let entries = self.entries();
        let entry = entries.get(&id).filter(|entry| entry.tenant == *tenant)?;
        entry.close.cancel();
        Some(entry.client.clone())
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn state(&self, id: Uuid) -> StreamState {
        let (messages, messages_per_second) = {
            let mut counted = self.counted();
            counted.advance_to(self.opened.elapsed().as_secs());
            (counted.total, counted.before)
        };
        StreamState {
            id,
            client: self.client.clone(),
            kind: self.kind,
            peer_address: self.peer_address.clone(),
            since: self.since,
            queue: self.queue.get().cloned().unwrap_or_default(),
            in_flight_messages: self.in_flight.0.load(Relaxed),
            in_flight_bytes: self.in_flight.1.load(Relaxed),
            messages,
            messages_per_second,
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream in the list; dropping it removes it.
pub struct ListedStream {
    id: Uuid,
    entry: Arc<Entry>,
    list: OpenStreams,
}

impl fmt::Debug for ListedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListedStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ListedStream {
    /// Sets the queue of a subscription. Only the first call has an effect.
    pub fn set_queue(&self, queue: &str) {
        let _ = self.entry.queue.set(queue.to_owned());
    }

    /// Sets the number and the bytes of its messages in flight.
    pub fn set_in_flight(&self, messages: usize, bytes: usize) {
        self.entry.in_flight.0.store(messages as u64, Relaxed);
        self.entry.in_flight.1.store(bytes as u64, Relaxed);
    }

    /// Counts messages that were published or delivered.
    pub fn count(&self, messages: usize) {
        let second = self.entry.opened.elapsed().as_secs();
        let mut counted = self.entry.counted();
        counted.advance_to(second);
        counted.total += messages as u64;
        counted.now += messages as u64;
    }

    /// Waits until the stream is to be closed, and returns the reason.
    pub fn closed(&self) -> impl Future<Output = Failure> + Send + 'static {
        let close = self.entry.close.clone();
        async move {
            close.cancelled().await;
            let text = "an administrator closed this stream; its client may open another one";
            Failure::new(Kind::Aborted, "STREAM_CLOSED", text)
        }
    }
}

impl Drop for ListedStream {
    fn drop(&mut self) {
        self.list.entries().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(list: &OpenStreams, client: &str) -> ListedStream {
        let client = ClientId::parse(client).expect("an id");
        list.open(client.tenant().expect("a tenant"), &client, StreamKind::Publish, "10.0.0.1:5")
    }

    #[test]
    fn a_tenant_sees_and_closes_its_own_streams_only() {
        let list = OpenStreams::default();
        let (first, second, other) = (open(&list, "acme.a"), open(&list, "acme.b"), open(&list, "globex.a"));
        let acme = TenantId::parse("acme").expect("an id");
        let ids = |after, limit| -> Vec<Uuid> {
            list.list(&acme, after, limit, |_, _| true).into_iter().map(|state| state.id).collect()
        };
        assert_eq!(ids(None, 9), [first.id, second.id]);
        assert_eq!(ids(None, 1), [first.id]);
        assert_eq!(ids(Some(first.id), 9), [second.id]);
        assert_eq!(list.close(&acme, other.id), None);
        assert!(!other.entry.close.is_cancelled());
        assert_eq!(list.close(&acme, second.id).as_ref().map(ClientId::as_str), Some("acme.b"));
        assert!(second.entry.close.is_cancelled() && !first.entry.close.is_cancelled());
        drop(first);
        assert_eq!(ids(None, 9), [second.id]);
        drop((second, other));
        assert!(list.is_empty());
    }

    #[test]
    fn the_rate_is_that_of_the_last_full_second() {
        let mut counted = Counted { total: 8, second: 7, now: 5, before: 3 };
        counted.advance_to(7);
        assert_eq!((counted.now, counted.before), (5, 3));
        counted.advance_to(8);
        assert_eq!((counted.now, counted.before), (0, 5));
        counted.advance_to(10);
        assert_eq!((counted.now, counted.before), (0, 0));
    }
}
