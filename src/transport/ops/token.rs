//! `POST /oauth2/token`: the client credentials grant of RFC 6749, section 4.4.
//!
//! Credentials are sent with HTTP Basic or in the form. Errors have the form of section 5.2. No response may be cached,
//! and each contains its trace id.

use std::net::IpAddr;

use axum::{
    Extension, Form, Json,
    extract::{State, rejection::FormRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::OpsState;
use crate::{
    audit::AuditContext,
    auth,
    error::{Classify as _, Kind},
    telemetry::TraceContext,
    transport::Peer,
};

/// A refusal: the error code of section 5.2, a sentence, and the HTTP status.
struct Refusal {
    /// The reason in the audit trail.
    kind: Kind,
    reason: &'static str,
    status: StatusCode,
    code: &'static str,
    description: String,
    retry_after: Option<u64>,
}

impl Refusal {
    fn invalid(description: &str) -> Self {
        let (status, code) = (StatusCode::BAD_REQUEST, "invalid_request");
        let (kind, reason) = (Kind::Invalid, "MALFORMED_REQUEST");
        Self { kind, reason, status, code, description: description.to_owned(), retry_after: None }
    }
}

impl From<auth::Error> for Refusal {
    fn from(error: auth::Error) -> Self {
        // OAuth has no code for a suspended tenant, so its client counts as one that cannot be authenticated.
        let kind = match error.kind() {
            Kind::Denied => Kind::Unauthenticated,
            kind => kind,
        };
        let code = match kind {
            Kind::Unauthenticated => "invalid_client",
            Kind::Invalid => "invalid_request",
            Kind::Exhausted | Kind::Unavailable | Kind::Aborted => "temporarily_unavailable",
            _ => "server_error",
        };
        Self {
            kind: error.kind(),
            reason: error.reason(),
            status: StatusCode::from_u16(kind.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            description: error.message().into_owned(),
            retry_after: error.retry_after().map(|after| after.as_secs().max(1)),
        }
    }
}

impl Refusal {
    fn into_response(self, trace_id: &str) -> Response {
        // Section 5.2 allows neither quotes nor backslashes in a description.
        let description = self.description.replace(['"', '\\'], "'");
        let body = Json(json!({ "error": self.code, "error_description": description, "trace_id": trace_id }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"warrengate\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub(super) async fn token(
    State(state): State<OpsState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer.address());
    let shown = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let audit_context = AuditContext::new(state.audit.clone(), "POST /oauth2/token", shown);
    let trace_id = TraceContext::trace_id_of(&headers);
    audit_context.set_trace(trace_id.as_str());
    let mut response = match answer(&state, &audit_context, peer.map(|peer| peer.ip()), &headers, form).await {
        Ok(body) => body.into_response(),
        Err(refusal) => {
            audit_context.record_end(refusal.kind, refusal.reason);
            refusal.into_response(&trace_id)
        }
    };
    if let Ok(id) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert("x-trace-id", id);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

async fn answer(
    state: &OpsState,
    audit_context: &AuditContext,
    address: Option<IpAddr>,
    headers: &HeaderMap,
    form: Result<Form<Vec<(String, String)>>, FormRejection>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let Form(form) =
        form.map_err(|_| Refusal::invalid("the body must be a form (application/x-www-form-urlencoded)"))?;
    let mut form = Parameters(form);
    let grant_type = form.take("grant_type")?.ok_or_else(|| Refusal::invalid("grant_type is missing"))?;
    if grant_type != "client_credentials" {
        let code = "unsupported_grant_type";
        return Err(Refusal { code, ..Refusal::invalid("grant_type must be client_credentials") });
    }
    let (id, secret) = credentials(headers, &mut form)?;
    audit_context.set_subject("", &id);
    let issued = state.issuer.issue(&id, &secret, None, address).await?;
    audit_context.set_client(&issued.client);
    audit_context.done(None);
    let mut answer = json!({
        "access_token": issued.token.expose_secret(),
        "token_type": "Bearer",
        "expires_in": issued.lifetime.as_secs(),
    });
    // Section 3.3: if the granted scope differs from the requested one, the response contains it.
    if form.take("scope")?.is_some() {
        answer["scope"] = issued.scope.into();
    }
    Ok(Json(answer))
}

struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// A parameter's value. Section 3.2: an empty one counts as absent, and none may be repeated.
    fn take(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let mut found = self.0.extract_if(.., |(key, _)| key == name).map(|(_, value)| value);
        let value = found.next();
        if found.next().is_some() {
            return Err(Refusal::invalid("a parameter is repeated"));
        }
        Ok(value.filter(|value| !value.is_empty()))
    }
}

/// The credentials. Section 2.3.1: with HTTP Basic or in the body, but not both.
fn credentials(headers: &HeaderMap, form: &mut Parameters) -> Result<(String, SecretString), Refusal> {
    let (id, secret) = (form.take("client_id")?, form.take("client_secret")?);
    let mut basic = headers.get_all(header::AUTHORIZATION).iter();
    match (basic.next(), basic.next(), secret) {
        (None, _, Some(secret)) => Ok((id.ok_or_else(|| Refusal::invalid("client_id is missing"))?, secret.into())),
        (Some(value), None, None) => {
            let (name, secret) = value
                .to_str()
                .ok()
                .and_then(from_basic)
                .ok_or_else(|| Refusal::from(auth::Error::InvalidClientCredentials))?;
            if id.is_some_and(|id| id != name) {
                return Err(Refusal::invalid("client_id differs from the one in the authorization header"));
            }
            Ok((name, secret))
        }
        (Some(_), _, _) => {
            Err(Refusal::invalid("credentials must be either in the authorization header or in the body, not in both"))
        }
        (None, _, None) => Err(auth::Error::InvalidClientCredentials.into()),
    }
}

fn from_basic(value: &str) -> Option<(String, SecretString)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((form_decoded(id)?, form_decoded(secret)?.into()))
}

/// The id and the secret are form-encoded before they are joined (section 2.3.1). The gateway's contain nothing that
/// must be encoded, but some libraries encode `-` and `_`.
fn form_decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    Some(percent_decode_str(&text).decode_utf8().ok()?.into_owned())
}
