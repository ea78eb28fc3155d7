//! Calls of the gRPC services with a user's token.

use std::time::Duration;

use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Request, Status,
    service::{Interceptor, interceptor::InterceptedService},
};

use crate::{
    pb::{
        self, admin_client::AdminClient, auth_client::AuthClient, messaging_client::MessagingClient,
        topology_client::TopologyClient,
    },
    transport::LocalChannel,
};

/// How long a call may take before the page shows an error.
const TIMEOUT: Duration = Duration::from_secs(25);
/// The maximum size of a response. A page of queues is far smaller; dead letters come with at most 3 MiB of bodies.
const MAX_RESPONSE: usize = 16 << 20;

/// An issued token.
pub(super) struct Token {
    pub(super) secret: SecretString,
    /// In seconds since 1970.
    pub(super) expires: u64,
}

/// A channel with a token.
pub(super) type Channel = InterceptedService<LocalChannel, Attach>;

/// Attaches a token and a deadline to each call.
#[derive(Clone)]
pub(super) struct Attach {
    authorization: Option<HeaderValue>,
    timeout: Option<Duration>,
}

impl Interceptor for Attach {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.authorization {
            let value = tonic::metadata::MetadataValue::try_from(value.as_bytes());
            let value = value.map_err(|_| Status::unauthenticated("the session has no valid token"))?;
            request.metadata_mut().insert("authorization", value);
        }
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        Ok(request)
    }
}

/// The services, called with one token. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Calls {
    channel: LocalChannel,
    attach: Attach,
}

impl Calls {
    pub(super) fn new(channel: LocalChannel, token: &SecretString) -> Self {
        let authorization = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Self { channel, attach: Attach { authorization, timeout: Some(TIMEOUT) } }
    }

    /// The same without a deadline, for a call that the page itself ends, such as a stream.
    pub(super) fn unlimited(&self) -> Self {
        let attach = Attach { timeout: None, ..self.attach.clone() };
        Self { channel: self.channel.clone(), attach }
    }

    fn authenticated(&self) -> Channel {
        InterceptedService::new(self.channel.clone(), self.attach.clone())
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }

    pub(super) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.authenticated())
    }

    pub(super) fn topology(&self) -> TopologyClient<Channel> {
        TopologyClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }

    pub(super) fn messaging(&self) -> MessagingClient<Channel> {
        MessagingClient::new(self.authenticated()).max_decoding_message_size(MAX_RESPONSE)
    }
}

/// Exchanges an id and a secret for a token, as every client does.
pub(super) async fn issue_token(
    channel: LocalChannel,
    client_id: &str,
    secret: &SecretString,
) -> Result<Token, Status> {
    let request = pb::IssueTokenRequest {
        client_id: client_id.to_owned(),
        client_secret: secret.expose_secret().to_owned(),
        lifetime: None,
    };
    let mut request = Request::new(request);
    request.set_timeout(TIMEOUT);
    let issued = AuthClient::new(channel).issue_token(request).await?.into_inner();
    let expires = issued.expires.and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or_default();
    Ok(Token { secret: issued.access_token.into(), expires })
}
