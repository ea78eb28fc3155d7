//! The authorization code flow with PKCE (RFC 6749 and RFC 7636) at an external issuer, by which a person signs in.
//!
//! Invariant: a token comes from the issuer's token endpoint only, in exchange for a code and the verifier of the same
//! flow. It is not trusted here; the services verify it as any other token of the issuer.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicErrorResponse, BasicTokenResponse},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Mutex, Semaphore};

use super::fetch;
use crate::config::{IssuerConfig, SignInConfig};

/// The maximum number of requests to the issuer at the same time.
const MAX_REQUESTS: usize = 16;
/// How long the issuer's endpoints are kept.
const ENDPOINTS_AGE: Duration = Duration::from_secs(600);
/// How long a failure to fetch them is kept, so that those who wait for the same answer do not ask one after another.
const FAILURE_AGE: Duration = Duration::from_secs(5);
/// The maximum length of an error code of the issuer that is shown.
const MAX_CODE: usize = 60;

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Too many sign-ins wait for the issuer.
    #[error("too many sign-ins at the same time")]
    Busy,
    /// The issuer does not respond, or not as the standard requires.
    #[error("the issuer cannot be used: {0}")]
    Unavailable(String),
    /// The issuer refuses; this is its error code.
    #[error("the issuer refused: {0}")]
    Refused(String),
}

/// The sign-in at one issuer.
pub struct CodeFlow {
    issuer: IssuerConfig,
    client_id: ClientId,
    client_secret: Option<SecretString>,
    scopes: Vec<Scope>,
    redirect: RedirectUrl,
    endpoints: Mutex<Option<Fetched>>,
    requests: Semaphore,
    /// Limits log lines, because nobody needs a token to begin a sign-in.
    logged: DefaultDirectRateLimiter,
}

/// A flow that has begun. The browser must return the same state.
pub struct BegunFlow {
    /// The address at the issuer, where the person signs in.
    pub address: String,
    /// Returned with the code.
    pub state: String,
    /// Proves that the code is used by the one that has begun the flow.
    pub verifier: SecretString,
}

/// The tokens of a person.
pub struct PersonTokens {
    /// The token for calls of the services.
    pub access: SecretString,
    /// Renews the access token, if the issuer allows it.
    pub refresh: Option<SecretString>,
}

struct Endpoints {
    authorization: AuthUrl,
    token: TokenUrl,
    auth_type: AuthType,
}

/// What the issuer answered last, and when; the error is a text for the log.
type Fetched = (Instant, Result<Arc<Endpoints>, String>);

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;
type TokenError = RequestTokenError<fetch::Error, BasicErrorResponse>;

impl std::fmt::Debug for CodeFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CodeFlow").field("issuer", &self.issuer.issuer).finish_non_exhaustive()
    }
}

