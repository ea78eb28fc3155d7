//! The gateway's own issuer of tokens. It exchanges a client's id and secret for a JWT. Gateways share their signing
//! keys through the store.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use secrecy::SecretString;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Error, Grants, Secret, Verifier,
    claims::{ALGORITHM, Claims, TYPE},
    secret::{self, Checks, Lane, RecentSecrets},
    throttle::{Throttle, network},
};
use crate::{
    config::AuthConfig,
    names::{ClientId, TenantId},
    store::{ClientRow, KeyState, NewClient, NewKey, Store, TenantState},
};

const ALGORITHM_NAME: &str = "EdDSA";
/// The age after which a key is known to all gateways, which poll the store every half second.
const PROPAGATION_TIME: Duration = Duration::from_secs(5);
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// An issued token.
pub struct IssuedToken {
    /// The JWT.
    pub token: SecretString,
    /// When it expires.
    pub expires: SystemTime,
    /// How long it is valid.
    pub lifetime: Duration,
    /// The client.
    pub client: ClientId,
    /// Its grants, as an OAuth 2.0 scope.
    pub scope: String,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The result of a key rotation.
#[derive(Debug, Clone)]
pub struct RotatedKey {
    /// The new key's id.
    pub kid: String,
    /// Until when tokens of the previous key are accepted.
    pub previous_until: SystemTime,
}

/// The gateway's own issuer of tokens.
pub struct Issuer {
    store: Store,
    config: AuthConfig,
    keys: ArcSwap<Keys>,
    verifier: Arc<Verifier>,
    throttle: Throttle,
    /// The checks of clients that have not authenticated from their address before.
    checks: Checks,
    /// The checks of all other clients, and of new secrets, so that unauthenticated clients do not delay them.
    checks_of_known: Checks,
    recent_secrets: RecentSecrets,
}

/// The keys from one read of the store.
struct Keys {
    /// Newest first; at least one.
    signing: Vec<SigningKey>,
    jwks: serde_json::Value,
}

struct SigningKey {
    kid: String,
    usable_from: SystemTime,
    key: EncodingKey,
}

impl Keys {
    /// The newest key that is known to all gateways; if there is only one key, that one.
    fn signing(&self) -> Result<&SigningKey, Error> {
        let now = SystemTime::now();
        let known = self.signing.iter().find(|key| key.usable_from <= now);
        known.or(self.signing.last()).ok_or(Error::Internal("there is no signing key"))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("issuer", &self.config.issuer).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Loads the signing keys from the store; creates the first one if necessary.
    ///
    /// # Errors
    /// When the store does not respond, or its keys cannot be decrypted.
    pub async fn start(store: Store, config: &AuthConfig) -> Result<Self, Error> {
        secret::prepare().await?;
        let verifier = Arc::new(Verifier::new(config));
        let keys = match load(&store, &verifier).await? {
            Some(keys) => keys,
            None => {
                store.create_first_signing_key(&new_key()?).await?;
                load(&store, &verifier).await?.ok_or(Error::Internal("the store contains no signing key"))?
            }
        };
        verifier.set_external_clients(&store.external_clients().await?);
        Ok(Self {
            throttle: Throttle::new(config),
            checks: Checks::new(config.max_concurrent_secret_checks),
            checks_of_known: Checks::new(1),
            recent_secrets: RecentSecrets::new(),
            keys: ArcSwap::from_pointee(keys),
            config: config.clone(),
            store,
            verifier,
        })
    }

    /// Reads the keys and the external ids of clients again; to be called when the store's revision has changed.
    ///
    /// # Errors
    /// When the store does not respond, or its keys cannot be decrypted.
    pub async fn refresh(&self) -> Result<(), Error> {
        let keys =
            load(&self.store, &self.verifier).await?.ok_or(Error::Internal("the store contains no signing key"))?;
        self.keys.store(Arc::new(keys));
        self.verifier.set_external_clients(&self.store.external_clients().await?);
        Ok(())
    }

    /// Creates a new key, which is used for signing as soon as it is known to all gateways. The previous one remains
    /// valid until the last token that it can have signed has expired. `store` is the handle that acts for the
    /// administrator.
    ///
    /// # Errors
    /// When the store does not respond.
    pub async fn rotate_key(&self, store: &Store) -> Result<RotatedKey, Error> {
        // Another gateway may sign with the old key until it has seen the change.
        let overlap = self.config.token_lifetime + self.config.leeway + Duration::from_secs(60);
        let key = new_key()?;
        let previous_until = SystemTime::now() + overlap;
        store.rotate_signing_key(&key, previous_until).await?;
        tracing::info!(kid = key.kid, "signing key rotated");
        self.refresh().await?;
        Ok(RotatedKey { kid: key.kid, previous_until })
    }

    /// Revokes a key, or all of them, at once, for a key that has leaked. If no signing key is left, a new one is
    /// created. `store` is the handle that acts for the administrator. Returns the ids of the revoked keys.
    ///
    /// # Errors
    /// When the store does not respond.
    pub async fn revoke_keys(&self, store: &Store, kid: Option<&str>) -> Result<Vec<String>, Error> {
        let kids = store.revoke_signing_keys(kid, &new_key()?).await?;
        tracing::warn!(?kids, "signing keys revoked");
        self.refresh().await?;
        Ok(kids)
    }

    /// Whether tokens of this external issuer are accepted.
    pub fn has_issuer(&self, name: &str) -> bool {
        self.verifier.has_issuer(name)
    }

    /// Whether this external issuer may issue tokens for platform administrators.
    pub fn has_issuer_for_platform(&self, name: &str) -> bool {
        self.verifier.has_issuer_for_platform(name)
    }

    /// Issues a token for a client with this secret at this address, valid for `lifetime` (default: the maximum).
    ///
    /// # Errors
    /// [`Error::InvalidClientCredentials`], [`Error::TenantSuspended`], [`Error::Lifetime`], [`Error::Busy`],
    /// [`Error::Throttled`], or when the store does not answer.
    pub async fn issue(
        &self,
        client_id: &str,
        secret: &SecretString,
        lifetime: Option<Duration>,
        address: Option<IpAddr>,
    ) -> Result<IssuedToken, Error> {
        let max = self.config.token_lifetime;
        let lifetime = lifetime.unwrap_or(max);
        if lifetime < MIN_LIFETIME.min(max) || lifetime > max {
            return Err(Error::Lifetime { requested: lifetime, max });
        }
        // A malformed id is not looked up, but takes as long as a wrong secret.
        let id = ClientId::parse(client_id).ok();
        // Before the store is read, so that refusing an attempt is cheap.
        let attempt = self.throttle.attempt(id.clone(), address)?;
        let check = match attempt.is_known() {
            true => None,
            false => Some(self.checks.enqueue(&Lane::Address(address.map(network)))?),
        };
        // Before the client is read, so that a rotation in the meantime is later than this token and invalidates it.
        let now = unix(SystemTime::now());
        let client = match &id {
            // A client of an external issuer has no secret.
            Some(id) => self.store.client(id).await?.filter(|client| !client.revoked && client.external.is_none()),
            None => None,
        };
        // Always exactly one hash is checked, so that a client with two secrets takes as long as any other.
        let hash = client.as_ref().map(|client| client.hash_for(&secret::tag(secret)).to_owned());
        let is_correct = match &hash {
            Some(hash) if self.recent_secrets.has(secret, hash) => true,
            _ => {
                let lane = || Lane::Tenant(id.as_ref().and_then(ClientId::tenant).cloned());
                let check = check.map_or_else(|| self.checks_of_known.enqueue(&lane()), Ok)?;
                let is_correct = check.verify(secret, hash.clone()).await?;
                if let Some(hash) = hash.filter(|_| is_correct) {
                    self.recent_secrets.remember(secret, &hash);
                }
                is_correct
            }
        };
        let Some(client) = client.filter(|_| is_correct) else {
            attempt.failed();
            // Only a valid id is logged, because an invalid one may be any text.
            tracing::info!(client = id.as_ref().map(ClientId::as_str), "token refused");
            return Err(Error::InvalidClientCredentials);
        };
        attempt.succeeded();
        self.refuse_suspended(&client.id).await?;
        // The secret was checked after `not_before` was set. A gateway whose clock is slow must not issue a token that
        // is always refused.
        let issued = now.max(unix(client.not_before));
        self.sign(&client, issued, lifetime)
    }

    /// The numbers of secret checks that are running and waiting.
    pub fn secret_checks(&self) -> (usize, usize) {
        let ((running, waiting), (more, longer)) = (self.checks.load(), self.checks_of_known.load());
        (running + more, waiting + longer)
    }

    /// The public keys, in the form of `/.well-known/jwks.json`.
    pub fn jwks(&self) -> serde_json::Value {
        self.keys.load().jwks.clone()
    }

    /// The verifier of tokens signed with these keys.
    pub fn verifier(&self) -> Arc<Verifier> {
        self.verifier.clone()
    }

    /// The `iss` of tokens.
    pub fn name(&self) -> &str {
        &self.config.issuer
    }

    /// Creates the first platform administrator, `admin`, unless it exists. Only the call that creates it returns its
    /// id and secret.
    ///
    /// # Errors
    /// When the store does not respond.
    pub async fn bootstrap_admin(store: &Store) -> Result<Option<(ClientId, SecretString)>, Error> {
        let id = ClientId::parse("admin").map_err(|_| Error::Internal("admin is not a client id"))?;
        if store.client(&id).await?.is_some() {
            return Ok(None);
        }
        let secret = Secret::generate();
        let new = NewClient {
            display_name: "first administrator".to_owned(),
            secret_hash: secret.hash().await?,
            grants: Grants::administrator().to_json(),
            external: None,
            id,
        };
        let created = store.create_client(&new).await?;
        Ok(created.map(|client| (client.id, secret.reveal().clone())))
    }

    /// The hash of a new secret of this tenant's client, for the store. Takes about 30 ms on a low-priority thread.
    ///
    /// # Errors
    /// [`Error::Busy`], or when there is no randomness or memory left.
    pub async fn hash(&self, tenant: Option<&TenantId>, secret: &Secret) -> Result<String, Error> {
        self.checks_of_known.hash(&Lane::Tenant(tenant.cloned()), secret).await
    }

    async fn refuse_suspended(&self, client: &ClientId) -> Result<(), Error> {
        let Some(tenant) = client.tenant() else { return Ok(()) };
        match self.store.tenant(tenant).await?.map(|tenant| tenant.state) {
            Some(TenantState::Active) => Ok(()),
            Some(TenantState::Suspended) => Err(Error::TenantSuspended),
            None => Err(Error::InvalidClientCredentials),
        }
    }

    fn sign(&self, client: &ClientRow, issued: Duration, lifetime: Duration) -> Result<IssuedToken, Error> {
        let keys = self.keys.load();
        let key = keys.signing()?;
        let exp = issued + lifetime;
        let grants = Grants::from_json(&client.grants)?;
        let scope = grants.to_scope();
        let claims = Claims {
            iss: self.config.issuer.clone(),
            aud: self.config.audience.clone(),
            sub: client.id.to_string(),
            wg_tenant: client.id.tenant().map(ToString::to_string),
            wg_grants: grants,
            iat: issued.as_secs(),
            wg_iat_ms: u64::try_from(issued.as_millis()).map_err(|_| Error::Internal("the clock is wrong"))?,
            nbf: issued.as_secs(),
            exp: exp.as_secs(),
            jti: Uuid::now_v7().to_string(),
        };
        let mut header = Header::new(ALGORITHM);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key.kid.clone());
        let token =
            jsonwebtoken::encode(&header, &claims, &key.key).map_err(|_| Error::Internal("cannot sign a token"))?;
        let expires = UNIX_EPOCH + Duration::from_secs(claims.exp);
        Ok(IssuedToken { token: token.into(), expires, lifetime, client: client.id.clone(), scope })
    }
}

fn unix(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn new_key() -> Result<NewKey, Error> {
    let refused = |_| Error::Internal("cannot create a signing key");
    let pair = Ed25519KeyPair::generate().map_err(refused)?;
    let document = pair.to_pkcs8().map_err(refused)?;
    Ok(NewKey {
        kid: Uuid::now_v7().simple().to_string(),
        algorithm: ALGORITHM_NAME.to_owned(),
        private: Zeroizing::new(document.as_ref().to_vec()),
        public: pair.public_key().as_ref().to_vec(),
    })
}

/// Loads all keys into the verifier; returns them if there is an active one.
async fn load(store: &Store, verifier: &Verifier) -> Result<Option<Keys>, Error> {
    let mut rows = store.signing_keys().await?;
    rows.retain(|row| row.algorithm == ALGORITHM_NAME);
    if !rows.iter().any(|row| row.state == KeyState::Active) {
        return Ok(None);
    }
    verifier.set_keys(rows.iter().map(|row| (row.kid.as_str(), row.public.as_slice())));
    let jwks: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM_NAME, "kid": row.kid,
                "x": URL_SAFE_NO_PAD.encode(&row.public),
            })
        })
        .collect();
    let signing = rows
        .iter()
        .map(|row| SigningKey {
            kid: row.kid.clone(),
            usable_from: row.created + PROPAGATION_TIME,
            key: EncodingKey::from_ed_der(&row.private),
        })
        .collect();
    Ok(Some(Keys { signing, jwks: serde_json::json!({ "keys": jwks }) }))
}
