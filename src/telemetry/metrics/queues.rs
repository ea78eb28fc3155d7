//! The figures of the tenants' queues at the broker, as reported by the last poll. Each poll replaces the figures of
//! the previous one, so that nothing remains of a deleted tenant.

use std::fmt;

use super::{
    MAX_TENANTS, OTHER,
    encode::{Encoder, metric},
    names,
};
use crate::names::TenantId;

/// The figures of one tenant's queues.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TenantQueues {
    /// Messages ready.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unsettled: u64,
    /// Messages that wait for their next attempt.
    pub delayed: u64,
    /// Dead letters stored.
    pub dead_letters: u64,
    /// Consumers, if they are known: a 0 for want of statistics would look like a queue that nobody reads.
    pub consumers: Option<u64>,
    /// The age of the oldest message in seconds, if it is known.
    pub oldest_seconds: Option<f64>,
}

impl TenantQueues {
    fn is_empty(&self) -> bool {
        let Self { ready, unsettled, delayed, dead_letters, consumers, .. } = self;
        [*ready, *unsettled, *delayed, *dead_letters, consumers.unwrap_or_default()].iter().all(|count| *count == 0)
    }

    fn add(&mut self, other: &Self) {
        self.ready += other.ready;
        self.unsettled += other.unsettled;
        self.delayed += other.delayed;
        self.dead_letters += other.dead_letters;
        self.consumers = self.consumers.zip(other.consumers).map(|(a, b)| a + b);
        self.oldest_seconds = match (self.oldest_seconds, other.oldest_seconds) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (known, None) | (None, known) => known,
        };
    }
}

/// The tenants with a label of their own, by id: those that have the most, or whose label is in use anyway. All others
/// are summed up under one label. Tenants without messages and consumers are left out unless their label is in use.
pub(super) fn labelled(
    tenants: Vec<(TenantId, TenantQueues)>,
    is_labelled: impl Fn(&TenantId) -> bool,
) -> Vec<(String, TenantQueues)> {
    let mut tenants: Vec<_> = tenants
        .into_iter()
        .map(|(tenant, queues)| (is_labelled(&tenant), tenant, queues))
        .filter(|(is_labelled, _, queues)| *is_labelled || !queues.is_empty())
        .collect();
    let stored = |queues: &TenantQueues| queues.ready + queues.unsettled + queues.delayed + queues.dead_letters;
    tenants.sort_by(|(a_labelled, a_id, a), (b_labelled, b_id, b)| {
        b_labelled.cmp(a_labelled).then(stored(b).cmp(&stored(a))).then(a_id.cmp(b_id))
    });
    let (mut shown, mut others) = (Vec::new(), None::<TenantQueues>);
    for (_, tenant, queues) in tenants {
        if shown.len() < MAX_TENANTS && tenant.as_str() != OTHER {
            shown.push((tenant.to_string(), queues));
        } else {
            match &mut others {
                Some(others) => others.add(&queues),
                None => others = Some(queues),
            }
        }
    }
    shown.sort_by(|(a, _), (b, _)| a.cmp(b));
    shown.extend(others.map(|queues| (OTHER.to_owned(), queues)));
    shown
}

/// Writes the figures.
pub(super) fn encode(encoder: &mut Encoder<'_>, tenants: &[(String, TenantQueues)]) -> fmt::Result {
    metric(encoder, &names::QUEUE_MESSAGES, |samples| {
        for (tenant, queues) in tenants {
            for (state, count) in
                [("ready", queues.ready), ("unsettled", queues.unsettled), ("delayed", queues.delayed)]
            {
                samples.gauge_with([("tenant", tenant), ("state", state)], count as f64)?;
            }
        }
        Ok(())
    })?;
    metric(encoder, &names::QUEUE_CONSUMERS, |samples| {
        let known = tenants.iter().filter_map(|(tenant, queues)| Some((tenant, queues.consumers?)));
        known.into_iter().try_for_each(|(tenant, count)| samples.gauge_with([("tenant", tenant)], count as f64))
    })?;
    metric(encoder, &names::OLDEST_MESSAGE, |samples| {
        let known = tenants.iter().filter_map(|(tenant, queues)| Some((tenant, queues.oldest_seconds?)));
        known.into_iter().try_for_each(|(tenant, seconds)| samples.gauge_with([("tenant", tenant)], seconds))
    })?;
    metric(encoder, &names::DEAD_LETTERS_STORED, |samples| {
        let one = |(tenant, queues): &(String, TenantQueues)| {
            samples.gauge_with([("tenant", tenant)], queues.dead_letters as f64)
        };
        tenants.iter().try_for_each(one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: usize, ready: u64) -> (TenantId, TenantQueues) {
        let id = TenantId::parse(&format!("tenant-{number}")).expect("an id");
        (id, TenantQueues { ready, oldest_seconds: Some(ready as f64), ..TenantQueues::default() })
    }

    #[test]
    fn the_number_of_labels_is_bounded_and_the_others_are_summed_up() {
        let tenants = (0..MAX_TENANTS + 3).map(|number| tenant(number, 10 + number as u64)).collect();
        let shown = labelled(tenants, |id| id.as_str() == "tenant-0");
        assert_eq!(shown.len(), MAX_TENANTS + 1);
        let others = shown.iter().find(|(label, _)| label == OTHER).map(|(_, queues)| *queues);
        let sum = TenantQueues { ready: 11 + 12 + 13, oldest_seconds: Some(13.0), ..TenantQueues::default() };
        assert_eq!(others, Some(sum), "those with the fewest messages, except the one whose label is in use");
    }

    #[test]
    fn a_sum_of_consumers_is_known_only_if_each_is_known() {
        let sum = |a, b| {
            let mut sum = TenantQueues { consumers: a, ..TenantQueues::default() };
            sum.add(&TenantQueues { consumers: b, ..TenantQueues::default() });
            sum.consumers
        };
        assert_eq!((sum(Some(1), Some(2)), sum(Some(1), None), sum(None, Some(2))), (Some(3), None, None));
    }

    #[test]
    fn tenants_without_anything_have_no_label() {
        assert!(labelled(vec![tenant(1, 0)], |_| false).is_empty());
        assert_eq!(labelled(vec![tenant(1, 0)], |_| true).len(), 1);
    }
}
