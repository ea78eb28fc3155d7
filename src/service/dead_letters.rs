//! A tenant's dead letters. A client that may subscribe to a queue may list, redrive and delete its dead letters;
//! those of other queues do not exist for it. The caller's grants are part of every selection.

use std::{
    collections::HashSet,
    pin::{Pin, pin},
    time::{Duration, UNIX_EPOCH},
};

use futures_util::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::page::Page;
use crate::{
    broker::{
        self, Broker, DEAD_LETTER_PAGE_BYTES, DeadLetter, DeadLetterEdit, DeadLetterPageRequest, NewDestination,
        Redriven,
    },
    error::{Failure, Kind},
    memory::{MemoryBudget, MemoryPermit},
    names::QueueName,
    pb,
    stream::session::{Notice, Session, draining},
    tenant::TenantScope,
};

/// The memory charged for a page, which is read, converted and encoded.
const COPIES: usize = 3;
const MAX_IDS: usize = 1_000;
const MAX_PER_SECOND: u32 = 100_000;
/// How long a redrive whose caller may not continue completes the messages in flight, so that none of them remains a dead
/// letter.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(10);

/// The progress reports of a redrive.
pub(super) type Progress = Pin<Box<dyn Stream<Item = Result<pb::RedriveDeadLettersResponse, Status>> + Send>>;

/// Lists a page. It is charged to the tenant's memory until it is sent, because the caller may read it slowly.
pub(super) async fn list(
    broker: &Broker,
    scope: &TenantScope,
    request: pb::ListDeadLettersRequest,
    memory: &MemoryBudget,
) -> Result<(pb::ListDeadLettersResponse, MemoryPermit), Failure> {
    let page = Page::parse(request.page_size, &request.page_token, parse_position)?;
    let filter = Filter::parse("filter", request.filter.unwrap_or_default())?;
    require_subscribe_grant(scope)?;
    let selected = |letter: &DeadLetter| is_granted(scope, letter) && filter.matches(letter);
    let page_request = DeadLetterPageRequest {
        after: page.after.clone(),
        max_letters: page.size(),
        without_bodies: request.without_bodies,
    };
    let copies = COPIES * DEAD_LETTER_PAGE_BYTES;
    let mut charge = memory.try_reserve(copies.min(memory.limit() / 2))?;
    let found = broker.dead_letters(scope).list(page_request, selected).await?;
    let last = found.letters.last().map(|letter| format!("{} {}", letter.died, letter.id));
    let next_page_token = last.filter(|_| found.has_more).map(Page::<(u64, String)>::token).unwrap_or_default();
    let dead_letters = found.letters.iter().map(entry).collect();
    let page = pb::ListDeadLettersResponse { dead_letters, next_page_token };
    // A dead letter that is larger than a page is returned alone.
    let bytes = page.encoded_len();
    charge.shrink_to(bytes);
    if bytes > charge.bytes() {
        charge.merge(memory.try_reserve(bytes - charge.bytes())?);
    }
    Ok((page, charge))
}

