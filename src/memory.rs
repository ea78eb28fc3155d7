//! Byte budgets for everything that is buffered on behalf of a peer: request bodies, decoded frames, messages in
//! flight, deliveries.
//!
//! Invariant: the bytes of all open permits of a budget never exceed its limit, nor, together with those of its
//! siblings, the limit of its parent. A budget never grows; callers that find it full wait or refuse.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::error::{Failure, Kind};

/// What the limit is derived from when the machine's memory is unknown.
const UNKNOWN_MEMORY: usize = 4 << 30;
/// The smallest limit.
const MIN_LIMIT: usize = 64 << 20;
/// The limit is at least this many of the largest messages, so that one stream of one tenant can always continue.
const MIN_MESSAGES: usize = 16;
/// The memory that a decoded message needs in addition to its encoded size.
pub const MESSAGE_OVERHEAD: usize = 1024;
/// The same for each header, and for each value of a list or a table in it.
pub const HEADER_OVERHEAD: usize = 256;
/// The part of a tenant's budget that received and unread bytes may use, as a divisor.
const RECEIVING_PART: usize = 4;
/// The part of the gateway's budget that the unread responses of all tenants may use, as a divisor; one tenant has half of it.
const RESPONSES_PART: usize = 4;
/// How soon to try again after the budget was exhausted.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A number of bytes that may be reserved at the same time. Cloning is cheap; clones share the same bytes.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Level>);

struct Level {
    limit: usize,
    free: Semaphore,
    parent: Option<MemoryBudget>,
}

/// The request does not fit at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget is exhausted")]
pub struct Full;

impl From<Full> for Failure {
    fn from(_: Full) -> Self {
        let text = "the gateway has no memory for this request at the moment; try again later";
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(Kind::Exhausted, "MEMORY_EXHAUSTED", text) }
    }
}

/// The request exceeds the limit of the budget or of one of its parents, so waiting cannot help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes exceed the memory budget of {limit} bytes")]
pub struct TooLarge {
    /// The requested bytes.
    pub bytes: usize,
    /// The smallest limit that it exceeds.
    pub limit: usize,
}

/// Reserved bytes; dropping the permit returns them to the budget and all its parents.
#[must_use = "dropping the permit returns its bytes"]
pub struct MemoryPermit {
    budget: MemoryBudget,
    bytes: usize,
    /// The number of levels that the bytes are taken from, starting with `budget`; all of them, except while a
    /// reservation waits.
    levels: usize,
}

impl MemoryBudget {
    /// A budget without a parent.
    pub fn new(limit: usize) -> Self {
        Self::with_parent(limit, None)
    }

    /// The budget of the whole gateway: `limit` bytes, or for 0 a quarter of the memory that this process may use.
    pub fn of_gateway(limit: usize, max_message_bytes: usize) -> Self {
        let quarter = || available_memory().unwrap_or(UNKNOWN_MEMORY) / 4;
        Self::new(if limit == 0 { quarter().max(min_limit(max_message_bytes)) } else { limit })
    }

    /// A part of this budget: bytes reserved from it are reserved from this one as well.
    pub fn child(&self, limit: usize) -> Self {
        Self::with_parent(limit.min(self.limit()), Some(self.clone()))
    }

