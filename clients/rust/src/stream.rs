//! The parts that publish and subscribe streams share: the receiving side, the sending side, and token renewal.
//!
//! Responses are returned in order. An error is returned once and ends the stream.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret as _;
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Response, Status, Streaming};

use super::{Authenticated, Client, Error, backoff::Backoff, channel::ChannelHandle, token::Token};
use crate::pb::{Reauthenticate, messaging_client::MessagingClient};

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The responses of a stream that is being opened or is open.
pub(super) struct Inbound<T> {
    state: State<T>,
    /// The connection of the stream.
    channel_handle: Arc<ChannelHandle>,
    /// The token of the stream; `None` without credentials and before the stream is open.
    token: Option<Arc<Token>>,
}

/// What a stream receives.
pub(super) enum Received<T> {
    /// The gateway has accepted the call. Nothing is written before, so that a message that reached no gateway is
    /// certainly not stored.
    Opened,
    /// A response.
    Response(T),
    /// The gateway ended the stream with OK.
    End,
}

/// The token that was used, and whether opening succeeded.
type Opened<T> = (Option<Arc<Token>>, Result<Streaming<T>, Error>);

#[expect(clippy::large_enum_variant, reason = "there is one for each stream, and it is nearly always open")]
enum State<T> {
    Opening(Boxed<Opened<T>>),
    Open(Streaming<T>),
    Ended,
}

impl<T: Send + 'static> Inbound<T> {
    /// Waits for a valid token, then makes the call on the current connection.
    pub(super) fn open<F>(
        client: Client,
        call: impl FnOnce(MessagingClient<Authenticated>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>> + Send,
    {
        let channel_handle = client.shared.connection.current();
        let channel = channel_handle.0.clone();
        let opening = async move {
            let token = match client.shared.tokens.fresh().await {
                Ok(token) => token,
                Err(error) => return (None, Err(error)),
            };
            let stubs = client.messaging_on(channel);
            (token, call(stubs).await.map(Response::into_inner).map_err(Error::from))
        };
        Self { state: State::Opening(Box::pin(opening)), channel_handle, token: None }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The next event of the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Received<T>, Error> {
        match &mut self.state {
            State::Opening(opening) => {
                let (token, opened) = opening.await;
                self.token = token;
                self.state = State::Ended;
                self.state = State::Open(opened?);
                Ok(Received::Opened)
            }
            State::Open(responses) => Ok(responses.message().await?.map_or(Received::End, Received::Response)),
            State::Ended => Ok(Received::End),
        }
    }

    /// The gateway is about to stop: new calls use another connection.
    pub(super) fn leave(&self, client: &Client) {
        client.shared.connection.replace(&self.channel_handle);
    }

    /// Fetches a token other than the stream's, which expires soon.
    pub(super) fn renewal(&self, client: &Client) -> Renewal {
        let shared = Arc::clone(&client.shared);
        let present = self.token.clone();
        Renewal(Some(Box::pin(async move {
            match shared.tokens.other_than(present.as_ref()).await {
                Ok(token) => Some(token),
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the token of an open stream");
                    None
                }
            }
        })))
    }

    /// The frame that replaces the stream's token.
    pub(super) fn reauthenticate(&mut self, token: Arc<Token>) -> Reauthenticate {
        let access_token = token.secret().expose_secret().trim().to_owned();
        self.token = Some(token);
        Reauthenticate { access_token }
    }

    /// After `UNAUTHENTICATED`: whether another token is available.
    pub(super) async fn another_token(&mut self, client: &Client) -> bool {
        client.shared.tokens.other_than(self.token.as_ref()).await.is_ok()
    }
}

/// A renewal in progress, if there is one.
#[derive(Default)]
pub(super) struct Renewal(Option<Boxed<Option<Arc<Token>>>>);

impl Renewal {
    /// The new token. Never completes when no renewal is in progress. Cancel-safe.
    pub(super) async fn ready(&mut self) -> Option<Arc<Token>> {
        match &mut self.0 {
            Some(fetching) => {
                let token = fetching.await;
                self.0 = None;
                token
            }
            None => std::future::pending().await,
        }
    }
}

/// The sending side of a stream, until it is closed. It has one owner, so capacity that was found remains available.
pub(super) struct Outbound<T>(Option<mpsc::Sender<T>>);

impl<T> Outbound<T> {
    pub(super) fn new(frames: mpsc::Sender<T>) -> Self {
        Self(Some(frames))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// Half-closes the stream after what was written.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }

    /// Waits for capacity for a frame. False when the transport has dropped the stream; the receiving side returns the
    /// reason.
    pub(super) async fn has_capacity(&self) -> bool {
        match &self.0 {
            Some(frames) => frames.reserve().await.is_ok(),
            None => false,
        }
    }

    /// Writes a frame for which there is capacity.
    pub(super) fn write(&mut self, frame: T) {
        if let Some(frames) = &self.0 {
            // If the transport has dropped the stream meanwhile, the receiving side returns the error.
            let _ = frames.try_send(frame);
        }
    }
}

/// Completes at this time, or never without one.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// When a draining gateway closes its streams at the latest, with a tolerance for clock differences.
pub(super) fn closed_by(deadline: Option<prost_types::Timestamp>) -> Instant {
    let left = deadline
        .and_then(|time| SystemTime::try_from(time).ok())
        .and_then(|time| time.duration_since(SystemTime::now()).ok())
        .unwrap_or_default();
    Instant::now() + left.min(Duration::from_secs(300)) + Duration::from_secs(1)
}

/// Whether the gateway refused the token.
pub(super) fn is_unauthenticated(error: &Error) -> bool {
    error.code() == Some(Code::Unauthenticated)
}

/// Whether the gateway refused a call because it is about to stop.
pub(super) fn is_draining(error: &Error) -> bool {
    error.reason() == "DRAINING"
}

/// The wait before the next stream: the back-off, and at least the time that the gateway sent, up to a minute.
pub(super) fn pause_after(error: Option<&Error>, backoff: &mut Backoff) -> Duration {
    let asked = error.and_then(Error::retry_after).unwrap_or_default();
    backoff.next().max(asked.min(Duration::from_secs(60)))
}