pub(super) fn redrive(
    broker: &Broker,
    mut session: Session,
    request: pb::RedriveDeadLettersRequest,
) -> Result<Progress, Failure> {
    let selection = Selection::parse(request.selection)?;
    if request.max_per_second > MAX_PER_SECOND {
        return Err(Failure::invalid("max_per_second", "must be at most 100,000"));
    }
    let edit = request.edit.map(|edit| parse_edit(&session, &selection, edit)).transpose()?;
    let edited = edit.as_ref().map(|(_, what)| what.clone());
    let edit = edit.map(|(edit, _)| edit).unwrap_or_default();
    // A running redrive ends when the last subscribe grant of its client is removed.
    session.require(subscribe_not_granted(), |grants| grants.may_subscribe_somewhere())?;
    let letters = broker.dead_letters(session.scope());
    let (reports, progress) = mpsc::channel(1);
    let (last, end) = mpsc::channel(1);
    let refused = CancellationToken::new();
    let progress = ReceiverStream::new(progress).map(Ok).take_until(refused.clone().cancelled_owned());
    tokio::spawn(async move {
        let (scope, tracer) = (session.scope().clone(), session.tracer().clone());
        let audit_context = session.audit_context().clone();
        let selected = |letter: &DeadLetter| is_granted(&scope, letter) && selection.contains(letter);
        let rate = (request.max_per_second > 0).then_some(request.max_per_second);
        let stop = CancellationToken::new();
        // The messages are stored already, so only the plan's rates apply.
        let body = edit.body.as_ref().map_or(0, bytes::Bytes::len);
        let may_send = |bytes: usize| scope.budget().take_again(bytes.max(body));
        let reports = (reports, session.memory());
        let run = pin!(letters.redrive(selected, (edit, rate), may_send, reports, &tracer, &stop));
        let (result, unfinished) = until_ended(run, &mut session, &stop).await;
        match &result {
            Ok(done) => {
                session.listed().count(usize::try_from(done.redriven).unwrap_or(usize::MAX));
                let edited = edited.map(|what| format!(", {what}")).unwrap_or_default();
                let noun = if done.redriven == 1 { "dead letter" } else { "dead letters" };
                audit_context.done(Some(&format!("{} {noun} redriven{edited}", done.redriven)));
                tracing::info!(
                    tenant = %scope.tenant(), client = %scope.caller().client(),
                    redriven = done.redriven, failed = done.failed, "dead letters redriven"
                );
            }
            Err(failure) => {
                audit_context.done(Some("dead letters, ended early"));
                tracing::warn!(tenant = %scope.tenant(), %failure, "redrive ended early")
            }
        }
        // The caller may have disconnected.
        let _ = last.send(result).await;
        refused.cancel();
        if let Some(run) = unfinished {
            let _ = tokio::time::timeout(COMPLETION_TIMEOUT, run).await;
        }
    });
    let reports = progress.chain(ReceiverStream::new(end));
    Ok(Box::pin(reports.map(|report| report.map(response).map_err(Status::from))))
}

/// Checks the changes to a single dead letter; returns them with a description for the audit trail.
fn parse_edit(
    session: &Session,
    selection: &Selection,
    edit: pb::DeadLetterEdit,
) -> Result<(DeadLetterEdit, String), Failure> {
    if !matches!(selection, Selection::Ids(ids) if ids.len() == 1) {
        let text = "is allowed only with a selection of exactly one dead_letter_ids";
        return Err(Failure::invalid("edit", text));
    }
    let scope = session.scope();
    let max = session.max_body_bytes(&scope.plan());
    if let Some(body) = edit.body.as_ref().filter(|body| body.len() as u64 > max) {
        let text = format!("has {} bytes; at most {max} are allowed", body.len());
        let failure = Failure::new(Kind::Invalid, "MESSAGE_TOO_LARGE", text);
        return Err(failure.on_field("edit.body"));
    }
    let destination = match &edit.destination {
        None => None,
        Some(asked) => {
            let destination = NewDestination::check(&asked.exchange, &asked.routing_key).map_err(|failure| {
                match failure.field.clone() {
                    Some(field) => failure.on_field(format!("edit.destination.{field}")),
                    None => failure,
                }
            })?;
            let (exchange, key) = (destination.exchange_in_grants(), destination.routing_key());
            if !scope.grants().may_publish(exchange, key) {
                let text = format!("this client may not publish to exchange {exchange:?} with routing key {key:?}");
                return Err(Failure::new(Kind::Denied, "PUBLISH_NOT_GRANTED", text));
            }
            Some(destination)
        }
    };
    let what = match (&edit.body, &destination) {
        (Some(_), None) => "with another body".to_owned(),
        (Some(_), Some(to)) => format!("with another body, to {}/{}", to.exchange_in_grants(), to.routing_key()),
        (None, Some(to)) => format!("to {}/{}", to.exchange_in_grants(), to.routing_key()),
        (None, None) => return Err(Failure::invalid("edit", "must have a body or a destination")),
    };
    Ok((DeadLetterEdit { body: edit.body, destination }, what))
}