    fn with_parent(limit: usize, parent: Option<Self>) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Level { limit, free: Semaphore::new(limit), parent }))
    }

    /// The largest number of bytes that can be reserved at once.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// How many bytes are reserved now.
    pub fn used(&self) -> usize {
        self.limit().saturating_sub(self.0.free.available_permits())
    }

    /// Reserves bytes unless that would exceed a limit.
    ///
    /// # Errors
    /// [`Full`] when this budget or one of its parents has too few free bytes.
    pub fn try_reserve(&self, bytes: usize) -> Result<MemoryPermit, Full> {
        let mut permit = MemoryPermit { budget: self.clone(), bytes, levels: 0 };
        let count = u32::try_from(bytes).map_err(|_| Full)?;
        for level in self.levels() {
            level.free.try_acquire_many(count).map_err(|_| Full)?.forget();
            permit.levels += 1;
        }
        Ok(permit)
    }

    /// How many more bytes [`Self::try_reserve_share`] gives now.
    pub fn share(&self) -> usize {
        let free = |level: &Level| level.free.available_permits();
        let used = |level: &Level| level.limit.saturating_sub(free(level));
        let of_parents = self.levels().zip(self.levels().skip(1));
        let shares = of_parents.map(|(level, parent)| free(parent).saturating_sub(used(level)) / 2);
        shares.fold(free(&self.0), usize::min)
    }

    /// Reserves bytes that a peer may occupy for as long as it likes, such as deliveries that it has not settled. At least as
    /// much as this budget then uses remains free in its parent, and the same for its parents: `n` children that reserve all
    /// they can have `1 / (n + 1)` of the parent each.
    ///
    /// # Errors
    /// [`Full`] when there is less.
    pub fn try_reserve_share(&self, bytes: usize) -> Result<MemoryPermit, Full> {
        if bytes > self.share() { Err(Full) } else { self.try_reserve(bytes) }
    }

    /// Waits until the bytes are free, in the order of requests. Cancel safe.
    ///
    /// # Errors
    /// [`TooLarge`] if they can never be free.
    pub async fn reserve(&self, bytes: usize) -> Result<MemoryPermit, TooLarge> {
        let limit = self.levels().map(|level| level.limit).min().unwrap_or(0);
        let count = match u32::try_from(bytes) {
            Ok(count) if bytes <= limit => count,
            _ => return Err(TooLarge { bytes, limit }),
        };
        let mut permit = MemoryPermit { budget: self.clone(), bytes, levels: 0 };
        for level in self.levels() {
            // The semaphores are never closed.
            let Ok(acquired) = level.free.acquire_many(count).await else { return Err(TooLarge { bytes, limit }) };
            acquired.forget();
            permit.levels += 1;
        }
        Ok(permit)
    }

    /// This budget and its parents, the gateway's last.
    fn levels(&self) -> impl Iterator<Item = &Level> {
        std::iter::successors(Some(&*self.0), |level| level.parent.as_ref().map(|parent| &*parent.0))
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget").field("limit", &self.limit()).field("used", &self.used()).finish()
    }
}

impl MemoryPermit {
    /// The number of reserved bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves more bytes for the same purpose, as [`MemoryBudget::try_reserve_share`] does.
    ///
    /// # Errors
    /// [`Full`] if they are not free; the permit keeps its bytes.
    pub fn try_grow(&mut self, bytes: usize) -> Result<(), Full> {
        self.merge(self.budget.try_reserve_share(bytes)?);
        Ok(())
    }

    /// Returns all but `bytes`; no effect if it has fewer.
    pub fn shrink_to(&mut self, bytes: usize) {
        drop(self.split(self.bytes.saturating_sub(bytes)));
    }

    /// Moves bytes to a permit of their own, at most all of them.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes, levels: self.levels }
    }

    /// Takes over the bytes of a permit of the same budget. The bytes of two budgets must never be merged, because a
    /// permit returns all of its bytes to one budget.
    pub fn merge(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.budget.0, &other.budget.0), "permits of different budgets");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.levels().take(self.levels).for_each(|level| level.free.add_permits(self.bytes));
        }
    }
}

impl fmt::Debug for MemoryPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPermit").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Keeps the memory of a response charged until its last byte is sent, as an extension of the response.
#[derive(Debug, Clone)]
pub struct ResponseCharge(Arc<MemoryPermit>);

impl ResponseCharge {
    /// Takes over a permit.
    pub fn new(permit: MemoryPermit) -> Self {
        Self(Arc::new(permit))
    }

