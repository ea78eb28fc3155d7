//! The client's token: fetched, cached, renewed, and attached to every call.
//!
//! A token is renewed after 60 to 75 % of its lifetime, so that clients that started together do not renew together.
//! Its lifetime is read from the token, so that clocks need not agree. Concurrent requests for a token share one call.
//! `Debug` shows neither token nor secret.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use rand::random_range;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

use super::{ClientOptions, Credentials, Error, backoff::Backoff, channel::Connection};
use crate::pb::{
    self,
    auth_client::AuthClient,
    error::{Failure, Kind},
};

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

/// Attaches the current token to a call. Calls of a closed client fail with the reason `CLOSED`.
#[derive(Debug, Clone)]
pub struct AttachToken {
    current: Arc<ArcSwapOption<Token>>,
    closed: CancellationToken,
}

impl Interceptor for AttachToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if self.closed.is_cancelled() {
            return Err(Failure::new(Kind::Precondition, "CLOSED", "the client is closed: connect again").into());
        }
        if let Some(token) = &*self.current.load() {
            request.metadata_mut().insert("authorization", token.header.clone());
        }
        Ok(request)
    }
}

/// The client's tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    shared: Arc<Inner>,
    _renewal: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    credentials: Credentials,
    lifetime: Option<Duration>,
    connection: Arc<Connection>,
    current: Arc<ArcSwapOption<Token>>,
    /// Locked while a token is fetched, so that one request serves all waiting callers.
    fetching: Mutex<()>,
}

impl Tokens {
    /// Fetches the first token.
    pub(super) async fn open(options: &ClientOptions, connection: Arc<Connection>) -> Result<Self, Error> {
        let shared = Arc::new(Inner {
            credentials: options.credentials.clone(),
            lifetime: options.token_lifetime,
            connection,
            current: Arc::default(),
            fetching: Mutex::default(),
        });
        let renewal = match &options.credentials {
            Credentials::Anonymous => None,
            Credentials::Token(text) => {
                shared.current.store(Some(Arc::new(Token::new(text.clone(), None)?)));
                None
            }
            Credentials::Secret { .. } | Credentials::Source(_) => {
                if let Some((text, expires)) = &options.initial_token {
                    shared.current.store(Some(Arc::new(Token::new(text.clone(), Some(*expires))?)));
                }
                shared.beyond(SystemTime::now() + MARGIN).await?;
                Some(AbortOnDropHandle::new(tokio::spawn(renew(Arc::clone(&shared)))))
            }
        };
        Ok(Self { shared, _renewal: renewal })
    }

    pub(super) fn attach(&self, closed: &CancellationToken) -> AttachToken {
        AttachToken { current: Arc::clone(&self.shared.current), closed: closed.clone() }
    }