impl CodeFlow {
    /// The sign-in with these settings. `None` if the issuer is not one of `issuers`, which the configuration prevents.
    pub fn new(config: &SignInConfig, issuers: &[IssuerConfig]) -> Option<Self> {
        Some(Self {
            issuer: issuers.iter().find(|issuer| issuer.issuer == config.issuer)?.clone(),
            client_id: ClientId::new(config.client_id.clone()),
            client_secret: config.client_secret.clone(),
            scopes: config.scopes.iter().cloned().map(Scope::new).collect(),
            redirect: RedirectUrl::new(config.redirect.clone()).ok()?,
            endpoints: Mutex::default(),
            requests: Semaphore::new(MAX_REQUESTS),
            logged: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)),
        })
    }

    /// Logs why the issuer cannot be used, at most once per second.
    pub fn log_unavailable(&self, why: &str) {
        if self.logged.check().is_ok() {
            tracing::warn!(issuer = self.issuer(), why, "sign-in to the console failed at the issuer");
        }
    }

    /// The issuer's name.
    pub fn issuer(&self) -> &str {
        &self.issuer.issuer
    }

    /// Begins a sign-in.
    ///
    /// # Errors
    /// When the issuer's endpoints are not known and cannot be fetched.
    pub async fn begin(&self) -> Result<BegunFlow, SignInError> {
        let client = self.client().await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let request = client
            .authorize_url(CsrfToken::new_random)
            .add_scopes(self.scopes.iter().cloned())
            // Some issuers issue a token for an API only if it is named; others ignore the parameter (RFC 6749, 3.1).
            .add_extra_param("audience", self.issuer.audience.clone())
            .set_pkce_challenge(challenge);
        let (address, state) = request.url();
        let (state, verifier) = (state.into_secret(), verifier.into_secret().into());
        Ok(BegunFlow { address: address.into(), state, verifier })
    }

    /// Exchanges a code for tokens.
    ///
    /// # Errors
    /// When the issuer refuses or does not respond.
    pub async fn finish(&self, code: String, verifier: SecretString) -> Result<PersonTokens, SignInError> {
        let client = self.client().await?;
        let verifier = PkceCodeVerifier::new(verifier.expose_secret().to_owned());
        let http = self.http().await?;
        let send = move |request| send(http.clone(), request);
        let answer =
            client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier).request_async(&send);
        tokens(self.limited(answer).await?)
    }

    /// Exchanges a refresh token for new tokens.
    ///
    /// # Errors
    /// When the issuer refuses or does not respond.
    pub async fn refresh(&self, token: SecretString) -> Result<PersonTokens, SignInError> {
        let client = self.client().await?;
        let old = RefreshToken::new(token.expose_secret().to_owned());
        let http = self.http().await?;
        let send = move |request| send(http.clone(), request);
        let mut renewed = tokens(self.limited(client.exchange_refresh_token(&old).request_async(&send)).await?)?;
        // An issuer that does not rotate refresh tokens returns none.
        renewed.refresh.get_or_insert(token);
        Ok(renewed)
    }

    async fn limited(
        &self,
        answer: impl Future<Output = Result<BasicTokenResponse, TokenError>>,
    ) -> Result<BasicTokenResponse, SignInError> {
        let _permit = self.requests.try_acquire().map_err(|_| SignInError::Busy)?;
        answer.await.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => SignInError::Refused(code(answer.error().as_ref())),
            RequestTokenError::Request(error) => unavailable(&error),
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                SignInError::Unavailable("the answer of its token endpoint is invalid".to_owned())
            }
        })
    }

    async fn http(&self) -> Result<reqwest::Client, SignInError> {
        fetch::client(&self.issuer).await.map_err(|error| unavailable(&error))
    }

    async fn client(&self) -> Result<Client, SignInError> {
        let endpoints = self.endpoints().await?;
        let client = BasicClient::new(self.client_id.clone())
            .set_auth_uri(endpoints.authorization.clone())
            .set_token_uri(endpoints.token.clone())
            .set_redirect_uri(self.redirect.clone())
            .set_auth_type(endpoints.auth_type.clone());
        Ok(match &self.client_secret {
            Some(secret) => client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())),
            None => client,
        })
    }

    async fn endpoints(&self) -> Result<Arc<Endpoints>, SignInError> {
        let _permit = self.requests.try_acquire().map_err(|_| SignInError::Busy)?;
        let mut kept = self.endpoints.lock().await;
        if let Some((fetched, answer)) = &*kept
            && fetched.elapsed() < if answer.is_ok() { ENDPOINTS_AGE } else { FAILURE_AGE }
        {
            return answer.clone().map_err(SignInError::Unavailable);
        }
        let answer = self.fetch_endpoints().await.map(Arc::new);
        *kept = Some((Instant::now(), answer.clone()));
        answer.map_err(SignInError::Unavailable)
    }

    async fn fetch_endpoints(&self) -> Result<Endpoints, String> {
        let document = fetch::discover(&self.issuer).await.map_err(|error| error.to_string())?;
        let invalid = |_| "its discovery document names no endpoint for a sign-in".to_owned();
        let names_post_only = |methods: &Vec<String>| !methods.iter().any(|name| name == "client_secret_basic");
        let is_post = document.token_endpoint_auth_methods_supported.as_ref().is_some_and(names_post_only);
        Ok(Endpoints {
            authorization: AuthUrl::new(document.authorization_endpoint).map_err(invalid)?,
            token: TokenUrl::new(document.token_endpoint).map_err(invalid)?,
            auth_type: if is_post { AuthType::RequestBody } else { AuthType::BasicAuth },
        })
    }
}

fn unavailable(error: &fetch::Error) -> SignInError {
    SignInError::Unavailable(error.to_string())
}

/// An error code of the issuer as printable text of limited length.
pub fn code(text: &str) -> String {
    let plain: String = text.chars().filter(|c| c.is_ascii_graphic()).take(MAX_CODE).collect();
    if plain.is_empty() { "unknown".to_owned() } else { plain }
}

fn tokens(answer: BasicTokenResponse) -> Result<PersonTokens, SignInError> {
    let secret = |text: &str| SecretString::from(text.to_owned());
    Ok(PersonTokens {
        access: secret(answer.access_token().secret()),
        refresh: answer.refresh_token().map(|token| secret(token.secret())),
    })
}

async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, fetch::Error> {
    let (parts, body) = request.into_parts();
    let request = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
    let response = request.send().await?;
    let mut answer = http::Response::new(Vec::new());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = response.headers().clone();
    *answer.body_mut() = fetch::bounded(response).await?;
    Ok(answer)
}