    /// The number of bytes charged.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// The budgets of all tenants, each a part of the gateway's. A budget exists while it is in use.
#[derive(Debug, Clone)]
pub struct TenantBudgets(Arc<Tenants>);

#[derive(Debug)]
struct Tenants {
    gateway: MemoryBudget,
    /// The limit of each tenant: at most half of the gateway's, so that no tenant can take all of it.
    limit: usize,
    open: OpenBudgets,
    receiving: OpenBudgets,
    /// The part for unread responses.
    all_responses: MemoryBudget,
    responses: OpenBudgets,
}

/// The budgets in use, by name.
#[derive(Debug, Default)]
struct OpenBudgets(Mutex<HashMap<String, Weak<Level>>>);

impl OpenBudgets {
    fn get(&self, name: &str, make: impl FnOnce() -> MemoryBudget) -> MemoryBudget {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(level) = open.get(name).and_then(Weak::upgrade) {
            return MemoryBudget(level);
        }
        open.retain(|_, level| level.strong_count() > 0);
        let budget = make();
        open.insert(name.to_owned(), Arc::downgrade(&budget.0));
        budget
    }
}

impl TenantBudgets {
    /// No tenant may reserve more than half of `gateway`.
    pub fn new(gateway: MemoryBudget) -> Self {
        let limit = gateway.limit() / 2;
        let all_responses = gateway.child(gateway.limit() / RESPONSES_PART);
        let [open, receiving, responses] = [(); 3].map(|()| OpenBudgets::default());
        Self(Arc::new(Tenants { gateway, limit, open, receiving, all_responses, responses }))
    }

    /// The budget of the gateway.
    pub fn gateway(&self) -> &MemoryBudget {
        &self.0.gateway
    }

    /// The budget of one tenant, shared by all callers with the same name.
    pub fn of(&self, tenant: &str) -> MemoryBudget {
        self.0.open.get(tenant, || self.0.gateway.child(self.0.limit))
    }

    /// The part of a tenant's budget for bytes of requests that nothing has read yet. It is a quarter, so that what waits to be
    /// read never takes the memory that reading needs.
    pub fn receiving(&self, tenant: &str) -> MemoryBudget {
        self.0.receiving.get(tenant, || self.of(tenant).child(self.0.limit / RECEIVING_PART))
    }

