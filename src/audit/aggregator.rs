//! Aggregation of audit events that can occur in any number. The first events of each kind in a window are recorded
//! individually; at the end of the window, one row per kind records the number of further ones. Rows, kinds and memory
//! are bounded. Recognised clients have limits of their own, so that events of unauthenticated callers do not displace
//! theirs.

use std::{collections::HashMap, time::Duration};

use crate::store::{NewAudit, REFUSED};

/// The length of a window.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Individual rows per kind and window before events are counted.
const ROWS_EACH: u64 = 10;
/// Kinds of one recognised client per window that are counted separately for each object.
const KINDS_OF_A_CLIENT: usize = 64;
/// Kinds of one recognised client per window that are counted separately in total; further ones are counted without
/// their objects.
const ALL_KINDS_OF_A_CLIENT: usize = 192;

/// The limits of one window.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Rows that are recorded individually.
    rows: u64,
    /// Kinds that are counted separately; the rest are counted together.
    kinds: usize,
}

const CLIENT_LIMITS: Limits = Limits { rows: 1_000, kinds: 4_096 };
const UNAUTHENTICATED_LIMITS: Limits = Limits { rows: 100, kinds: 250 };

/// The events that are counted together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Kind {
    client: String,
    /// For unauthenticated callers only, which have no other identity. A client may call from many addresses.
    host: String,
    method: String,
    rule: String,
    outcome: String,
    /// For recognised clients only, because unauthenticated callers could send any name.
    object: String,
}

impl Kind {
    fn of(event: &NewAudit) -> Self {
        let host = event.peer_address.rsplit_once(':').map_or("", |(host, _)| host);
        let is_recognised = !event.client.is_empty();
        let text = |text: &str, when: bool| if when { text.to_owned() } else { String::new() };
        Self {
            host: text(host, !is_recognised),
            object: text(&event.object, is_recognised),
            client: event.client.clone(),
            method: event.method.clone(),
            rule: event.rule.clone(),
            outcome: event.outcome.clone(),
        }
    }

    /// The same kind for all objects.
    fn of_every_object(self) -> Self {
        Self { object: String::new(), ..self }
    }

    /// All other events of this client.
    fn rest_of(client: &str) -> Self {
        Self { client: client.to_owned(), ..Self::default() }
    }
}

#[derive(Debug, Default)]
struct Count {
    recorded: u64,
    more: u64,
    /// The last event that was not recorded individually, for its time and address.
    last: Option<NewAudit>,
}

/// The events of a window, of either recognised clients or unauthenticated callers.
#[derive(Debug)]
struct Group {
    limits: Limits,
    counts: HashMap<Kind, Count>,
    kinds_of: HashMap<String, usize>,
    recorded: u64,
}

impl Group {
    fn new(limits: Limits) -> Self {
        Self { limits, counts: HashMap::new(), kinds_of: HashMap::new(), recorded: 0 }
    }

    fn take(&mut self, event: NewAudit) -> Option<NewAudit> {
        let kind = self.kind(&event);
        let count = self.counts.entry(kind).or_default();
        if count.recorded < ROWS_EACH && self.recorded < self.limits.rows {
            count.recorded += 1;
            self.recorded += 1;
            return Some(event);
        }
        count.more = count.more.saturating_add(event.times);
        count.last = Some(event);
        None
    }

    /// The kind under which this event is counted: its own while there is capacity, then the rest of its client, then
    /// the rest of all clients.
    fn kind(&mut self, event: &NewAudit) -> Kind {
        let kind = Kind::of(event);
        if self.counts.contains_key(&kind) {
            return kind;
        }
        let is_full = self.counts.len() >= self.limits.kinds;
        if event.client.is_empty() {
            return if is_full { Kind::default() } else { kind };
        }
        let kinds = self.kinds_of.entry(event.client.clone()).or_default();
        if !is_full && *kinds < KINDS_OF_A_CLIENT {
            *kinds += 1;
            return kind;
        }
        let kind = kind.of_every_object();
        if self.counts.contains_key(&kind) {
            return kind;
        }
        if !is_full && *kinds < ALL_KINDS_OF_A_CLIENT {
            *kinds += 1;
            return kind;
        }
        // The number of additional kinds is bounded by the number of clients, which the store bounds.
        Kind::rest_of(&event.client)
    }

    fn end(&mut self) -> impl Iterator<Item = NewAudit> {
        self.recorded = 0;
        self.kinds_of.clear();
        self.counts.drain().filter_map(|(kind, count)| {
            let (more, last) = (count.more, count.last?);
            let object = format!("{more} more {}", if last.outcome == REFUSED { "refused" } else { "events" });
            Some(if kind == Kind::default() {
                summary(object, "TOO_MANY_CALLERS", more)
            } else if kind == Kind::rest_of(&kind.client) {
                NewAudit { client: kind.client, tenant: last.tenant, ..summary(object, "TOO_MANY_KINDS", more) }
            } else if kind.object.is_empty() {
                NewAudit { object, times: more, ..last }
            } else {
                NewAudit { times: more, ..last }
            })
        })
    }
}

/// The aggregator for one window at a time.
#[derive(Debug)]
pub(super) struct Aggregator {
    recognised: Group,
    unauthenticated: Group,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self { recognised: Group::new(CLIENT_LIMITS), unauthenticated: Group::new(UNAUTHENTICATED_LIMITS) }
    }
}

impl Aggregator {
    /// Processes an event, and returns it if it is to be recorded individually.
    pub(super) fn take(&mut self, event: NewAudit) -> Option<NewAudit> {
        if event.client.is_empty() { self.unauthenticated.take(event) } else { self.recognised.take(event) }
    }