/// Runs until it is done or its session ends. If the gateway stops, messages in flight are completed. If the caller may not
/// continue, it gets its failure at once, and the run is returned, which completes only the messages in flight.
async fn until_ended<R: Future<Output = Result<Redriven, broker::Error>> + Unpin>(
    mut run: R,
    session: &mut Session,
    stop: &CancellationToken,
) -> (Result<Redriven, Failure>, Option<R>) {
    loop {
        tokio::select! {
            done = &mut run => {
                let result = match done {
                    Ok(_) if stop.is_cancelled() => Err(draining()),
                    done => done.map_err(Failure::from),
                };
                return (result, None);
            }
            notice = session.notice() => match notice {
                Notice::Ended(failure) => {
                    stop.cancel();
                    return (Err(failure), Some(run));
                }
                Notice::Draining(_) => stop.cancel(),
                // The client cannot send a newer token on this call.
                Notice::AuthExpiring(_) => {}
            },
        }
    }
}

pub(super) async fn purge(
    broker: &Broker,
    scope: &TenantScope,
    request: pb::PurgeDeadLettersRequest,
) -> Result<pb::PurgeDeadLettersResponse, Failure> {
    let selection = Selection::parse(request.selection)?;
    require_subscribe_grant(scope)?;
    let selected = |letter: &DeadLetter| is_granted(scope, letter) && selection.contains(letter);
    let purged = broker.dead_letters(scope).purge(selected).await?;
    tracing::info!(tenant = %scope.tenant(), client = %scope.caller().client(), purged, "dead letters deleted");
    Ok(pb::PurgeDeadLettersResponse { purged })
}

/// Every call reads all dead letters of the tenant, so a client that may not see any of them is refused.
fn require_subscribe_grant(scope: &TenantScope) -> Result<(), Failure> {
    match scope.grants().may_subscribe_somewhere() {
        true => Ok(()),
        false => Err(subscribe_not_granted()),
    }
}

fn subscribe_not_granted() -> Failure {
    let text = "this client may not subscribe to any queue, so it may not use dead letters either";
    Failure::new(Kind::Denied, "SUBSCRIBE_NOT_GRANTED", text)
}

fn is_granted(scope: &TenantScope, letter: &DeadLetter) -> bool {
    QueueName::parse(&letter.queue).is_ok_and(|queue| scope.grants().may_subscribe(&queue))
}

/// The position in a page token.
fn parse_position(key: &str) -> Result<(u64, String), ()> {
    let (died, id) = key.split_once(' ').ok_or(())?;
    Ok((died.parse().map_err(|_| ())?, id.to_owned()))
}

/// A condition for dead letters.
struct Filter {
    requested: pb::DeadLetterFilter,
    after: Option<u64>,
    before: Option<u64>,
}

impl Filter {
    fn parse(field: &'static str, requested: pb::DeadLetterFilter) -> Result<Self, Failure> {
        let named = |what: &str| format!("{field}.{what}");
        if !requested.queue.is_empty() {
            QueueName::parse(&requested.queue).map_err(|error| Failure::from(error).on_field(named("queue")))?;
        }
        let millis = |what: &str, time: &Option<prost_types::Timestamp>| match time {
            None => Ok(None),
            Some(time) => match (u64::try_from(time.seconds), u64::try_from(time.nanos)) {
                (Ok(seconds), Ok(nanos)) => Ok(Some(seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000))),
                _ => Err(Failure::invalid(named(what), "must not be before 1970")),
            },
        };
        let (after, before) =
            (millis("died_after", &requested.died_after)?, millis("died_before", &requested.died_before)?);
        Ok(Self { requested, after, before })
    }

    fn matches(&self, letter: &DeadLetter) -> bool {
        let same = |requested: &str, is: &str| requested.is_empty() || requested == is;
        same(&self.requested.queue, &letter.queue)
            && same(&self.requested.dead_letter_id, &letter.id)
            && same(&self.requested.code, &letter.code)
            && letter.reason.contains(&self.requested.reason_contains)
            && self.after.is_none_or(|after| letter.died >= after)
            && self.before.is_none_or(|before| letter.died < before)
    }
}

