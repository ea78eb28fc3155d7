//! The `Auth` service: it issues tokens and reports the identity of a caller.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tonic::{Request, Response, Status};

use crate::{
    audit::AuditContext,
    auth::{Caller, Issuer},
    error::Failure,
    pb,
    tenant::{Action, Tenants},
};

/// The handler of `Auth`.
#[derive(Debug, Clone)]
pub struct AuthService {
    issuer: Arc<Issuer>,
    tenants: Arc<Tenants>,
}

impl AuthService {
    /// Creates the service from the issuer of tokens and the registry of tenants.
    pub fn new(issuer: Arc<Issuer>, tenants: Arc<Tenants>) -> Self {
        Self { issuer, tenants }
    }
}

#[tonic::async_trait]
impl pb::auth_server::Auth for AuthService {
    async fn issue_token(
        &self,
        request: Request<pb::IssueTokenRequest>,
    ) -> Result<Response<pb::IssueTokenResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        audit_context.set_subject("", &request.get_ref().client_id);
        let address = request.remote_addr().map(|address| address.ip());
        let request = request.into_inner();
        let lifetime = request.lifetime.map(lifetime).transpose()?;
        let secret = SecretString::from(request.client_secret);
        let issued = self.issuer.issue(&request.client_id, &secret, lifetime, address).await.map_err(Failure::from)?;
        audit_context.set_client(&issued.client);
        audit_context.done(None);
        Ok(Response::new(pb::IssueTokenResponse {
            access_token: issued.token.expose_secret().to_owned(),
            token_type: "Bearer".to_owned(),
            expires: Some(issued.expires.into()),
        }))
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let caller = Caller::from_request(&request).map_err(Failure::from)?;
        // A valid token of a revoked client or a suspended tenant is refused as well.
        let grants = match caller.tenant() {
            Some(_) => self.tenants.admit(caller, Action::Inspect).map_err(Failure::from)?.grants().to_pb(),
            None => self.tenants.admit_administrator(caller).map_err(Failure::from)?.grants().to_pb(),
        };
        Ok(Response::new(pb::WhoAmIResponse {
            tenant: caller.tenant().map(ToString::to_string).unwrap_or_default(),
            client_id: caller.client().to_string(),
            grants: Some(grants),
            token_expires: Some(caller.expires().into()),
        }))
    }
}

fn lifetime(duration: prost_types::Duration) -> Result<Duration, Failure> {
    duration.try_into().map_err(|_| Failure::invalid("lifetime", "must not be negative or out of range"))
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::{
        auth::authenticate,
        config::AuthConfig,
        pb::auth_server::Auth as _,
        store::{EncryptionKey, Store},
    };

    async fn service() -> (AuthService, String) {
        let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        let store = Store::open(&"sqlite::memory:".into(), key).await.expect("a store");
        let (_, secret) = Issuer::bootstrap_admin(&store).await.expect("the store responds").expect("created");
        let tenants = Tenants::load(store.clone(), Duration::from_secs(60)).await.expect("tenants");
        let issuer = Arc::new(Issuer::start(store, &AuthConfig::for_test()).await.expect("an issuer"));
        (AuthService::new(issuer, Arc::new(tenants)), secret.expose_secret().to_owned())
    }

    fn request(client_secret: &str, seconds: i64) -> Request<pb::IssueTokenRequest> {
        let lifetime = Some(prost_types::Duration { seconds, nanos: 0 });
        let (client_id, client_secret) = ("admin".to_owned(), client_secret.to_owned());
        Request::new(pb::IssueTokenRequest { client_id, client_secret, lifetime })
    }

    #[tokio::test]
    async fn a_token_identifies_its_client() {
        let (service, secret) = service().await;
        let response = service.issue_token(request(&secret, 120)).await.expect("issued").into_inner();
        assert_eq!(response.token_type, "Bearer");
        let mut who_am_i = Request::new(pb::WhoAmIRequest {});
        let value = format!("Bearer {}", response.access_token).parse().expect("a value");
        let headers = [(http::header::AUTHORIZATION, value)].into_iter().collect();
        authenticate(&service.issuer.verifier(), &headers, who_am_i.extensions_mut()).expect("authenticated");
        let who = service.who_am_i(who_am_i).await.expect("a response").into_inner();
        assert_eq!((who.client_id.as_str(), who.tenant.as_str()), ("admin", ""));
        assert!(who.grants.expect("grants").administer);
        assert_eq!(who.token_expires, response.expires);
    }

    #[tokio::test]
    async fn unauthenticated_and_invalid_requests_get_a_reason() {
        let (service, secret) = service().await;
        let unauthenticated = service.who_am_i(Request::new(pb::WhoAmIRequest {})).await.expect_err("refused");
        assert_eq!(unauthenticated.code(), Code::Unauthenticated);
        let wrong = service.issue_token(request("wgs_wrong", 120)).await.expect_err("refused");
        assert_eq!(wrong.code(), Code::Unauthenticated);
        let reason = wrong.get_error_details().error_info().expect("details").reason.clone();
        assert_eq!(reason, "INVALID_CLIENT_CREDENTIALS");
        for seconds in [-1, 1, 1 << 40] {
            let refused = service.issue_token(request(&secret, seconds)).await.expect_err("refused");
            assert_eq!(refused.code(), Code::InvalidArgument, "{seconds}");
        }
    }
}
