//! Access to the gateway without the Rust client: the ops listener, raw channels, gateways with special settings.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Certificate, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use warrengate::{
    client::{Client, Credentials},
    config::Config,
    gateway::{Gateway, RunningGateway},
    pb::{self, auth_client::AuthClient},
};

use super::{
    SharedStack,
    raw::RawPublish,
    tenant::{Tenant, all_grants, known},
};

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The claims of a token, without verification.
pub fn claims_of(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// A connection to the shared gateway without a token.
pub async fn channel() -> Channel {
    channel_to(&SharedStack::get().stack.endpoint()).await
}

/// A connection to a gateway without a token.
pub async fn channel_to(endpoint: &str) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(SharedStack::get().ca()))
        .domain_name("127.0.0.1");
    Endpoint::from_shared(endpoint.to_owned()).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

/// A connection to a gateway from another local address, without a token.
pub async fn channel_from(endpoint: &str, address: std::net::IpAddr) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(SharedStack::get().ca()))
        .domain_name("127.0.0.1");
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap().tls_config(tls).unwrap();
    endpoint.local_address(Some(address)).connect().await.unwrap()
}

/// A gRPC frame: not compressed, length, message.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame
}

/// An HTTP client that trusts the gateway's CA.
pub fn http() -> reqwest::Client {
    let ca = Certificate::from_pem(SharedStack::get().ca().as_bytes()).unwrap();
    reqwest::Client::builder().tls_certs_only([ca]).http1_only().build().unwrap()
}

fn ops(path: &str) -> String {
    format!("http://{}{path}", SharedStack::get().stack.gateway().ops_address())
}

/// A resource of the ops listener: status, content type and text.
pub async fn ops_get(path: &str) -> (StatusCode, String, String) {
    let answer = http().get(ops(path)).send().await.unwrap();
    let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
    (answer.status(), kind, answer.text().await.unwrap())
}

pub async fn ops_json(path: &str) -> Value {
    let (status, kind, text) = ops_get(path).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"), "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// `POST /oauth2/token` with HTTP Basic.
pub async fn token(id: &str, secret: &SecretString) -> (StatusCode, Value) {
    let request = http().post(ops("/oauth2/token")).basic_auth(id, Some(secret.expose_secret()));
    answer(request, "grant_type=client_credentials".to_owned()).await
}

/// `POST /oauth2/token` with the credentials in the form.
pub async fn token_by_post(id: &str, secret: &SecretString) -> (StatusCode, Value) {
    // Ids and secrets contain no character that a form would encode.
    let secret = secret.expose_secret();
    let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
    answer(http().post(ops("/oauth2/token")), form).await
}

async fn answer(request: reqwest::RequestBuilder, form: String) -> (StatusCode, Value) {
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    (answer.status(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// An access token from the endpoint.
pub async fn access_token(id: &str, secret: &SecretString) -> String {
    let (status, body) = token(id, secret).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

/// A token, or the refusal.
pub async fn issue_token(endpoint: &str, request: pb::IssueTokenRequest) -> Result<String, tonic::Status> {
    let mut auth = AuthClient::new(channel_to(endpoint).await);
    Ok(auth.issue_token(request).await?.into_inner().access_token)
}

/// A separate gateway on the same broker and store.
pub struct OwnGateway {
    pub running: RunningGateway,
}

/// Starts a gateway with settings that the configuration file does not accept.
pub async fn gateway(change: impl FnOnce(&mut Config)) -> OwnGateway {
    let mut config = SharedStack::get().stack.config().clone();
    config.grpc.listen.set_port(0);
    config.ops.listen.set_port(0);
    change(&mut config);
    OwnGateway { running: Gateway::start(config).await.unwrap() }
}

impl OwnGateway {
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.running.grpc_address())
    }

    /// A connection without a token.
    pub async fn channel(&self) -> Channel {
        channel_to(&self.endpoint()).await
    }

    /// The bytes that its memory budget is charged for, from its metrics.
    pub async fn buffered(&self) -> usize {
        let page = http().get(format!("http://{}/metrics", self.running.ops_address())).send().await.unwrap();
        let page = page.text().await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix("warrengate_buffered_bytes "));
        value.expect("the metric").parse::<f64>().unwrap() as usize
    }

    /// Requests a token over HTTP with a wrong secret; returns the trace id of the refusal.
    pub async fn refused_token_by_http(&self, client_id: &str) -> String {
        let url = format!("http://{}/oauth2/token", self.running.ops_address());
        let request = http().post(url).basic_auth(client_id, Some("wrong"));
        let (status, body) = answer(request, "grant_type=client_credentials".to_owned()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
        body["trace_id"].as_str().unwrap().to_owned()
    }

    /// A token from this gateway.
    pub async fn token(&self, client_id: &str, secret: &SecretString) -> String {
        let request = pb::IssueTokenRequest {
            client_id: client_id.into(),
            client_secret: secret.expose_secret().into(),
            lifetime: None,
        };
        let mut auth = AuthClient::new(channel_to(&self.endpoint()).await);
        let token = auth.issue_token(request).await.unwrap().into_inner().access_token;
        // Secrets are read from the store; clients are known from its snapshots, shortly after another gateway created
        // them.
        let credentials = Credentials::Token(token.clone().into());
        known(&SharedStack::get().client_at(&self.endpoint(), credentials).await).await;
        token
    }

    /// Creates a client of an external issuer with all grants.
    pub async fn external_client(&self, tenant: &Tenant, name: &str, issuer: &str, external_id: &str) -> String {
        let client_id = format!("{}.{name}", tenant.id);
        let client = pb::Client {
            client_id: client_id.clone(),
            grants: Some(all_grants()),
            issuer: issuer.into(),
            external_id: external_id.into(),
            ..Default::default()
        };
        let admin = self.client("admin", SharedStack::get().admin_secret()).await;
        let request = pb::CreateClientRequest { client: Some(client), ..Default::default() };
        let created = admin.admin().create_client(request).await.unwrap().into_inner();
        assert_eq!(created.client_secret, "", "a client of an external issuer has no secret");
        client_id
    }

    /// A client that is connected to this gateway.
    pub async fn client(&self, client_id: &str, secret: &SecretString) -> Client {
        let credentials = Credentials::Token(self.token(client_id, secret).await.into());
        SharedStack::get().client_at(&self.endpoint(), credentials).await
    }

    /// A publish stream with exactly this token.
    pub async fn publish_stream(&self, token: &str) -> RawPublish {
        let client = SharedStack::get().client_at(&self.endpoint(), Credentials::Token(token.to_owned().into())).await;
        RawPublish::open(&client).await.unwrap()
    }
}