/// The selected dead letters.
enum Selection {
    Ids(HashSet<String>),
    Filter(Filter),
    All,
}

impl Selection {
    fn parse(requested: Option<pb::DeadLetterSelection>) -> Result<Self, Failure> {
        let requested = requested.unwrap_or_default();
        match (requested.dead_letter_ids.len(), requested.filter, requested.all) {
            (1..=MAX_IDS, None, false) => Ok(Self::Ids(requested.dead_letter_ids.into_iter().collect())),
            (count, None, false) if count > MAX_IDS => {
                Err(Failure::invalid("selection.dead_letter_ids", "are more than 1,000; use a filter, or call again"))
            }
            // A filter that was left empty by mistake must not select all.
            (0, Some(filter), false) if filter != pb::DeadLetterFilter::default() => {
                Ok(Self::Filter(Filter::parse("selection.filter", filter)?))
            }
            (0, None, true) => Ok(Self::All),
            _ => {
                Err(Failure::invalid("selection", "must be either dead_letter_ids, a filter that is not empty, or all"))
            }
        }
    }

    fn contains(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&letter.id),
            Self::Filter(filter) => filter.matches(letter),
            Self::All => true,
        }
    }
}

fn entry(letter: &DeadLetter) -> pb::DeadLetter {
    let time = |millis: u64| (UNIX_EPOCH + Duration::from_millis(millis)).into();
    pb::DeadLetter {
        dead_letter_id: letter.id.clone(),
        message: Some(letter.message()),
        queue: letter.queue.clone(),
        exchange: letter.exchange.clone(),
        routing_key: letter.routing_key.clone(),
        code: letter.code.clone(),
        reason: letter.reason.clone(),
        attempts: letter.attempts,
        first_failure: letter.first_failure.map(time),
        last_failure: letter.last_failure.map(time),
        died: Some(time(letter.died)),
        redrives: letter.redrives,
    }
}

fn response(progress: Redriven) -> pb::RedriveDeadLettersResponse {
    let Redriven { redriven, failed, remaining, failures } = progress;
    let failure = |(dead_letter_id, reason)| pb::RedriveFailure { dead_letter_id, reason };
    let failures = failures.into_iter().map(failure).collect();
    pb::RedriveDeadLettersResponse { redriven, failed, remaining, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_exactly_one_thing_and_never_all_by_mistake() {
        let ids =
            |count: usize| pb::DeadLetterSelection { dead_letter_ids: vec!["a".into(); count], ..Default::default() };
        let filter = pb::DeadLetterFilter { queue: "jobs".into(), ..Default::default() };
        let empty = Some(pb::DeadLetterFilter::default());
        assert!(matches!(Selection::parse(Some(ids(1))), Ok(Selection::Ids(_))));
        assert!(Selection::parse(Some(pb::DeadLetterSelection { all: true, ..Default::default() })).is_ok());
        let selection = pb::DeadLetterSelection { filter: Some(filter), ..Default::default() };
        assert!(matches!(Selection::parse(Some(selection.clone())), Ok(Selection::Filter(_))));
        let bad = [
            None,
            Some(ids(0)),
            Some(ids(1_001)),
            Some(pb::DeadLetterSelection { all: true, ..ids(1) }),
            Some(pb::DeadLetterSelection { all: true, ..selection }),
            Some(pb::DeadLetterSelection { filter: empty, ..ids(0) }),
        ];
        for selection in bad {
            assert!(Selection::parse(selection.clone()).is_err(), "{selection:?}");
        }
    }

    #[test]
    fn a_position_survives_its_token() {
        assert_eq!(parse_position("1700 abc"), Ok((1_700, "abc".into())));
        assert!(parse_position("abc").is_err() && parse_position("x y").is_err());
    }
}
