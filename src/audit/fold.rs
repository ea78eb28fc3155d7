//! Many refusals become few rows. Refusals enter one by one; of each caller and rule the first ones of a window leave as they
//! are, and at its end one row for each says how many more there were. All of it is bounded: rows, callers, memory.

use std::{collections::HashMap, time::Duration};

use crate::store::{NewAudit, REFUSED};

/// How long refusals are counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Rows of one caller and rule in a window, before counting begins.
const TOLD_EACH: u64 = 10;
/// Such rows of all in a window.
const TOLD_IN_ALL: u64 = 100;
/// Callers and rules that are counted apart in a window; the rest are counted together.
const COUNTED_APART: usize = 250;

/// Who was refused by what: a client, or where somebody unknown comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Key {
    client: String,
    host: String,
    method: String,
    rule: String,
}

impl Key {
    fn of(event: &NewAudit) -> Self {
        let host = event.peer_address.rsplit_once(':').map_or("", |(host, _)| host);
        Self {
            // A client may come from many ports and places; somebody unknown has nothing but the place.
            host: if event.client.is_empty() { host.to_owned() } else { String::new() },
            client: event.client.clone(),
            method: event.method.clone(),
            rule: event.rule.clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Count {
    told: u64,
    more: u64,
    /// The last of those that were not told, for its time and place.
    last: Option<NewAudit>,
}

/// One window.
#[derive(Debug, Default)]
pub(super) struct Fold {
    counts: HashMap<Key, Count>,
    told: u64,
}

impl Fold {
    /// Takes one; it comes back when it is to be kept as it is.
    pub(super) fn take(&mut self, event: NewAudit) -> Option<NewAudit> {
        let mut key = Key::of(&event);
        if self.counts.len() >= COUNTED_APART && !self.counts.contains_key(&key) {
            key = Key::default();
        }
        let count = self.counts.entry(key).or_default();
        if count.told < TOLD_EACH && self.told < TOLD_IN_ALL {
            count.told += 1;
            self.told += 1;
            return Some(event);
        }
        count.more = count.more.saturating_add(event.times);
        count.last = Some(event);
        None
    }

    /// Ends the window: one row for each caller and rule that had more refusals than were told.
    pub(super) fn end(&mut self, unheard: u64) -> Vec<NewAudit> {
        self.told = 0;
        let folded = self.counts.drain().filter_map(|(key, count)| Some((key, count.more, count.last?)));
        let mut rows: Vec<_> = folded
            .map(|(key, more, last)| {
                let object = format!("{more} more refused");
                if key == Key::default() {
                    return summary(object, "TOO_MANY_CALLERS", more);
                }
                NewAudit { object, times: more, ..last }
            })
            .collect();
        if unheard > 0 {
            rows.push(summary(format!("{unheard} more refused"), "TOO_MANY_AT_ONCE", unheard));
        }
        rows
    }
}

/// Refusals of which no more is known than their number.
fn summary(object: String, rule: &str, times: u64) -> NewAudit {
    NewAudit { object, rule: rule.to_owned(), outcome: REFUSED.to_owned(), times, ..NewAudit::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(client: &str, address: &str, rule: &str) -> NewAudit {
        let (client, rule) = (client.to_owned(), rule.to_owned());
        NewAudit { client, rule, peer_address: address.to_owned(), ..NewAudit::default() }
    }

    #[test]
    fn a_loud_caller_becomes_a_count_and_hides_no_other() {
        let mut fold = Fold::default();
        let kept = (0..1_000).filter_map(|_| fold.take(refusal("acme.loud", "10.0.0.1:99", "DENIED"))).count();
        assert_eq!(kept as u64, TOLD_EACH);
        assert!(fold.take(refusal("acme.quiet", "10.0.0.1:99", "DENIED")).is_some());
        assert!(fold.take(refusal("acme.loud", "10.0.0.1:99", "ANOTHER")).is_some());
        let rows = fold.end(0);
        let rows: Vec<_> = rows.iter().map(|row| (row.client.as_str(), row.object.as_str(), row.times)).collect();
        assert_eq!(rows, [("acme.loud", "990 more refused", 990)]);
        assert!(fold.end(0).is_empty(), "the window is over");
        assert!(fold.take(refusal("acme.loud", "10.0.0.1:99", "DENIED")).is_some(), "the next window tells again");
    }

    #[test]
    fn somebody_unknown_is_told_apart_by_host_not_by_port() {
        let mut fold = Fold::default();
        for port in 0..100 {
            let _ = fold.take(refusal("", &format!("[::1]:{port}"), "TOKEN_INVALID"));
        }
        assert!(fold.take(refusal("", "10.0.0.2:1", "TOKEN_INVALID")).is_some());
        assert_eq!(fold.end(0).iter().map(|row| row.times).collect::<Vec<_>>(), [90]);
    }

    #[test]
    fn a_crowd_fills_a_bounded_number_of_rows_and_every_refusal_is_in_one() {
        let mut fold = Fold::default();
        let crowd = (0..5_000).map(|i| refusal("", &format!("10.1.{}.{}:1", i / 256, i % 256), "TOKEN_INVALID"));
        let told = crowd.filter_map(|event| fold.take(event)).count() as u64;
        let rows = fold.end(7);
        assert_eq!(told, TOLD_IN_ALL);
        assert!(rows.len() <= COUNTED_APART + 2, "{}", rows.len());
        assert_eq!(told + rows.iter().map(|row| row.times).sum::<u64>(), 5_007);
        assert!(rows.iter().any(|row| row.rule == "TOO_MANY_CALLERS"));
        assert!(rows.iter().any(|row| (row.rule.as_str(), row.times) == ("TOO_MANY_AT_ONCE", 7)));
    }
}
