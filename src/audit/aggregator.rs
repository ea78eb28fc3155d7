//! Aggregation of audit events that may come in any number. Of each kind the first ones of a window are kept as they are; at the end
//! of the window one row per kind says how many more there were. Rows, kinds and memory are bounded, and recognised clients
//! have bounds of their own: what strangers do leaves the events of a known client complete.

use std::{collections::HashMap, time::Duration};

use crate::store::{NewAudit, REFUSED};

/// How long events are counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Rows of one kind in a window before counting begins.
const ROWS_EACH: u64 = 10;
/// Kinds of one recognised client in a window that are counted apart with their objects.
const KINDS_OF_A_CLIENT: usize = 64;
/// Kinds of one recognised client in a window that are counted apart in total: further ones without their objects.
const ALL_KINDS_OF_A_CLIENT: usize = 192;

/// Bounds of one window.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Rows that are kept as they are.
    rows: u64,
    /// Kinds that are counted apart; the rest are counted together.
    kinds: usize,
}

const OF_RECOGNISED: Limits = Limits { rows: 1_000, kinds: 4_096 };
const OF_STRANGERS: Limits = Limits { rows: 100, kinds: 250 };

/// What is counted together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Kind {
    client: String,
    /// Of strangers, who have nothing else to tell them apart. A client may call from many places.
    host: String,
    method: String,
    rule: String,
    outcome: String,
    /// Of recognised clients only: strangers may write anything.
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

    /// The same for every object.
    fn of_every_object(self) -> Self {
        Self { object: String::new(), ..self }
    }

    /// Everything else of this client.
    fn rest_of(client: &str) -> Self {
        Self { client: client.to_owned(), ..Self::default() }
    }
}

#[derive(Debug, Default)]
struct Count {
    kept: u64,
    more: u64,
    /// The last of those that were not kept, for its time and place.
    last: Option<NewAudit>,
}

/// The events of a window, of recognised clients or of strangers.
#[derive(Debug)]
struct Group {
    limits: Limits,
    counts: HashMap<Kind, Count>,
    kinds_of: HashMap<String, usize>,
    kept: u64,
}

impl Group {
    fn new(limits: Limits) -> Self {
        Self { limits, counts: HashMap::new(), kinds_of: HashMap::new(), kept: 0 }
    }

    fn take(&mut self, event: NewAudit) -> Option<NewAudit> {
        let kind = self.kind(&event);
        let count = self.counts.entry(kind).or_default();
        if count.kept < ROWS_EACH && self.kept < self.limits.rows {
            count.kept += 1;
            self.kept += 1;
            return Some(event);
        }
        count.more = count.more.saturating_add(event.times);
        count.last = Some(event);
        None
    }

    /// The kind under which this event is counted: its own while there is capacity, then its client's rest, then everybody's.
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
        // As many again as there are clients, which the store bounds.
        Kind::rest_of(&event.client)
    }

    fn end(&mut self) -> impl Iterator<Item = NewAudit> {
        self.kept = 0;
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

/// The aggregator of one window.
#[derive(Debug)]
pub(super) struct Aggregator {
    recognised: Group,
    strangers: Group,
}

impl Default for Aggregator {
    fn default() -> Self {
        Self { recognised: Group::new(OF_RECOGNISED), strangers: Group::new(OF_STRANGERS) }
    }
}

impl Aggregator {
    /// Takes an event; it is returned when it is to be kept as it is.
    pub(super) fn take(&mut self, event: NewAudit) -> Option<NewAudit> {
        if event.client.is_empty() { self.strangers.take(event) } else { self.recognised.take(event) }
    }

    /// Ends the window: one row for each kind of which there were more events than were kept, and one for those that found
    /// no place in the queue.
    pub(super) fn end(&mut self, dropped: u64) -> Vec<NewAudit> {
        let mut rows: Vec<_> = self.recognised.end().chain(self.strangers.end()).collect();
        if dropped > 0 {
            rows.push(summary(format!("{dropped} more refused"), "TOO_MANY_AT_ONCE", dropped));
        }
        rows
    }
}

/// Refusals of which only the number is known.
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
    fn many_events_of_one_client_become_a_count_and_hide_no_other() {
        let mut aggregator = Aggregator::default();
        let refused = |client, rule| refusal(client, "10.0.0.1:99", rule);
        let kept = (0..1_000).filter_map(|_| aggregator.take(refused("acme.loud", "DENIED"))).count();
        assert_eq!(kept as u64, ROWS_EACH);
        assert!(aggregator.take(refused("acme.quiet", "DENIED")).is_some());
        assert!(aggregator.take(refused("acme.loud", "ANOTHER")).is_some());
        let rows = aggregator.end(0);
        let rows: Vec<_> = rows.iter().map(|row| (row.client.as_str(), row.object.as_str(), row.times)).collect();
        assert_eq!(rows, [("acme.loud", "990 more refused", 990)]);
        assert!(aggregator.end(0).is_empty(), "the window is over");
        assert!(aggregator.take(refused("acme.loud", "DENIED")).is_some(), "the next window keeps rows again");
    }

    #[test]
    fn every_refusal_of_a_known_client_is_on_record_with_its_object_beside_any_number_of_strangers() {
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
    fn a_client_with_many_objects_is_counted_by_its_name_and_leaves_room_for_others() {
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
    fn a_stranger_is_told_apart_by_host_not_by_port() {
        let mut aggregator = Aggregator::default();
        for port in 0..100 {
            let _ = aggregator.take(refusal("", &format!("[::1]:{port}"), "TOKEN_INVALID"));
        }
        assert!(aggregator.take(refusal("", "10.0.0.2:1", "TOKEN_INVALID")).is_some());
        assert_eq!(aggregator.end(0).iter().map(|row| row.times).collect::<Vec<_>>(), [90]);
    }

    #[test]
    fn a_crowd_fills_a_bounded_number_of_rows_and_every_refusal_is_in_one() {
        let mut aggregator = Aggregator::default();
        let crowd = (0..5_000).map(|i| refusal("", &format!("10.1.{}.{}:1", i / 256, i % 256), "TOKEN_INVALID"));
        let kept = crowd.filter_map(|event| aggregator.take(event)).count() as u64;
        let rows = aggregator.end(7);
        assert_eq!(kept, OF_STRANGERS.rows);
        assert!(rows.len() <= OF_STRANGERS.kinds + 2, "{}", rows.len());
        assert_eq!(kept + rows.iter().map(|row| row.times).sum::<u64>(), 5_007);
        assert!(rows.iter().any(|row| row.rule == "TOO_MANY_CALLERS"));
        assert!(rows.iter().any(|row| (row.rule.as_str(), row.times) == ("TOO_MANY_AT_ONCE", 7)));
    }
}
