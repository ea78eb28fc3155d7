//! The task of a subscription, which owns the stream and the window.
//!
//! It batches settlements, and passes deliveries and events to the application. A slow application delays neither
//! settlements nor token renewal; the messages that wait for it are bounded by the window.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{
    CLOSE_TIMEOUT, Event, Progress, SubscribeOptions,
    window::{Settlement, Window},
};
use crate::{
    Client, Error, Lifecycle,
    backoff::Backoff,
    pb::{
        Delivery, SubscribeRequest, SubscribeResponse, SubscribeStarted, subscribe_request::Frame,
        subscribe_response::Event as SubscribeEvent,
    },
    stream::{Inbound, Outbound, Received, Renewal, at, closed_by, is_draining, is_unauthenticated, pause_after},
    token::Token,
};

/// How long the first stream may take to open while the gateway is unavailable.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How many settlements are taken from the queue at once.
const INTAKE: usize = 256;
/// Within this time a gateway accepts a client that was created through another one; half a second is usual.
const PROPAGATION_TIME: Duration = Duration::from_secs(5);

/// What is passed to the application.
#[derive(Debug)]
pub(super) enum Item {
    Started(SubscribeStarted),
    /// Deliveries of this epoch.
    Deliveries(u64, Vec<Delivery>),
    Event(Box<Event>),
    /// The last item.
    Failed(Error),
}

pub(super) struct Driver {
    client: Client,
    options: SubscribeOptions,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    items: mpsc::Sender<Item>,
    /// The application drops deliveries of earlier epochs.
    progress: Arc<Progress>,
    window: Window,
    lease: Duration,
    /// The next extension of leases; `None` when nothing is unsettled.
    extend_at: Option<Instant>,
    waiting: VecDeque<Item>,
    waiting_messages: usize,
    most_waiting: usize,
    backoff: Backoff,
    tried_another_token: bool,
    /// When the last stream ended; `None` before the first stream was established and while a stream is open.
    away_since: Option<Instant>,
    was_established: bool,
    announced: bool,
    closing: bool,
    began: Instant,
}

