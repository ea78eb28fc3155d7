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

use super::{
    Client, Error,
    token::{Token, Tokens},
};
use crate::pb::Reauthenticate;

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The responses of a stream that is being opened or is open.
pub(super) struct Inbound<T> {
    state: State<T>,
    /// The token of the stream; `None` without credentials and before the stream is open.
    token: Option<Arc<Token>>,
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
    /// Waits for a valid token, then makes the call.
    pub(super) fn open<F>(client: Client, call: impl FnOnce(Client) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>> + Send,
    {
        let opening = async move {
            let token = match client.tokens.fresh().await {
                Ok(token) => token,
                Err(error) => return (None, Err(error)),
            };
            (token, call(client).await.map(Response::into_inner).map_err(Error::from))
        };
        Self { state: State::Opening(Box::pin(opening)), token: None }
    }

    /// The next response; `None` when the gateway ended the stream with OK. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<T>, Error> {
        if let State::Opening(opening) = &mut self.state {
            let (token, opened) = opening.await;
            self.token = token;
            self.state = State::Ended;
            self.state = State::Open(opened?);
        }
        match &mut self.state {
            State::Open(responses) => Ok(responses.message().await?),
            _ => Ok(None),
        }
    }

    /// Fetches a token that expires later than the stream's, which expires at this time.
    pub(super) fn renewal(&self, client: &Client, expires: Option<prost_types::Timestamp>) -> Renewal {
        let expires = expires.and_then(|e| SystemTime::try_from(e).ok()).unwrap_or_else(SystemTime::now);
        let tokens = Arc::clone(&client.tokens);
        let present = self.token.clone();
        Renewal(Some(Box::pin(async move { newer(&tokens, expires, present).await })))
    }

    /// The frame that replaces the stream's token.
    pub(super) fn reauthenticate(&mut self, token: Arc<Token>) -> Reauthenticate {
        let access_token = token.secret().expose_secret().trim().to_owned();
        self.token = Some(token);
        Reauthenticate { access_token }
    }

    /// After `UNAUTHENTICATED`: whether another token is available.
    pub(super) async fn another_token(&mut self, client: &Client) -> bool {
        client.tokens.other_than(self.token.as_ref()).await.is_ok()
    }
}

async fn newer(tokens: &Tokens, expires: SystemTime, present: Option<Arc<Token>>) -> Option<Arc<Token>> {
    match tokens.newer_than(expires).await {
        // A token of the application that was not replaced: sending it again would not help.
        Ok(token) if present.is_some_and(|present| Arc::ptr_eq(&present, &token)) => None,
        Ok(token) => Some(token),
        Err(error) => {
            tracing::warn!(%error, "cannot renew the token of an open stream");
            None
        }
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
