//! A unary batch of publications.
//!
//! Invariant: there are as many results as publications, in their order. If the gateway stops before all have an
//! outcome, the outcomes known by then are returned, and the others are reported as unknown.

use super::{Accepted, Intake, accept, charges, check_count, count, result, size, time, turn};
use crate::{
    broker::{PendingPublish, Publisher},
    error::Failure,
    memory::MemoryPermit,
    pb::{Publication, PublishResult},
    stream::session::{Notice, Session},
};

/// Publishes a batch and waits for every outcome. Returns one for each publication, in their order, and the memory that was
/// charged for the batch: it covers the outcomes until they are sent, so that they are never refused for lack of memory.
///
/// # Errors
/// When there are none or too many, there is no memory for them, or the session ends before all have an outcome.
pub async fn run_batch(
    mut publisher: Publisher,
    mut session: Session,
    publications: Vec<Publication>,
) -> Result<(Vec<PublishResult>, MemoryPermit), Failure> {
    check_count(publications.len())?;
    let mut results: Vec<Option<PublishResult>> = Vec::new();
    results.resize_with(publications.len(), || None);
    let mut intake = Intake::new(session.scope());
    let sizes: Vec<_> = publications.iter().map(size).collect();
    let weight = charges::weight(&publications, &sizes);
    let charge = session.memory().try_reserve_share(weight).map_err(Failure::from)?;
    let turn = turn(session.scope(), weight, &sizes).await;
    let Accepted { outgoing, refused, .. } = accept(&session, turn, publications, sizes, 0);
    for (order, result) in refused {
        results[order as usize] = Some(result);
    }
    let mut bytes = outgoing.iter().map(PendingPublish::bytes).sum::<usize>();
    publisher.push(intake.enter(outgoing));
    while publisher.in_flight() > 0 || !intake.is_empty() {
        session.set_in_flight(publisher.in_flight(), bytes);
        let busy = publisher.in_flight() > 0;
        tokio::select! {
            leaving = intake.leave(), if !intake.is_empty() => publisher.push(leaving),
            settled = publisher.settled(), if busy => {
                time(&session, &settled);
                intake.settled(&settled);
                for settled in settled {
                    bytes -= settled.bytes;
                    let order = settled.order as usize;
                    results[order] = Some(result(settled));
                }
            }
            notice = session.notice() => match notice {
                // The known outcomes are more useful to the caller than a status.
                Notice::Ended(_) if session.is_cut() => {
                    publisher.push(intake.take_all());
                    for settled in publisher.abandon().await {
                        let order = settled.order as usize;
                        results[order] = Some(result(settled));
                    }
                }
                Notice::Ended(failure) => return Err(failure),
                _ => {}
            },
        }
    }
    let results: Vec<_> = results.into_iter().flatten().collect();
    count(&session, &results);
    Ok((results, charge))
}
