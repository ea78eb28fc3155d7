//! The task of a publisher, which owns the pending messages and the stream.
//!
//! A frame is written whenever the transport accepts one, with the messages that are waiting then. Reading results
//! never waits for writing frames, so the two directions cannot block each other.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{Entry, pending::PendingMessages};
use crate::{
    Client, Error, Lifecycle,
    backoff::Backoff,
    pb::{Publications, PublishRequest, PublishResponse, publish_request::Frame, publish_response::Event},
    stream::{Inbound, Outbound, Received, Renewal, at, closed_by, is_draining, is_unauthenticated, pause_after},
    token::Token,
};

/// How long a gateway may take to end a stream that we closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many entries are taken from the queue at once.
const INTAKE: usize = 64;

pub(super) struct Driver {
    client: Client,
    queue: mpsc::UnboundedReceiver<Box<Entry>>,
    closing: bool,
    #[expect(clippy::vec_box, reason = "in the form of the queue's items")]
    intake: Vec<Box<Entry>>,
    pending: PendingMessages,
    /// The next check of deadlines.
    deadlines: Pin<Box<Sleep>>,
    backoff: Backoff,
    /// Set once another token was tried during the current series of failures.
    tried_another_token: bool,
    failure: Failure,
}

/// Why the last stream was refused; `None` after a result.
pub(super) type Failure = Arc<Mutex<Option<Error>>>;

/// The source of the lifecycle events.
const SOURCE: &str = "publisher";