/// One stream from its opening to its end.
struct Session {
    inbound: Inbound<SubscribeResponse>,
    outbound: Outbound<SubscribeRequest>,
    renewal: Renewal,
    new_token: Option<Arc<Token>>,
    /// Set when the gateway or this side ends the stream: the latest time at which it is closed.
    cut: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        options: SubscribeOptions,
        settlements: mpsc::UnboundedReceiver<Settlement>,
        items: mpsc::Sender<Item>,
        progress: Arc<Progress>,
    ) -> Self {
        let window = Window::new(!options.is_auto_ack());
        Self {
            client,
            options,
            settlements,
            items,
            progress,
            window,
            lease: Duration::from_secs(60),
            extend_at: None,
            waiting: VecDeque::new(),
            waiting_messages: 0,
            most_waiting: usize::MAX,
            backoff: Backoff::default(),
            tried_another_token: false,
            away_since: None,
            was_established: false,
            announced: false,
            closing: false,
            began: Instant::now(),
        }
    }

    /// Runs until the application closes the subscription, or until an error that a new stream would not resolve.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let closing = self.client.closing();
        while !self.closing {
            let mut session = Session::open(&self.client, self.options.start(self.window.resume_from()));
            let mut end = Ok(());
            tokio::select! {
                ended = self.drive(&mut session) => end = ended,
                // The client is closed as a whole.
                () = closing.cancelled(), if !self.closing => {}
            }
            if closing.is_cancelled() && !self.closing {
                self.close();
                end = self.drive(&mut session).await;
            }
            if let Err(error) = &end {
                if is_draining(error) {
                    session.inbound.leave(&self.client);
                }
                self.emit(Lifecycle::Disconnected, error.to_string());
            }
            let reason = match &end {
                Ok(()) => None,
                Err(error) if self.is_too_early(error) => None,
                Err(error) if self.can_retry(error, &mut session).await => Some(error.to_string()),
                Err(error) => {
                    let error = error.clone();
                    self.fail(error.clone()).await;
                    return Err(error);
                }
            };
            drop(session);
            if !self.closing {
                self.away_since.get_or_insert_with(Instant::now);
                self.invalidate_ids(reason);
                self.pause(end.as_ref().err()).await;
            }
        }
        Ok(())
    }

    fn emit(&self, kind: Lifecycle, detail: String) {
        self.client.emit(kind, self.options.queue_name(), detail);
    }

    /// Runs until the stream ends, with OK or with an error.
    async fn drive(&mut self, session: &mut Session) -> Result<(), Error> {
        let mut settlements = Vec::with_capacity(INTAKE);
        loop {
            let done = self.closing && !self.window.has_unwritten();
            let drained = session.cut.is_some() && self.window.is_settled(self.progress.last());
            if done || drained {
                session.outbound.close();
            }
            if self.closing {
                session.cut.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
            }
            let is_open = session.inbound.is_open() && session.outbound.is_open();
            let ends = self.closing || session.cut.is_some();
            let now = Instant::now();
            let write_at = self.window.write_at(now).map(|time| if ends { now } else { time });
            let is_due = session.new_token.is_some() || write_at.is_some_and(|time| time <= now);
            let can_write = is_open && is_due;
            let must_wait = is_open && !is_due && write_at.is_some();
            let can_hand_over = !self.waiting.is_empty() && !self.closing;
            tokio::select! {
                received = session.inbound.next(), if self.waiting_messages < self.most_waiting => match received? {
                    Received::Opened => {}
                    Received::Response(response) => self.take(response, session),
                    Received::End => return Ok(()),
                },
                () = at(write_at), if must_wait => {}
                () = at(self.extend_at), if self.extend_at.is_some() => self.extend_leases(),
                _ = self.settlements.recv_many(&mut settlements, INTAKE), if !self.closing => {
                    settlements.drain(..).for_each(|settlement| self.window.settle(settlement));
                }
                capacity = session.outbound.has_capacity(), if can_write => match capacity {
                    true => self.write_frame(session),
                    false => session.outbound.close(),
                },
                true = has_capacity(&self.items), if can_hand_over => self.pass_on(),
                () = self.items.closed(), if !self.closing => self.close(),
                token = session.renewal.ready() => session.new_token = token,
                () = at(session.cut) => return Ok(()),
            }
        }
    }

    fn write_frame(&mut self, session: &mut Session) {
        let frame = match session.new_token.take() {
            Some(token) => {
                self.notify(Event::Reauthenticated);
                self.emit(Lifecycle::Reauthenticated, String::new());
                Some(Frame::Reauthenticate(session.inbound.reauthenticate(token)))
            }
            None => self.window.next_frame(),
        };
        if frame.is_some() {
            session.outbound.write(SubscribeRequest { frame });
        }
    }

    /// Passes an item to the application, whose channel has capacity.
    fn pass_on(&mut self) {
        let Some(item) = self.waiting.pop_front() else { return };
        if let Item::Deliveries(_, deliveries) = &item {
            self.waiting_messages -= deliveries.len();
        }
        // The application may have dropped the subscription meanwhile.
        let _ = self.items.try_send(item);
    }

    fn take(&mut self, response: SubscribeResponse, session: &mut Session) {
        match response.event {
            // Deliveries of a stream that is about to end are delivered again.
            Some(SubscribeEvent::Deliveries(batch)) if !self.closing && session.cut.is_none() => {
                self.window.delivered(&batch.deliveries, Instant::now());
                self.extend_at.get_or_insert_with(|| Instant::now() + self.lease / 3);
                self.waiting_messages += batch.deliveries.len();
                self.waiting.push_back(Item::Deliveries(self.window.epoch(), batch.deliveries));
            }
            Some(SubscribeEvent::Started(started)) => self.established(started),
            Some(SubscribeEvent::Settled(settled)) => {
                self.window.expired(&settled.expired_delivery_ids);
                if !settled.expired_delivery_ids.is_empty() {
                    self.emit(Lifecycle::LeaseExpired, format!("{} messages", settled.expired_delivery_ids.len()));
                }
                self.notify(Event::Settled(settled));
            }
            Some(SubscribeEvent::Interrupted(interrupted)) => {
                self.emit(Lifecycle::Interrupted, interrupted.reason.clone());
                self.invalidate_ids(Some(interrupted.reason));
            }
            Some(SubscribeEvent::Resumed(_)) => {
                self.emit(Lifecycle::Resumed, String::new());
                self.resumed();
            }
            Some(SubscribeEvent::AuthExpiring(_)) => session.renewal = session.inbound.renewal(&self.client),
            Some(SubscribeEvent::Draining(warning)) => {
                self.emit(Lifecycle::Draining, String::new());
                session.inbound.leave(&self.client);
                session.cut = Some(closed_by(warning.deadline));
                self.progress.discard();
                self.drop_waiting();
            }
            // Heartbeats, events after closing, and events that only a newer gateway sends.
            _ => {}
        }
    }

    fn notify(&mut self, event: Event) {
        self.waiting.push_back(Item::Event(Box::new(event)));
    }

    fn extend_leases(&mut self) {
        self.window.extend_leases(Instant::now(), self.lease, self.options.lease_limit());
        // The timer starts again with the next delivery.
        self.extend_at = self.window.is_tracking().then(|| Instant::now() + self.lease / 3);
    }

    fn established(&mut self, started: SubscribeStarted) {
        self.emit(Lifecycle::Connected, String::new());
        if let Some(lease) = started.ack_deadline.and_then(|lease| Duration::try_from(lease).ok()) {
            self.lease = lease;
        }
        self.backoff.reset();
        self.tried_another_token = false;
        self.away_since = None;
        if self.options.is_auto_ack() {
            // Nothing else limits the gateway in that case.
            self.most_waiting = (started.max_outstanding_messages as usize).max(1);
        }
        if self.was_established {
            self.resumed();
        } else {
            self.was_established = true;
            self.waiting.push_back(Item::Started(started));
        }
    }

    fn resumed(&mut self) {
        if std::mem::take(&mut self.announced) {
            self.notify(Event::Resumed);
        }
    }

    /// Invalidates all ids so far. The application is notified unless it had settled everything.
    fn invalidate_ids(&mut self, reason: Option<String>) {
        // A stream queue would otherwise deliver again what was settled just before.
        while let Ok(settlement) = self.settlements.try_recv() {
            self.window.settle(settlement);
        }
        let reason = match reason {
            Some(reason) => Some(reason),
            None if self.window.is_settled(self.progress.last()) => None,
            None => Some("the gateway stopped before everything was settled".to_owned()),
        };
        self.window.next_epoch();
        self.progress.next_epoch(self.window.epoch());
        self.extend_at = None;
        self.drop_waiting();
        // Nothing was interrupted before the first start: the application waits for that.
        if let Some(reason) = reason
            && self.was_established
            && !std::mem::replace(&mut self.announced, true)
        {
            self.notify(Event::Interrupted { reason });
        }
    }

    /// Drops deliveries that were not passed to the application; they are delivered again.
    fn drop_waiting(&mut self) {
        self.waiting.retain(|item| !matches!(item, Item::Deliveries(..)));
        self.waiting_messages = 0;
    }

    /// Whether a new stream may succeed. A plan's limit refuses the first stream; a later one may only have been opened
    /// before the gateway noticed the end of its predecessor.
    async fn can_retry(&mut self, error: &Error, session: &mut Session) -> bool {
        if self.closing {
            return false;
        }
        if is_unauthenticated(error) && !self.tried_another_token {
            self.tried_another_token = true;
            return session.inbound.another_token(&self.client).await;
        }
        let is_patient = match (self.was_established, self.away_since, self.options.reconnect_limit()) {
            (false, ..) => error.code() != Some(Code::ResourceExhausted) && self.began.elapsed() < START_TIMEOUT,
            (true, Some(since), Some(limit)) => since.elapsed() < limit,
            (true, ..) => true,
        };
        error.is_retryable() && is_patient
    }

    /// Whether a client that was just created through another gateway may be unknown to this one.
    fn is_too_early(&self, error: &Error) -> bool {
        let dropped = error.refusal().is_some_and(|refusal| refusal.reason() == "CLIENT_NOT_YET_KNOWN");
        dropped && !self.closing && self.began.elapsed() < PROPAGATION_TIME
    }

    /// Waits before the next stream, and passes waiting items to the application meanwhile.
    async fn pause(&mut self, error: Option<&Error>) {
        let until = Instant::now() + pause_after(error, &mut self.backoff);
        let closing = self.client.closing();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = closing.cancelled() => return self.close(),
                () = self.items.closed() => return self.close(),
                true = has_capacity(&self.items), if !self.waiting.is_empty() => self.pass_on(),
            }
        }
    }

    /// The application closed or dropped the subscription: the queued settlements are still written.
    fn close(&mut self) {
        self.closing = true;
        self.settlements.close();
        while let Ok(settlement) = self.settlements.try_recv() {
            self.window.settle(settlement);
        }
    }

    /// Ends the subscription after the waiting items were passed to the application.
    async fn fail(mut self, error: Error) {
        self.settlements.close();
        for item in self.waiting {
            if self.items.send(item).await.is_err() {
                return;
            }
        }
        // The application may have dropped the subscription.
        let _ = self.items.send(Item::Failed(error)).await;
    }
}

impl Session {
    fn open(client: &Client, start: crate::pb::SubscribeStart) -> Self {
        // Capacity for the first frame and one more.
        let (frames, requests) = mpsc::channel(2);
        // The channel is new and has capacity.
        let _ = frames.try_send(SubscribeRequest { frame: Some(Frame::Start(start)) });
        let inbound =
            Inbound::open(
                client.clone(),
                |mut stubs| async move { stubs.subscribe(ReceiverStream::new(requests)).await },
            );
        let outbound = Outbound::new(frames);
        Self { inbound, outbound, renewal: Renewal::default(), new_token: None, cut: None }
    }
}

async fn has_capacity(items: &mpsc::Sender<Item>) -> bool {
    items.reserve().await.is_ok()
}
