//! The figures of queues: depth, consumers, rates and the age of the oldest message, of one tenant or of all of them.
//!
//! They are from the broker's statistics, up to 5 s old. For queues without statistics the depths are read from the
//! queues themselves, and consumers, rates and ages are unknown.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Error, Provisioner, ages::Measured, client::Page, rows::is_hidden};
use crate::{broker::DEAD_LETTERS, names::TenantId};

/// Maximum number of pages of 500 queues that are read, for all tenants together.
const MAX_PAGES: usize = 40;
/// The prefix of the names of delay queues.
const DELAY_QUEUES: &str = "wg.delay.";

/// Messages ready and not settled, by vhost and queue.
pub(super) type Totals = HashMap<(String, String), (u64, u64)>;

/// The figures of one queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueFigures {
    /// Its name.
    pub name: String,
    /// `quorum`, `classic` or `stream`.
    pub queue_type: String,
    /// Ready messages.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unsettled: Option<u64>,
    /// Consumers.
    pub consumers: Option<u32>,
    /// Messages that enter per second.
    pub publish_rate: Option<f64>,
    /// Messages that leave per second.
    pub deliver_rate: Option<f64>,
    /// The age of its oldest message.
    pub oldest: Option<Duration>,
}

/// The figures of a tenant's queues.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TenantFigures {
    /// The tenant's queues, unordered.
    pub queues: Vec<QueueFigures>,
    /// Dead letters stored.
    pub dead_letters: u64,
    /// Messages that wait for their next attempt.
    pub delayed: u64,
}

impl TenantFigures {
    /// The sum of a figure over all queues.
    pub fn sum(&self, figure: impl Fn(&QueueFigures) -> Option<u64>) -> u64 {
        self.queues.iter().filter_map(figure).fold(0, u64::saturating_add)
    }

    /// The largest known age of an oldest message.
    pub fn oldest(&self) -> Option<Duration> {
        self.queues.iter().filter_map(|queue| queue.oldest).max()
    }

    fn add(&mut self, row: Row) {
        let messages = row.ready.saturating_add(row.unsettled);
        if row.name == DEAD_LETTERS {
            self.dead_letters = messages;
        } else if row.name.starts_with(DELAY_QUEUES) {
            self.delayed = self.delayed.saturating_add(messages);
        } else if !is_hidden(&row.name) {
            self.queues.push(row.into_figures());
        }
    }
}

/// A queue in a list of the management API.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    vhost: String,
    name: String,
    queue_type: String,
    ready: u64,
    unsettled: u64,
    statistics: Option<Statistics>,
    oldest: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Statistics {
    consumers: u32,
    publish_rate: f64,
    deliver_rate: f64,
    acknowledged: u64,
}

impl Row {
    /// The columns that [`Self::read`] needs.
    pub(super) const COLUMNS: &str = "vhost,name,type,messages_ready,messages_unacknowledged,consumers,\
         message_stats.publish_details.rate,message_stats.deliver_get_details.rate,message_stats.ack,\
         message_stats.deliver_no_ack,message_stats.get_no_ack";

    pub(super) fn read(row: &Value) -> Option<Self> {
        let number = |key: &str| row[key].as_u64();
        let counted = |key: &str| row["message_stats"][key].as_u64().unwrap_or_default();
        let rate = |key: &str| row["message_stats"][key]["rate"].as_f64().unwrap_or_default();
        // A queue without statistics has none of these fields.
        let statistics = number("messages_ready").map(|_| Statistics {
            consumers: u32::try_from(number("consumers").unwrap_or_default()).unwrap_or(u32::MAX),
            publish_rate: rate("publish_details"),
            deliver_rate: rate("deliver_get_details"),
            acknowledged: counted("ack") + counted("deliver_no_ack") + counted("get_no_ack"),
        });
        Some(Self {
            vhost: row["vhost"].as_str().unwrap_or_default().to_owned(),
            name: row["name"].as_str()?.to_owned(),
            queue_type: row["type"].as_str().unwrap_or("classic").to_owned(),
            ready: number("messages_ready").unwrap_or_default(),
            unsettled: number("messages_unacknowledged").unwrap_or_default(),
            statistics,
            oldest: None,
        })
    }

    pub(super) fn has_statistics(&self) -> bool {
        self.statistics.is_some()
    }

    /// The same row with the depths that the queue reports itself.
    pub(super) fn with_totals(self, totals: &Totals) -> Self {
        let found = totals.get(&(self.vhost.clone(), self.name.clone())).filter(|_| !self.has_statistics());
        let Some((ready, unsettled)) = found.copied() else { return self };
        Self { ready, unsettled, ..self }
    }

    /// The totals of a row without other fields.
    pub(super) fn totals(row: &Value) -> Option<((String, String), (u64, u64))> {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        let number = |key: &str| row[key].as_u64().unwrap_or_default();
        Some(((text("vhost")?, text("name")?), (number("messages_ready"), number("messages_unacknowledged"))))
    }

