//! The frames of a subscriber: acknowledge, reject, extend, re-authenticate.
//!
//! Invariant: ids are untrusted. Only tags of deliveries that are outstanding on this stream reach the broker; other
//! ids are reported to the client.

use std::time::Duration;

use tokio::time::Instant;

use super::{End, Machine, Subscription, failing::FailureCause, out_of_order, start::lease};
use crate::{
    broker::{Consumer, MAX_DELAY},
    error::{Failure, Kind},
    pb::{Ack, ExtendLease, Nack, NackAction, SubscribeRequest, subscribe_request::Frame},
    stream::outstanding::Tags,
    telemetry::Settlement,
};

const MAX_IDS: usize = 10_000;
const MAX_REASON: usize = 1_024;

impl Machine {
    pub(super) fn process(
        &mut self,
        consumer: &mut Consumer,
        subscription: &Subscription,
        request: SubscribeRequest,
    ) -> Result<(), End> {
        match request.frame {
            Some(Frame::Ack(ack)) => self.ack(consumer, ack),
            Some(Frame::Nack(nack)) => self.nack(consumer, subscription, nack),
            Some(Frame::ExtendLease(extend)) => self.extend(subscription, &extend),
            Some(Frame::Reauthenticate(frame)) => {
                // The session continues to check the grant for the queue, which the newer token may lack.
                Ok(self.session.reauthenticate(&frame.access_token)?)
            }
            Some(Frame::Start(_)) => Err(out_of_order("start must be the first frame and must not be repeated").into()),
            None => Err(Failure::invalid("frame", "must be ack, nack, extend_lease or reauthenticate").into()),
        }
    }

    fn ack(&mut self, consumer: &mut Consumer, ack: Ack) -> Result<(), End> {
        check_ids("ack.delivery_ids", ack.delivery_ids.len())?;
        let unknown = &mut self.unread.unknown_delivery_ids;
        let before = self.outstanding.len();
        let tags = self.outstanding.acknowledge(&ack.delivery_ids, ack.through, unknown);
        let done = (before - self.outstanding.len()) as u64;
        self.session.metrics().settled(Settlement::Ack, done);
        let settling = self.spans.settling(&ack.delivery_ids, ack.through, Settlement::Ack, "");
        self.acknowledge(consumer, tags)?;
        settling.done();
        Ok(())
    }

    /// Sends acknowledgements to the broker.
    pub(super) fn acknowledge(&mut self, consumer: &mut Consumer, tags: Tags) -> Result<(), End> {
        if let Some(through) = tags.through {
            consumer.ack_through(through)?;
        }
        for tag in tags.single {
            consumer.ack(tag)?;
        }
        Ok(())
    }

    fn nack(&mut self, consumer: &mut Consumer, subscription: &Subscription, nack: Nack) -> Result<(), End> {
        check_ids("nack.delivery_ids", nack.delivery_ids.len())?;
        if nack.reason.len() > MAX_REASON {
            return Err(Failure::invalid("nack.reason", format!("is longer than {MAX_REASON} bytes")).into());
        }
        let action = NackAction::try_from(nack.action).unwrap_or(NackAction::Unspecified);
        let delay = delay(&nack, action)?;
        if action == NackAction::Unspecified {
            return Err(Failure::invalid("nack.action", "must be RETRY, DEAD_LETTER or DROP").into());
        }
        if subscription.is_stream() && action != NackAction::Drop {
            return Err(Failure::new(
                Kind::Precondition,
                "UNSUPPORTED_BY_QUEUE_TYPE",
                "a stream queue keeps every message: acknowledge it, and publish a copy where it should be retried",
            )
            .into());
        }
        let settlement = match action {
            NackAction::Retry => Settlement::Retry,
            NackAction::DeadLetter => Settlement::DeadLetter,
            NackAction::Drop | NackAction::Unspecified => Settlement::Drop,
        };
        for id in nack.delivery_ids {
            let unknown = &mut self.unread.unknown_delivery_ids;
            if settlement == Settlement::Drop {
                let Some(tag) = self.outstanding.remove(id, unknown) else { continue };
                let settling = self.spans.settling(&[id], 0, settlement, &nack.reason);
                consumer.ack(tag)?;
                settling.done();
            } else {
                let Some(failed) = self.outstanding.fail(id, unknown) else { continue };
                let settling = self.spans.settling(&[id], 0, settlement, &nack.reason);
                let reason = nack.reason.clone();
                match settlement {
                    Settlement::DeadLetter => self.failing.dead_letter(failed, reason, settling),
                    _ => self.failing.retry(failed, FailureCause::Nacked { delay, reason }, settling),
                }
            }
            self.session.metrics().settled(settlement, 1);
        }
        Ok(())
    }

    fn extend(&mut self, subscription: &Subscription, extend: &ExtendLease) -> Result<(), End> {
        check_ids("extend_lease.delivery_ids", extend.delivery_ids.len())?;
        let lease: Duration = match &extend.ack_deadline {
            Some(requested) => lease("extend_lease.ack_deadline", requested)?,
            None => subscription.ack_deadline(),
        };
        let expires = Instant::now() + lease;
        for id in &extend.delivery_ids {
            self.outstanding.extend(*id, expires, &mut self.unread.unknown_delivery_ids);
        }
        Ok(())
    }
}

/// The delay of a RETRY.
fn delay(nack: &Nack, action: NackAction) -> Result<Option<Duration>, Failure> {
    let Some(delay) = &nack.delay else { return Ok(None) };
    if action != NackAction::Retry {
        return Err(Failure::invalid("nack.delay", "is only allowed with RETRY"));
    }
    match Duration::try_from(*delay) {
        Ok(delay) if delay <= MAX_DELAY => Ok(Some(delay)),
        _ => Err(Failure::invalid("nack.delay", "must be from 0 to 24 h")),
    }
}

fn check_ids(field: &'static str, count: usize) -> Result<(), Failure> {
    if count > MAX_IDS {
        return Err(Failure::invalid(field, format!("has {count} ids; at most {MAX_IDS} are allowed")));
    }
    Ok(())
}
