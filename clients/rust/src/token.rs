//! The client's token: fetched, cached, renewed, and attached to every call.
//!
//! A token is renewed after two thirds of its lifetime. Concurrent requests for a token share one call. `Debug` shows
//! neither token nor secret.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::Channel,
};

use super::{ClientOptions, Credentials, Error, backoff::Backoff};
use crate::pb::{self, auth_client::AuthClient};

/// A token that expires this soon is not used for new calls.
const MARGIN: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_WAIT: Duration = Duration::from_secs(1);

/// A token and its expiry.
#[derive(Clone)]
pub struct Token {
    text: SecretString,
    header: MetadataValue<Ascii>,
    expires: Option<SystemTime>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Token {
    fn new(text: SecretString, expires: Option<SystemTime>) -> Result<Self, Error> {
        let mut header =
            MetadataValue::try_from(format!("Bearer {}", text.expose_secret().trim())).map_err(|_| Error::TokenForm)?;
        header.set_sensitive(true);
        Ok(Self { text, header, expires })
    }

    /// The token itself, a JWT.
    pub fn secret(&self) -> &SecretString {
        &self.text
    }

    /// When it expires; unknown for a token that the application provided.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// Whether it is valid beyond this time. A token without a known expiry counts as valid.
    fn lasts_beyond(&self, time: SystemTime) -> bool {
        self.expires.is_none_or(|expires| expires > time)
    }
}

/// Attaches the current token to a call.
#[derive(Debug, Clone)]
pub struct AttachToken(Arc<ArcSwapOption<Token>>);

impl Interceptor for AttachToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &*self.0.load() {
            request.metadata_mut().insert("authorization", token.header.clone());
        }
        Ok(request)
    }
}

/// The client's tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    shared: Arc<Shared>,
    _renewal: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    credentials: Credentials,
    lifetime: Option<Duration>,
    channel: Channel,
    current: Arc<ArcSwapOption<Token>>,
    /// Locked while a token is fetched, so that one request serves all waiting callers.
    fetching: Mutex<()>,
}

impl Tokens {
    /// Fetches the first token.
    pub(super) async fn open(options: &ClientOptions, channel: Channel) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            credentials: options.credentials.clone(),
            lifetime: options.token_lifetime,
            channel,
            current: Arc::default(),
            fetching: Mutex::default(),
        });
        let renewal = match &options.credentials {
            Credentials::Anonymous => None,
            Credentials::Token(text) => {
                shared.current.store(Some(Arc::new(Token::new(text.clone(), None)?)));
                None
            }
            Credentials::Secret { .. } => {
                shared.beyond(SystemTime::now()).await?;
                Some(AbortOnDropHandle::new(tokio::spawn(renew(Arc::clone(&shared)))))
            }
        };
        Ok(Self { shared, _renewal: renewal })
    }

    pub(super) fn attach(&self) -> AttachToken {
        AttachToken(Arc::clone(&self.shared.current))
    }

    /// A valid token; `None` without credentials.
    pub(super) async fn fresh(&self) -> Result<Option<Arc<Token>>, Error> {
        match self.shared.credentials {
            Credentials::Secret { .. } => self.shared.beyond(SystemTime::now() + MARGIN).await.map(Some),
            _ => Ok(self.shared.current.load_full()),
        }
    }

    /// A token that expires later than this time.
    pub(super) async fn newer_than(&self, expires: SystemTime) -> Result<Arc<Token>, Error> {
        self.shared.beyond(expires + MARGIN).await
    }

    /// A token other than the one that the gateway refused.
    pub(super) async fn other_than(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, Error> {
        let _fetching = self.shared.fetching.lock().await;
        match self.shared.current.load_full() {
            Some(current) if refused.is_none_or(|refused| !Arc::ptr_eq(refused, &current)) => Ok(current),
            _ => self.shared.fetch().await,
        }
    }

    pub(super) fn set(&self, text: SecretString) -> Result<(), Error> {
        self.shared.current.store(Some(Arc::new(Token::new(text, None)?)));
        Ok(())
    }
}

impl Shared {
    async fn beyond(&self, time: SystemTime) -> Result<Arc<Token>, Error> {
        let usable = || self.current.load_full().filter(|token| token.lasts_beyond(time));
        if let Some(token) = usable() {
            return Ok(token);
        }
        let _fetching = self.fetching.lock().await;
        match usable() {
            Some(token) => Ok(token),
            None => self.fetch().await,
        }
    }

    async fn fetch(&self) -> Result<Arc<Token>, Error> {
        let Credentials::Secret { client_id, secret } = &self.credentials else { return Err(Error::TokenEnded) };
        let request = pb::IssueTokenRequest {
            client_id: client_id.clone(),
            client_secret: secret.expose_secret().to_owned(),
            lifetime: self.lifetime.and_then(|lifetime| lifetime.try_into().ok()),
        };
        let mut request = Request::new(request);
        request.set_timeout(FETCH_TIMEOUT);
        let issued = AuthClient::new(self.channel.clone()).issue_token(request).await?.into_inner();
        let expires = issued.expires.and_then(|expires| SystemTime::try_from(expires).ok());
        let expires = expires.ok_or(Error::Protocol("a token without an expiry"))?;
        let token = Arc::new(Token::new(issued.access_token.into(), Some(expires))?);
        self.current.store(Some(Arc::clone(&token)));
        Ok(token)
    }
}

/// Renews the token for as long as the client exists.
async fn renew(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        let before = shared.current.load_full();
        let left = before
            .as_ref()
            .and_then(|token| token.expires)
            .and_then(|expires| expires.duration_since(SystemTime::now()).ok())
            .unwrap_or_default();
        tokio::time::sleep((left * 2 / 3).max(MIN_WAIT)).await;
        let fetching = shared.fetching.lock().await;
        // Another task may have renewed it meanwhile.
        let renewed = match (&before, shared.current.load_full()) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, &now),
            _ => false,
        };
        if renewed {
            continue;
        }
        match shared.fetch().await {
            Ok(_) => backoff.reset(),
            // The secret is no longer valid. The next caller that needs a token tries again and receives the error.
            Err(error) if error.code() == Some(Code::Unauthenticated) => {
                tracing::warn!(%error, "token refused");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "token not renewed");
                drop(fetching);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;
    use crate::peer::Peer;

    #[tokio::test]
    async fn concurrent_renewals_share_one_request() {
        let peer = Peer::start().await;
        let client = peer.client().await;
        let first = client.token().await.expect("a token").expect("a token");
        assert_eq!(peer.tokens_issued(), 1, "the first token is used until it expires");
        let expires = first.expires().expect("an end");
        let newer = join_all((0..8).map(|_| client.tokens.newer_than(expires))).await;
        assert!(newer.iter().all(|token| token.as_ref().is_ok_and(|token| token.header == "Bearer token-2")));
        assert_eq!(peer.tokens_issued(), 2);
    }

    #[test]
    fn debug_output_contains_no_token() {
        let token = Token::new("hunter2".into(), None).expect("a token");
        assert!(!format!("{token:?} {:?}", token.header).contains("hunter2"));
        assert!(matches!(Token::new("two\nlines".into(), None), Err(Error::TokenForm)));
    }
}
