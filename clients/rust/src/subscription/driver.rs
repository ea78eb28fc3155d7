//! The task behind a subscription: it owns the stream and the window. Settlements come in by a queue and go out together;
//! deliveries and events go to the application as fast as it takes them. Invariant: a slow application never keeps a
//! settlement from being written, nor the token from being renewed; what waits for it is bounded by the window.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    CLOSE_TIMEOUT, Event, SubscribeOptions,
    window::{Settlement, Window},
};
use crate::{
    Client, Error,
    backoff::Backoff,
    pb::{
        Delivery, SubscribeRequest, SubscribeResponse, SubscribeStarted, subscribe_request::Frame,
        subscribe_response::Event as Heard,
    },
    stream::{Inbound, Outbound, Renewal, at, cut_at, is_unauthenticated},
    token::Token,
};

/// How many settlements are taken from the queue at once.
const INTAKE: usize = 256;
/// By then a gateway has heard of a client that another one made; half a second is usual.
const HEARS_WITHIN: Duration = Duration::from_secs(5);

/// What goes to the application.
#[derive(Debug)]
pub(super) enum Item {
    Started(SubscribeStarted),
    /// Of this epoch.
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
    /// For the application, which drops what is void.
    epoch: Arc<AtomicU64>,
    window: Window,
    waiting: VecDeque<Item>,
    waiting_messages: usize,
    most_waiting: usize,
    backoff: Backoff,
    tried_another_token: bool,
    /// Since when there is no stream; none before the first one stood and while one stands.
    away_since: Option<Instant>,
    stood: bool,
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
    /// Set when the stream is to end, by the gateway's wish or by ours: when it is cut at the latest.
    cut: Option<Instant>,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        options: SubscribeOptions,
        settlements: mpsc::UnboundedReceiver<Settlement>,
        items: mpsc::Sender<Item>,
        epoch: Arc<AtomicU64>,
    ) -> Self {
        let window = Window::new(!options.is_auto_ack());
        Self {
            client,
            options,
            settlements,
            items,
            epoch,
            window,
            waiting: VecDeque::new(),
            waiting_messages: 0,
            most_waiting: usize::MAX,
            backoff: Backoff::default(),
            tried_another_token: false,
            away_since: None,
            stood: false,
            announced: false,
            closing: false,
            began: Instant::now(),
        }
    }

    /// Until the application closes the subscription, or an error that another stream would not mend.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        while !self.closing {
            let mut session = Session::open(&self.client, self.options.start(self.window.resume_from()));
            let end = self.drive(&mut session).await;
            let reason = match end {
                Ok(()) => None,
                Err(error) if self.is_too_early(&error) => None,
                Err(error) if self.may_come_back(&error, &mut session).await => Some(error.to_string()),
                Err(error) => {
                    self.fail(error.clone()).await;
                    return Err(error);
                }
            };
            drop(session);
            if !self.closing {
                self.away_since.get_or_insert_with(Instant::now);
                self.turn_the_page(reason);
                self.pause().await;
            }
        }
        Ok(())
    }

    /// Until the stream ends, with OK or with an error.
    async fn drive(&mut self, session: &mut Session) -> Result<(), Error> {
        let mut settlements = Vec::with_capacity(INTAKE);
        loop {
            let done = self.closing && !self.window.has_unwritten();
            let drained = session.cut.is_some() && self.window.is_settled();
            if done || drained {
                session.outbound.close();
            }
            if self.closing {
                session.cut.get_or_insert_with(|| Instant::now() + CLOSE_TIMEOUT);
            }
            let can_write = session.outbound.is_open() && (session.new_token.is_some() || self.window.has_unwritten());
            let can_hand_over = !self.waiting.is_empty() && !self.closing;
            tokio::select! {
                response = session.inbound.next(), if self.waiting_messages < self.most_waiting => match response? {
                    Some(response) => self.take(response, session),
                    None => return Ok(()),
                },
                _ = self.settlements.recv_many(&mut settlements, INTAKE), if !self.closing => {
                    settlements.drain(..).for_each(|settlement| self.window.settle(settlement));
                }
                room = session.outbound.has_room(), if can_write => match room {
                    true => self.write_frame(session),
                    false => session.outbound.close(),
                },
                true = has_room(&self.items), if can_hand_over => self.hand_over_one(),
                () = self.items.closed(), if !self.closing => self.close(),
                token = session.renewal.ready() => session.new_token = token,
                () = at(session.cut) => return Ok(()),
            }
        }
    }

    fn write_frame(&mut self, session: &mut Session) {
        let frame = match session.new_token.take() {
            Some(token) => {
                self.tell(Event::Reauthenticated);
                Some(Frame::Reauthenticate(session.inbound.reauthenticate(token)))
            }
            None => self.window.next_frame(),
        };
        if frame.is_some() {
            session.outbound.write(SubscribeRequest { frame });
        }
    }

    /// Gives the application an item for which there is room.
    fn hand_over_one(&mut self) {
        let Some(item) = self.waiting.pop_front() else { return };
        if let Item::Deliveries(_, deliveries) = &item {
            self.waiting_messages -= deliveries.len();
        }
        // The application may have gone since; then nobody misses it.
        let _ = self.items.try_send(item);
    }

    fn take(&mut self, response: SubscribeResponse, session: &mut Session) {
        match response.event {
            Some(Heard::Deliveries(batch)) if !self.closing => {
                self.window.delivered(&batch.deliveries);
                self.waiting_messages += batch.deliveries.len();
                self.waiting.push_back(Item::Deliveries(self.window.epoch(), batch.deliveries));
            }
            Some(Heard::Started(started)) => self.stands(started),
            Some(Heard::Settled(settled)) => {
                self.window.expired(&settled.expired_delivery_ids);
                self.tell(Event::Settled(settled));
            }
            Some(Heard::Interrupted(interrupted)) => self.turn_the_page(Some(interrupted.reason)),
            Some(Heard::Resumed(_)) => self.resumed(),
            Some(Heard::AuthExpiring(warning)) => {
                session.renewal = session.inbound.renewal(&self.client, warning.expires);
            }
            Some(Heard::Draining(warning)) => session.cut = Some(cut_at(warning.deadline)),
            // Heartbeats, what comes after our closing, and events of a newer gateway.
            _ => {}
        }
    }

    fn tell(&mut self, event: Event) {
        self.waiting.push_back(Item::Event(Box::new(event)));
    }

    fn stands(&mut self, started: SubscribeStarted) {
        self.backoff.reset();
        self.tried_another_token = false;
        self.away_since = None;
        if self.options.is_auto_ack() {
            // Nothing else holds the gateway back then.
            self.most_waiting = (started.max_outstanding_messages as usize).max(1);
        }
        if self.stood {
            self.resumed();
        } else {
            self.stood = true;
            self.waiting.push_back(Item::Started(started));
        }
    }

    fn resumed(&mut self) {
        if std::mem::take(&mut self.announced) {
            self.tell(Event::Resumed);
        }
    }

    /// Every id given so far is void. The application hears of it unless it had settled all.
    fn turn_the_page(&mut self, reason: Option<String>) {
        let reason = match reason {
            Some(reason) => Some(reason),
            None if self.window.is_settled() => None,
            None => Some("the gateway went away before everything was settled".to_owned()),
        };
        self.window.next_epoch();
        self.epoch.store(self.window.epoch(), Ordering::Release);
        self.waiting.retain(|item| !matches!(item, Item::Deliveries(..)));
        self.waiting_messages = 0;
        if let Some(reason) = reason
            && !std::mem::replace(&mut self.announced, true)
        {
            self.tell(Event::Interrupted { reason });
        }
    }

    /// Whether another stream may succeed where this one did not. The very first one is not tried again.
    async fn may_come_back(&mut self, error: &Error, session: &mut Session) -> bool {
        if is_unauthenticated(error) && self.stood && !self.closing && !self.tried_another_token {
            self.tried_another_token = true;
            return session.inbound.another_token(&self.client).await;
        }
        let patient = self.away_since.is_none_or(|since| since.elapsed() < self.options.patience());
        error.is_disconnect() && self.stood && !self.closing && patient
    }

    /// Whether this gateway has not heard yet of a client that another one made a moment ago.
    fn is_too_early(&self, error: &Error) -> bool {
        let unheard = error.refusal().is_some_and(|refusal| refusal.reason() == "CLIENT_NOT_YET_KNOWN");
        unheard && !self.closing && self.began.elapsed() < HEARS_WITHIN
    }

    /// Waits before the next stream. The application gets what waits for it meanwhile.
    async fn pause(&mut self) {
        let until = Instant::now() + self.backoff.next();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.items.closed() => return self.close(),
                true = has_room(&self.items), if !self.waiting.is_empty() => self.hand_over_one(),
            }
        }
    }

    /// The application is gone or going: what it said last is still to be written.
    fn close(&mut self) {
        self.closing = true;
        self.settlements.close();
        while let Ok(settlement) = self.settlements.try_recv() {
            self.window.settle(settlement);
        }
    }

    /// The end; the application gets what waits for it first.
    async fn fail(mut self, error: Error) {
        self.settlements.close();
        for item in self.waiting {
            if self.items.send(item).await.is_err() {
                return;
            }
        }
        // Nobody hears it when the application is gone.
        let _ = self.items.send(Item::Failed(error)).await;
    }
}

impl Session {
    fn open(client: &Client, start: crate::pb::SubscribeStart) -> Self {
        // Room for the first frame and one more.
        let (frames, requests) = mpsc::channel(2);
        // The channel is new and has room.
        let _ = frames.try_send(SubscribeRequest { frame: Some(Frame::Start(start)) });
        let inbound = Inbound::open(client.clone(), |client| async move {
            client.raw_messaging().subscribe(ReceiverStream::new(requests)).await
        });
        let outbound = Outbound::new(frames);
        Self { inbound, outbound, renewal: Renewal::default(), new_token: None, cut: None }
    }
}

async fn has_room(items: &mpsc::Sender<Item>) -> bool {
    items.reserve().await.is_ok()
}