    /// A valid token; `None` without credentials.
    pub(super) async fn fresh(&self) -> Result<Option<Arc<Token>>, Error> {
        match self.shared.credentials {
            Credentials::Secret { .. } | Credentials::Source(_) => {
                self.shared.beyond(SystemTime::now() + MARGIN).await.map(Some)
            }
            _ => Ok(self.shared.current.load_full()),
        }
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

impl Inner {
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
        let began = SystemTime::now();
        let (text, announced) = match &self.credentials {
            Credentials::Secret { client_id, secret } => self.issue(client_id, secret).await?,
            Credentials::Source(fetch) => (fetch().await.map_err(|e| Error::TokenSource(Arc::new(e)))?, None),
            _ => return Err(Error::TokenEnded),
        };
        let expires = lifetime_of(text.expose_secret()).map(|lifetime| began + lifetime).or(announced);
        let token = Arc::new(Token::new(text, expires)?);
        self.current.store(Some(Arc::clone(&token)));
        Ok(token)
    }

    async fn issue(&self, client_id: &str, secret: &SecretString) -> Result<(SecretString, Option<SystemTime>), Error> {
        let request = pb::IssueTokenRequest {
            client_id: client_id.to_owned(),
            client_secret: secret.expose_secret().to_owned(),
            lifetime: self.lifetime.and_then(|lifetime| lifetime.try_into().ok()),
        };
        let mut request = Request::new(request);
        request.set_timeout(FETCH_TIMEOUT);
        let channel = self.connection.current().0.clone();
        let issued = AuthClient::new(channel).issue_token(request).await?.into_inner();
        let expires = issued.expires.and_then(|expires| SystemTime::try_from(expires).ok());
        Ok((issued.access_token.into(), expires))
    }
}

/// `exp - iat` of a JWT, without verification, which is the gateway's task. `None` when it cannot be read.
fn lifetime_of(token: &str) -> Option<Duration> {
    let payload = from_base64url(token.split('.').nth(1)?)?;
    let payload = String::from_utf8(payload).ok()?;
    let claim = |name: &str| {
        let rest = payload.split_once(&format!("\"{name}\""))?.1.trim_start().strip_prefix(':')?.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let lifetime = claim("exp")?.checked_sub(claim("iat")?)?;
    (lifetime > 0).then(|| Duration::from_secs(lifetime))
}

/// Decodes base64url without padding.
fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut buffer, mut bits) = (0_u32, 0);
    for symbol in text.bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

/// Renews the token for as long as the client exists.
async fn renew(shared: Arc<Inner>) {
    let mut backoff = Backoff::default();
    loop {
        let before = shared.current.load_full();
        // A token of the application whose lifetime cannot be read is fetched again when the gateway refuses it.
        let Some(expires) = before.as_ref().and_then(|token| token.expires) else { return };
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left.mul_f64(random_range(0.6..=0.75)).max(MIN_WAIT)).await;
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
        let newer = join_all((0..8).map(|_| client.shared.tokens.other_than(Some(&first)))).await;
        assert!(newer.iter().all(|token| token.as_ref().is_ok_and(|token| token.header == "Bearer token-2")));
        assert_eq!(peer.tokens_issued(), 2);
    }

    #[tokio::test]
    async fn a_client_begins_with_a_given_token_unless_it_has_expired() {
        let peer = Peer::start().await;
        for (lifetime, issued) in [(60, 0), (1, 1)] {
            let expires = SystemTime::now() + Duration::from_secs(lifetime);
            let client = peer.client_from(|options| options.initial_token("given".into(), expires)).await;
            client.token().await.expect("a token").expect("a token");
            assert_eq!(peer.tokens_issued(), issued, "{lifetime}");
        }
    }

    #[test]
    fn the_lifetime_is_read_from_the_token() {
        // {"sub":"a","exp":1700000060, "iat":1700000000}
        let token = "e30.eyJzdWIiOiJhIiwiZXhwIjoxNzAwMDAwMDYwLCAiaWF0IjoxNzAwMDAwMDAwfQ.c2ln";
        assert_eq!(lifetime_of(token), Some(Duration::from_secs(60)));
        for unreadable in ["", "opaque", "a.b.c", "e30.e30.e30", "e30.$$.c"] {
            assert_eq!(lifetime_of(unreadable), None, "{unreadable}");
        }
    }

    #[tokio::test]
    async fn a_token_function_is_called_again_when_its_token_is_refused() {
        let peer = Peer::start().await;
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let credentials = Credentials::source(move || {
            let number = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            async move {
                match number {
                    1 | 2 => Ok(format!("own-{number}").into()),
                    _ => Err("the issuer is unavailable".into()),
                }
            }
        });
        let client = peer.client_with(credentials).await;
        let first = client.token().await.expect("a token").expect("a token");
        assert_eq!(first.header, "Bearer own-1");
        let second = client.shared.tokens.other_than(Some(&first)).await.expect("a token");
        assert_eq!(second.header, "Bearer own-2");
        let error = client.shared.tokens.other_than(Some(&second)).await.expect_err("the function fails");
        assert_eq!((error.reason(), error.is_retryable()), ("TOKEN_SOURCE_FAILED", true));
    }

    #[test]
    fn debug_output_contains_no_token() {
        let token = Token::new("hunter2".into(), None).expect("a token");
        assert!(!format!("{token:?} {:?}", token.header).contains("hunter2"));
        assert!(matches!(Token::new("two\nlines".into(), None), Err(Error::TokenForm)));
    }
}