    fn into_figures(self) -> QueueFigures {
        QueueFigures {
            name: self.name,
            queue_type: self.queue_type,
            ready: self.ready,
            unsettled: Some(self.unsettled),
            consumers: self.statistics.map(|it| it.consumers),
            publish_rate: self.statistics.map(|it| it.publish_rate),
            deliver_rate: self.statistics.map(|it| it.deliver_rate),
            oldest: self.oldest,
        }
    }
}

impl Provisioner {
    /// The figures of a tenant's queues; empty if its vhost does not exist.
    ///
    /// # Errors
    /// When the request fails, and [`Error::TooLarge`] beyond 20,000 queues.
    pub async fn figures(&self, tenant: &TenantId) -> Result<TenantFigures, Error> {
        let (vhost, began) = (tenant.vhost(), Instant::now());
        let mut figures = TenantFigures::default();
        for row in self.queue_rows(Some(&vhost)).await? {
            figures.add(self.aged(row));
        }
        self.ages().polled(Some(&vhost), began);
        Ok(figures)
    }

    /// The figures of the queues of all tenants.
    ///
    /// # Errors
    /// As [`Self::figures`].
    pub async fn all_figures(&self) -> Result<BTreeMap<TenantId, TenantFigures>, Error> {
        let (mut tenants, began) = (BTreeMap::<_, TenantFigures>::new(), Instant::now());
        for row in self.queue_rows(None).await? {
            let tenant = row.vhost.strip_prefix("wg.").and_then(|id| TenantId::parse(id).ok());
            if let Some(tenant) = tenant {
                tenants.entry(tenant).or_default().add(self.aged(row));
            }
        }
        self.ages().polled(None, began);
        Ok(tenants)
    }

    async fn queue_rows(&self, vhost: Option<&str>) -> Result<Vec<Row>, Error> {
        let mut all = Vec::new();
        for number in 1..=MAX_PAGES {
            let Some(Page { rows, is_last }) = self.client().queue_rows(vhost, number).await? else { return Ok(all) };
            all.extend(rows);
            if is_last {
                return Ok(all);
            }
        }
        Err(Error::TooLarge)
    }

    /// The same row with the age of its oldest message. A stream queue keeps its messages, so it has none.
    fn aged(&self, row: Row) -> Row {
        let messages = row.ready.saturating_add(row.unsettled);
        let oldest = match row.statistics {
            _ if row.queue_type == "stream" || is_hidden(&row.name) => None,
            None => (messages == 0).then_some(Duration::ZERO),
            Some(Statistics { acknowledged, deliver_rate, .. }) => {
                let measured = Measured { messages, acknowledged, deliver_rate };
                self.ages().estimate(&row.vhost, &row.name, measured, Instant::now())
            }
        };
        Row { oldest, ..row }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gateways_own_queues_are_dead_letters_and_delays_and_not_the_tenants() {
        let mut figures = TenantFigures::default();
        for row in [
            json!({"vhost": "wg.acme", "name": "jobs", "type": "quorum", "messages_ready": 3,
                   "messages_unacknowledged": 2, "consumers": 1,
                   "message_stats": {"publish_details": {"rate": 1.5}, "ack": 7}}),
            json!({"vhost": "wg.acme", "name": "wg.dead-letters", "messages_ready": 4, "messages_unacknowledged": 1}),
            json!({"vhost": "wg.acme", "name": "wg.delay.100", "messages_ready": 6}),
            json!({"vhost": "wg.acme", "name": "new"}),
        ] {
            figures.add(Row::read(&row).expect("a row"));
        }
        assert_eq!((figures.dead_letters, figures.delayed, figures.queues.len()), (5, 6, 2));
        let [jobs, new] = &figures.queues[..] else { panic!("two queues") };
        assert_eq!((jobs.ready, jobs.unsettled, jobs.consumers), (3, Some(2), Some(1)));
        assert_eq!((jobs.publish_rate, jobs.deliver_rate), (Some(1.5), Some(0.0)));
        assert_eq!((new.consumers, new.publish_rate), (None, None), "no statistics yet");
        assert_eq!(figures.sum(|queue| Some(queue.ready)), 3);
    }

    #[test]
    fn a_queue_without_statistics_has_the_depths_that_it_reports() {
        let row = json!({"vhost": "wg.acme", "name": "new", "messages_ready": 8, "messages_unacknowledged": 1});
        let totals = Totals::from_iter(Row::totals(&row));
        let read =
            |vhost: &str| Row::read(&json!({"vhost": vhost, "name": "new"})).expect("a row").with_totals(&totals);
        let row = read("wg.acme");
        assert_eq!((row.ready, row.unsettled, row.has_statistics()), (8, 1, false));
        assert_eq!(read("wg.globex").ready, 0, "another tenant's queue of the same name");
    }
}