    /// The budget for a tenant's responses that are encoded and that its clients have not read. It is apart from the memory of
    /// the tenant's messages, so that a tenant that has used that up can still look at its queues.
    pub fn responses(&self, tenant: &str) -> MemoryBudget {
        let all = &self.0.all_responses;
        self.0.responses.get(tenant, || all.child(all.limit() / 2))
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The smallest limit of a gateway that accepts messages of this size.
pub fn min_limit(max_message_bytes: usize) -> usize {
    max_message_bytes.saturating_mul(MIN_MESSAGES).max(MIN_LIMIT)
}

/// The memory that this process may use: the machine's, or the limit of its control group if that is lower. Linux
/// only.
fn available_memory() -> Option<usize> {
    let total = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = total.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?;
    let total = kibibytes.parse::<usize>().ok()?.saturating_mul(1024);
    // Versions 2 and 1 of control groups, as seen from inside a container. Version 1 has a huge number for "no limit".
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = groups.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    limits.chain([total]).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_child_reserves_from_its_parent_and_both_get_all_bytes_back() {
        let gateway = MemoryBudget::new(100);
        let (acme, globex) = (gateway.child(60), gateway.child(60));
        let first = acme.try_reserve(50).expect("free");
        assert_eq!(acme.try_reserve(11).expect_err("over the child's limit"), Full);
        assert_eq!((acme.used(), gateway.used()), (50, 50));
        let second = globex.try_reserve(50).expect("free");
        assert_eq!(globex.try_reserve(1).expect_err("over the parent's limit"), Full);
        assert_eq!(globex.used(), 50, "a refused reservation reserves nothing");
        drop((first, second));
        assert_eq!((acme.used(), globex.used(), gateway.used()), (0, 0, 0));
    }

    #[test]
    fn permits_can_be_split_merged_and_resized() {
        let budget = MemoryBudget::new(100);
        let mut permit = budget.try_reserve(40).expect("free");
        let part = permit.split(10);
        assert_eq!((permit.bytes(), part.bytes(), budget.used()), (30, 10, 40));
        permit.try_grow(60).expect("free");
        assert_eq!(permit.try_grow(1).expect_err("full"), Full);
        drop(part);
        assert_eq!(budget.used(), 90);
        permit.shrink_to(20);
        permit.merge(budget.try_reserve(5).expect("free"));
        assert_eq!((permit.bytes(), budget.used()), (25, 25));
        drop(permit);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_reservation_waits_in_order_and_reserves_nothing_when_it_is_cancelled() {
        let gateway = MemoryBudget::new(10);
        let child = gateway.child(10);
        let all = gateway.try_reserve(10).expect("free");
        let error = child.reserve(11).await.expect_err("can never fit");
        assert_eq!(error, TooLarge { bytes: 11, limit: 10 });
        let waiting = tokio::time::timeout(Duration::from_millis(20), child.reserve(4)).await;
        assert!(waiting.is_err(), "nothing is free");
        assert_eq!(child.used(), 0, "the cancelled reservation has returned its part of the child");
        let (waiting, ()) = tokio::join!(child.reserve(4), async { drop(all) });
        assert_eq!(waiting.expect("fits").bytes(), 4);
    }

    #[test]
    fn a_tenant_has_one_shared_budget_of_half_of_the_gateways() {
        let tenants = TenantBudgets::new(MemoryBudget::new(100));
        let permit = tenants.of("acme").try_reserve(50).expect("half");
        assert_eq!(tenants.of("acme").try_reserve(1).expect_err("the same budget"), Full);
        let _other = tenants.of("globex").try_reserve(50).expect("the other half");
        drop(permit);
        assert_eq!((tenants.of("acme").used(), tenants.gateway().used()), (0, 50));
        assert!(tenants.0.open.0.lock().expect("not poisoned").len() <= 2);
    }

    #[test]
    fn what_a_tenant_sends_unread_takes_a_part_of_its_own_share_only() {
        let tenants = TenantBudgets::new(MemoryBudget::new(800));
        let (acme, receiving) = (tenants.of("acme"), tenants.receiving("acme"));
        let mut unread = receiving.try_reserve_share(0).expect("nothing");
        while unread.try_grow(1).is_ok() {}
        assert_eq!((unread.bytes(), acme.used(), tenants.gateway().used()), (100, 100, 100), "a quarter of its half");
        assert_eq!(tenants.receiving("acme").try_reserve(1).expect_err("the same budget"), Full);
        let rest = acme.try_reserve(300).expect("what reading needs");
        drop(unread);
        drop(rest);
        assert_eq!(tenants.gateway().used(), 0);
    }

    #[test]
    fn tenants_that_take_all_they_get_leave_as_much_free_as_each_of_them_has() {
        let tenants = TenantBudgets::new(MemoryBudget::new(120));
        let take_all = |budget: &MemoryBudget| {
            let mut permit = budget.try_reserve_share(0).expect("nothing");
            while permit.try_grow(1).is_ok() {}
            permit
        };
        let (acme, globex, initech) = (tenants.of("acme"), tenants.of("globex"), tenants.of("initech"));
        let first = take_all(&acme);
        assert_eq!(first.bytes(), 60, "a half");
        assert_eq!(acme.try_reserve_share(1).expect_err("no more"), Full);
        let second = take_all(&globex);
        assert_eq!(second.bytes(), 30, "half of the rest, as the first has taken its half already");
        let third = take_all(&initech);
        assert_eq!((third.bytes(), tenants.gateway().used()), (15, 105));
        drop(first);
        let first = take_all(&acme);
        assert_eq!(first.bytes(), 37, "now less than a half");
    }

    #[test]
    fn the_default_is_a_quarter_of_the_memory() {
        let limit = MemoryBudget::of_gateway(0, 4_000_000).limit();
        assert!(limit >= MIN_LIMIT);
        assert_eq!(MemoryBudget::of_gateway(123 << 20, 4_000_000).limit(), 123 << 20);
        assert!(MemoryBudget::of_gateway(0, 1 << 30).limit() >= MIN_MESSAGES << 30, "sixteen of the largest messages");
        if let Some(memory) = available_memory() {
            assert_eq!(limit, (memory / 4).max(MIN_LIMIT));
        }
    }
}