/// One stream from its opening to its end.
struct Session {
    inbound: Inbound<PublishResponse>,
    outbound: Outbound<PublishRequest>,
    renewal: Renewal,
    new_token: Option<Arc<Token>>,
    /// Set when the gateway or this side ends the stream: the latest time at which it is closed.
    cut: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        queue: mpsc::UnboundedReceiver<Box<Entry>>,
        failure: Failure,
        pending: PendingMessages,
    ) -> Self {
        Self {
            client,
            queue,
            closing: false,
            intake: Vec::with_capacity(INTAKE),
            pending,
            deadlines: Box::pin(sleep_until(Instant::now())),
            backoff: Backoff::default(),
            tried_another_token: false,
            failure,
        }
    }

    pub(super) async fn run(mut self) {
        let ended = self.client.ended();
        tokio::select! {
            () = self.publish() => {}
            () = ended.cancelled() => {}
        }
        // The client is closed: nothing more will be answered.
        self.fail(Error::Closed);
    }

    async fn publish(&mut self) {
        loop {
            if self.pending.is_empty() {
                match self.queue.recv().await {
                    Some(entry) => self.pending.add(entry),
                    None => return,
                }
            }
            let mut session = Session::open(&self.client);
            let end = self.drive(&mut session).await;
            let error = end.err();
            if let Some(error) = &error {
                if is_draining(error) {
                    session.inbound.leave(&self.client);
                }
                self.client.emit(Lifecycle::Disconnected, SOURCE, error.to_string());
                tracing::debug!(%error, "publish stream ended");
            }
            match &error {
                None => {}
                Some(error) if error.is_retryable() => {}
                // Such a frame contains one message, and the gateway read nothing after it: the others are sent again.
                Some(error) if is_malformed_frame(error) && self.pending.reject_largest(error) => {}
                Some(error) if is_unauthenticated(error) && !self.tried_another_token => {
                    self.tried_another_token = true;
                    if !session.inbound.another_token(&self.client).await {
                        self.refused(error.clone());
                    }
                }
                Some(error) => self.refused(error.clone()),
            }
            if !self.pending.is_empty() {
                drop(session);
                self.pending.rewind();
                self.pause(error.as_ref()).await;
            }
        }
    }

    /// Runs until the stream ends, with OK or with an error.
    async fn drive(&mut self, session: &mut Session) -> Result<(), Error> {
        loop {
            if self.closing && self.pending.is_empty() {
                session.cut.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
            }
            if session.cut.is_some() {
                session.outbound.close();
            }
            let due = self.pending.next_deadline();
            // Reset once for each deadline, not for each message.
            if let Some(due) = due
                && (self.deadlines.is_elapsed() || due < self.deadlines.deadline())
            {
                self.deadlines.as_mut().reset(due);
            }
            let blocked = self.pending.blocked_until(Instant::now());
            let has_message = self.pending.has_unwritten() && blocked.is_none();
            let can_write =
                session.inbound.is_open() && session.outbound.is_open() && (session.new_token.is_some() || has_message);
            tokio::select! {
                received = session.inbound.next() => match received? {
                    Received::Opened => self.client.emit(Lifecycle::Connected, SOURCE, String::new()),
                    Received::Response(response) => self.take(response, session),
                    Received::End => return Ok(()),
                },
                taken = self.queue.recv_many(&mut self.intake, INTAKE), if !self.closing => {
                    self.closing = taken == 0;
                    self.intake.drain(..).for_each(|entry| self.pending.add(entry));
                }
                capacity = session.outbound.has_capacity(), if can_write => match capacity {
                    true => self.write_frame(session),
                    false => session.outbound.close(),
                },
                token = session.renewal.ready() => session.new_token = token,
                // Throttled messages may be written from now on.
                () = at(blocked), if blocked.is_some() => {}
                () = at(session.cut) => return Ok(()),
                () = &mut self.deadlines, if due.is_some() => self.pending.expire(Instant::now()),
            }
        }
    }

    fn write_frame(&mut self, session: &mut Session) {
        let frame = match session.new_token.take() {
            Some(token) => {
                self.client.emit(Lifecycle::Reauthenticated, SOURCE, String::new());
                Frame::Reauthenticate(session.inbound.reauthenticate(token))
            }
            None => match self.pending.next_frame() {
                // The waiting messages have expired.
                publications if publications.is_empty() => return,
                publications => Frame::Publications(Publications { publications }),
            },
        };
        session.outbound.write(PublishRequest { frame: Some(frame) });
    }

    fn take(&mut self, response: PublishResponse, session: &mut Session) {
        match response.event {
            Some(Event::Results(results)) => {
                self.backoff.reset();
                self.tried_another_token = false;
                *lock(&self.failure) = None;
                for result in results.results {
                    // It is sent to the next gateway with the same id, as if the stream had broken before the answer.
                    if session.cut.is_some() && result.reason.starts_with("DRAINING: ") {
                        continue;
                    }
                    if !self.pending.answer(result) {
                        tracing::debug!("received a result for a message that already has an outcome");
                    }
                }
            }
            Some(Event::AuthExpiring(_)) => session.renewal = session.inbound.renewal(&self.client),
            Some(Event::Draining(warning)) => {
                self.client.emit(Lifecycle::Draining, SOURCE, String::new());
                session.inbound.leave(&self.client);
                session.cut = Some(closed_by(warning.deadline));
            }
            // An event that only a newer gateway sends.
            None => {}
        }
    }

    /// Waits before the next stream, and expires messages meanwhile.
    async fn pause(&mut self, error: Option<&Error>) {
        let until = Instant::now() + pause_after(error, &mut self.backoff);
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                () = at(self.pending.next_deadline()) => self.pending.expire(Instant::now()),
            }
        }
    }

    /// Ends all current messages, because the gateway refused the stream and a new one would not help. The next message
    /// tries again.
    fn refused(&mut self, error: Error) {
        tracing::warn!(%error, "the gateway refused the publisher");
        while let Ok(entry) = self.queue.try_recv() {
            self.pending.add(entry);
        }
        self.pending.rewind();
        self.pending.fail_all(&error);
        self.tried_another_token = false;
        *lock(&self.failure) = Some(error);
    }

    /// Ends all messages, and accepts no more.
    fn fail(&mut self, error: Error) {
        self.queue.close();
        while let Ok(entry) = self.queue.try_recv() {
            self.pending.add(entry);
        }
        self.pending.fail_all(&error);
    }
}

/// The failure is replaced as a whole, so that a panic cannot leave it half-changed.
pub(super) fn lock(failure: &Mutex<Option<Error>>) -> std::sync::MutexGuard<'_, Option<Error>> {
    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the gateway refused a frame, for example because it is larger than the gateway's limit.
fn is_malformed_frame(error: &Error) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason() == "MALFORMED_FRAME")
}

impl Session {
    fn open(client: &Client) -> Self {
        // One frame waits while another is written; more would only increase latency.
        let (frames, requests) = mpsc::channel(1);
        let inbound =
            Inbound::open(
                client.clone(),
                |mut stubs| async move { stubs.publish(ReceiverStream::new(requests)).await },
            );
        let outbound = Outbound::new(frames);
        Self { inbound, outbound, renewal: Renewal::default(), new_token: None, cut: None }
    }
}