    /// Ends the window: one row for each kind with more events than were recorded, and one for events that did not fit
    /// into the queue.
    pub(super) fn end(&mut self, dropped: u64) -> Vec<NewAudit> {
        let mut rows: Vec<_> = self.recognised.end().chain(self.unauthenticated.end()).collect();
        if dropped > 0 {
            rows.push(summary(format!("{dropped} more refused"), "TOO_MANY_AT_ONCE", dropped));
        }
        rows
    }
}

/// A row for refusals of which only the number is known.
fn summary(object: String, rule: &str, times: u64) -> NewAudit {
    NewAudit { object, rule: rule.to_owned(), outcome: REFUSED.to_owned(), times, ..NewAudit::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(client: &str, address: &str, rule: &str) -> NewAudit {
        let (client, rule, outcome) = (client.to_owned(), rule.to_owned(), REFUSED.to_owned());
        NewAudit { client, rule, peer_address: address.to_owned(), outcome, ..NewAudit::default() }
    }

    fn on(object: &str, event: NewAudit) -> NewAudit {
        NewAudit { object: object.to_owned(), ..event }
    }

    #[test]
    fn many_events_of_one_client_are_counted_and_do_not_hide_other_events() {
        let mut aggregator = Aggregator::default();
        let refused = |client, rule| refusal(client, "10.0.0.1:99", rule);
        let recorded = (0..1_000).filter_map(|_| aggregator.take(refused("acme.loud", "DENIED"))).count();
        assert_eq!(recorded as u64, ROWS_EACH);
        assert!(aggregator.take(refused("acme.quiet", "DENIED")).is_some());
        assert!(aggregator.take(refused("acme.loud", "ANOTHER")).is_some());
        let rows = aggregator.end(0);
        let rows: Vec<_> = rows.iter().map(|row| (row.client.as_str(), row.object.as_str(), row.times)).collect();
        assert_eq!(rows, [("acme.loud", "990 more refused", 990)]);
        assert!(aggregator.end(0).is_empty(), "the window is over");
        assert!(aggregator.take(refused("acme.loud", "DENIED")).is_some(), "the next window records rows again");
    }

    #[test]
    fn every_refusal_of_a_known_client_is_recorded_despite_many_unauthenticated_calls() {
        let mut aggregator = Aggregator::default();
        for i in 0..5_000 {
            let _ = aggregator.take(refusal("", &format!("10.1.{}.{}:1", i / 256, i % 256), "TOKEN_INVALID"));
        }
        let refused = || on("payroll", refusal("acme.none", "10.0.0.1:9", "QUEUE_NOT_GRANTED"));
        let mut rows: Vec<_> = (0..50).filter_map(|_| aggregator.take(refused())).collect();
        rows.extend(aggregator.end(0).into_iter().filter(|row| row.client == "acme.none"));
        assert_eq!(rows.iter().map(|row| row.times).sum::<u64>(), 50);
        assert!(rows.iter().all(|row| (row.object.as_str(), row.rule.as_str()) == ("payroll", "QUEUE_NOT_GRANTED")));
    }

    #[test]
    fn a_client_with_many_objects_is_counted_by_its_name_and_does_not_displace_others() {
        let mut aggregator = Aggregator::default();
        let event = |client, i: u64| on(&format!("queue-{i}"), refusal(client, "10.0.0.1:9", "DENIED"));
        let mut times: u64 = (0..20_000).filter_map(|i| aggregator.take(event("acme.loud", i))).count() as u64;
        assert!(times < 1_000, "{times}");
        assert!(aggregator.take(event("globex.app", 1)).is_some());
        let rows = aggregator.end(0);
        assert!(rows.len() <= KINDS_OF_A_CLIENT + 1, "{}", rows.len());
        let is_rest = |row: &NewAudit| row.rule == "DENIED" && row.object.ends_with(" more refused");
        assert!(rows.iter().any(|row| is_rest(row) && row.client == "acme.loud"));
        times += rows.iter().map(|row| row.times).sum::<u64>();
        assert_eq!(times, 20_000);
    }

    #[test]
    fn unauthenticated_callers_are_distinguished_by_host_and_not_by_port() {
        let mut aggregator = Aggregator::default();
        for port in 0..100 {
            let _ = aggregator.take(refusal("", &format!("[::1]:{port}"), "TOKEN_INVALID"));
        }
        assert!(aggregator.take(refusal("", "10.0.0.2:1", "TOKEN_INVALID")).is_some());
        assert_eq!(aggregator.end(0).iter().map(|row| row.times).collect::<Vec<_>>(), [90]);
    }

    #[test]
    fn many_addresses_fill_a_bounded_number_of_rows_and_every_refusal_is_counted() {
        let mut aggregator = Aggregator::default();
        let crowd = (0..5_000).map(|i| refusal("", &format!("10.1.{}.{}:1", i / 256, i % 256), "TOKEN_INVALID"));
        let recorded = crowd.filter_map(|event| aggregator.take(event)).count() as u64;
        let rows = aggregator.end(7);
        assert_eq!(recorded, UNAUTHENTICATED_LIMITS.rows);
        assert!(rows.len() <= UNAUTHENTICATED_LIMITS.kinds + 2, "{}", rows.len());
        assert_eq!(recorded + rows.iter().map(|row| row.times).sum::<u64>(), 5_007);
        assert!(rows.iter().any(|row| row.rule == "TOO_MANY_CALLERS"));
        assert!(rows.iter().any(|row| (row.rule.as_str(), row.times) == ("TOO_MANY_AT_ONCE", 7)));
    }
}
