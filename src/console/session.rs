//! Sessions: a user's token and what renews it, encrypted in a cookie.
//!
//! Invariant: a session is at most [`MAX_AGE`] old, and ends with its token. The token is renewed while the session is
//! used, by the same call that every client uses, so that a revoked client or a rotated secret ends the session.

mod seal;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderValue, header::COOKIE};
use moka::{policy::EvictionPolicy, sync::Cache};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::seal::Error;
use self::seal::Sealer;
use super::calls::Token;

/// The maximum age of a session, however often it is used.
pub(super) const MAX_AGE: Duration = Duration::from_secs(12 * 3600);
/// How long a sign-in form may be open.
const FORM_AGE: Duration = Duration::from_secs(3600);
/// Browsers store at most 4096 bytes in a cookie, attributes included; a token with many grants is larger.
const MAX_COOKIE: usize = 3_800;
const MAX_COOKIES: usize = 4;
/// The sessions of a client that were signed out and are remembered until they would have ended. When there are more, all
/// sessions of the client that began before are refused.
const MAX_SIGNED_OUT: usize = 64;
/// How many clients are remembered with theirs.
const MAX_CLIENTS: u64 = 65_536;
/// How long the answer of the store that a session was not signed out on another gateway is used, and for how many
/// sessions: as long as changes of grants by another gateway take.
const CHECK_AGE: Duration = Duration::from_millis(200);
const MAX_CHECKED: u64 = 65_536;

/// How long a sign-in at an issuer may take.
const FLOW_AGE: Duration = Duration::from_secs(600);
/// How many renewals by refresh tokens are remembered, and for how long, so that parallel requests of one browser use
/// a refresh token once: issuers that rotate them end a session whose token is used twice.
const MAX_RENEWALS: u64 = 4_096;
const RENEWAL_AGE: Duration = Duration::from_secs(60);

const SESSION: &str = "warrengate console session 3";
const FORM: &str = "warrengate console sign-in 1";
const FLOW: &str = "warrengate console issuer 1";

/// A user's session.
#[derive(Clone)]
pub(super) struct Session {
    id: String,
    /// Expected in every form of the session.
    pub(super) csrf: String,
    began: u64,
    issued: u64,
    expires: u64,
    /// How often it was renewed.
    renewals: u32,
    pub(super) client_id: String,
    pub(super) renewal: Renewal,
    pub(super) token: SecretString,
}

/// What renews the token of a session.
#[derive(Clone)]
pub(super) enum Renewal {
    /// The secret of the client.
    Secret(SecretString),
    /// The refresh token of the issuer.
    RefreshToken(SecretString),
    /// Nothing: the issuer returned no refresh token, so the session ends with its token.
    None,
}

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
struct Form<'a> {
    i: &'a str,
    f: &'a str,
    b: u64,
    s: u64,
    e: u64,
    n: u32,
    c: &'a str,
    /// Whether `k` is a refresh token; otherwise it is a client secret.
    r: bool,
    k: Option<&'a str>,
    t: &'a str,
}

/// A sign-in at an issuer that has begun, stored in a cookie of the browser that has begun it.
#[derive(Serialize, Deserialize)]
pub(super) struct Flow {
    pub(super) state: String,
    pub(super) verifier: String,
    /// The path to return to.
    pub(super) next: String,
    began: u64,
}

impl Flow {
    pub(super) fn begin(state: String, verifier: &SecretString, next: &str) -> Self {
        Self { state, verifier: verifier.expose_secret().to_owned(), next: next.to_owned(), began: now() }
    }
}

/// The latest session of one that was renewed by a refresh token; locked while it is renewed.
pub(super) type Renewed = Arc<tokio::sync::Mutex<Option<Session>>>;

/// Encrypts and decrypts sessions.
pub(super) struct Sessions {
    sealer: Sealer,
    is_secure: bool,
    session_cookie: String,
    form_cookie: String,
    flow_cookie: String,
    renewals: Cache<String, Renewed>,
    signed_out: Cache<String, Arc<Mutex<SignedOut>>>,
    /// Sessions that the store has just been asked about.
    checked: Cache<String, ()>,
}

/// The sessions of one client that were signed out.
#[derive(Default)]
struct SignedOut {
    ids: Vec<String>,
    /// Sessions that began until then are refused, in seconds since 1970.
    all_until: u64,
}

impl Session {
    /// A new session of a client that has just received this token.
    pub(super) fn begin(client_id: &str, renewal: Renewal, token: &Token) -> Self {
        let now = now();
        Self {
            id: Uuid::new_v4().simple().to_string(),
            csrf: Uuid::new_v4().simple().to_string(),
            began: now,
            issued: now,
            expires: token.expires,
            renewals: 0,
            client_id: client_id.to_owned(),
            renewal,
            token: token.secret.clone(),
        }
    }

    /// The same session with a newer token.
    pub(super) fn renewed(&self, renewal: Renewal, token: &Token) -> Self {
        let renewals = self.renewals.saturating_add(1);
        Self { issued: now(), expires: token.expires, token: token.secret.clone(), renewal, renewals, ..self.clone() }
    }

    /// The same session and token with another renewal.
    pub(super) fn with_renewal(&self, renewal: Renewal) -> Self {
        Self { renewal, renewals: self.renewals.saturating_add(1), ..self.clone() }
    }

    /// Whether this state of a session is newer than another one.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.renewals > other.renewals
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn began(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.began)
    }

    /// Whether two thirds of the token's lifetime are over.
    pub(super) fn is_due(&self) -> bool {
        let lifetime = self.expires.saturating_sub(self.issued);
        now() >= self.issued + lifetime * 2 / 3
    }

    fn is_over(&self) -> bool {
        let now = now();
        now >= self.expires || now >= self.began + MAX_AGE.as_secs()
    }
}

impl Sessions {
    /// With the key from the configuration, or a random one.
    pub(super) fn new(key: Option<&SecretString>, is_secure: bool, port: u16) -> Result<Self, Error> {
        // Cookies do not distinguish ports; with TLS, the prefix binds them to this host and to TLS.
        let name = |name: &str| match is_secure {
            true => format!("__Host-warrengate-{name}"),
            false => format!("warrengate-{name}-{port}"),
        };
        Ok(Self {
            sealer: Sealer::new(key)?,
            is_secure,
            session_cookie: name("session"),
            form_cookie: name("form"),
            flow_cookie: name("issuer"),
            renewals: Cache::builder()
                .max_capacity(MAX_RENEWALS)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_live(RENEWAL_AGE)
                .build(),
            // The default policy might not remember a new entry of a full cache.
            signed_out: Cache::builder()
                .max_capacity(MAX_CLIENTS)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(MAX_AGE)
                .build(),
            checked: Cache::builder().max_capacity(MAX_CHECKED).time_to_live(CHECK_AGE).build(),
        })
    }

    /// The session of a request, if it is valid.
    pub(super) fn read(&self, headers: &HeaderMap) -> Option<Session> {
        let sealed: String = (0..MAX_COOKIES).map_while(|at| cookie(headers, &self.part(at))).collect();
        let plain = self.sealer.open(SESSION, &sealed)?;
        let form: Form<'_> = serde_json::from_slice(&plain).ok()?;
        let session = Session {
            id: form.i.to_owned(),
            csrf: form.f.to_owned(),
            began: form.b,
            issued: form.s,
            expires: form.e,
            renewals: form.n,
            client_id: form.c.to_owned(),
            renewal: match form.k {
                Some(text) if form.r => Renewal::RefreshToken(text.to_owned().into()),
                Some(text) => Renewal::Secret(text.to_owned().into()),
                None => Renewal::None,
            },
            token: form.t.to_owned().into(),
        };
        (!session.is_over() && !self.is_signed_out(&session)).then_some(session)
    }

    /// The headers that store a session in the browser; `None` when it does not fit into its cookies.
    pub(super) fn store(&self, session: &Session) -> Option<Vec<HeaderValue>> {
        let form = Form {
            i: &session.id,
            f: &session.csrf,
            b: session.began,
            s: session.issued,
            e: session.expires,
            n: session.renewals,
            c: &session.client_id,
            r: matches!(session.renewal, Renewal::RefreshToken(_)),
            k: match &session.renewal {
                Renewal::Secret(text) | Renewal::RefreshToken(text) => Some(text.expose_secret()),
                Renewal::None => None,
            },
            t: session.token.expose_secret(),
        };
        let plain = Zeroizing::new(serde_json::to_vec(&form).ok()?);
        let sealed = self.sealer.seal(SESSION, &plain)?;
        let mut parts: Vec<&str> = Vec::new();
        let mut rest = sealed.as_str();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(rest.len().min(MAX_COOKIE));
            parts.push(part);
            rest = others;
        }
        if parts.len() > MAX_COOKIES {
            return None;
        }
        // Removes cookies of an earlier, longer session, which would otherwise be appended to this one.
        let cookies = (0..MAX_COOKIES).map(|at| self.header(&self.part(at), parts.get(at).copied()));
        cookies.collect()
    }

    /// The headers that remove a session from the browser.
    pub(super) fn clear(&self) -> Vec<HeaderValue> {
        (0..MAX_COOKIES).filter_map(|at| self.header(&self.part(at), None)).collect()
    }

    /// Whether the store was asked a moment ago whether a session was signed out, and it was not.
    pub(super) fn was_checked(&self, session: &Session) -> bool {
        self.checked.contains_key(&session.id)
    }

    pub(super) fn set_checked(&self, session: &Session) {
        self.checked.insert(session.id.clone(), ());
    }

    /// Refuses a session on this gateway from now on, because its cookie may have been copied.
    pub(super) fn sign_out(&self, session: &Session) {
        let of_client = self.signed_out.get_with_by_ref(&session.client_id, Arc::default);
        let mut of_client = of_client.lock().unwrap_or_else(PoisonError::into_inner);
        if of_client.ids.len() >= MAX_SIGNED_OUT {
            of_client.ids.clear();
            of_client.all_until = now();
        }
        of_client.ids.push(session.id.clone());
    }

    /// Whether a session was signed out, as far as this gateway knows.
    pub(super) fn is_signed_out(&self, session: &Session) -> bool {
        self.signed_out.get(&session.client_id).is_some_and(|of_client| {
            let of_client = of_client.lock().unwrap_or_else(PoisonError::into_inner);
            session.began <= of_client.all_until || of_client.ids.contains(&session.id)
        })
    }

    /// The latest state of a session that is renewed by a refresh token.
    pub(super) fn renewal_of(&self, session: &Session) -> Renewed {
        self.renewals.get_with(session.id.clone(), Renewed::default)
    }

    /// The header that stores a sign-in at an issuer in the browser. The issuer is another site, so this cookie must
    /// be sent with a link from there.
    pub(super) fn store_flow(&self, flow: &Flow) -> Option<HeaderValue> {
        let plain = Zeroizing::new(serde_json::to_vec(flow).ok()?);
        let sealed = self.sealer.seal(FLOW, &plain)?;
        self.header_for(&self.flow_cookie, Some(&sealed), "Lax", FLOW_AGE)
    }

    /// The sign-in that this browser has begun with this state.
    pub(super) fn own_flow(&self, headers: &HeaderMap, state: &str) -> Option<Flow> {
        let plain = self.sealer.open(FLOW, &cookie(headers, &self.flow_cookie)?)?;
        let flow: Flow = serde_json::from_slice(&plain).ok()?;
        (now() < flow.began + FLOW_AGE.as_secs() && is_equal(&flow.state, state)).then_some(flow)
    }

    /// The header that removes a sign-in at an issuer from the browser.
    pub(super) fn clear_flow(&self) -> Option<HeaderValue> {
        self.header_for(&self.flow_cookie, None, "Lax", FLOW_AGE)
    }

    /// The token of a sign-in form, and the header that stores its cookie.
    pub(super) fn new_form(&self) -> Option<(String, HeaderValue)> {
        let token = Uuid::new_v4().simple().to_string();
        let sealed = self.sealer.seal(FORM, format!("{} {token}", now()).as_bytes())?;
        Some((token, self.header(&self.form_cookie, Some(&sealed))?))
    }

    /// Whether a sign-in form with this token was sent to the browser of this request.
    pub(super) fn is_own_form(&self, headers: &HeaderMap, token: &str) -> bool {
        let plain = cookie(headers, &self.form_cookie).and_then(|sealed| self.sealer.open(FORM, &sealed));
        let Some(plain) = plain else { return false };
        let Some((made, expected)) = std::str::from_utf8(&plain).ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let is_young = made.parse::<u64>().is_ok_and(|made| now() < made + FORM_AGE.as_secs());
        is_young && is_equal(expected, token)
    }

    /// The header that removes the cookie of a sign-in form.
    pub(super) fn clear_form(&self) -> Option<HeaderValue> {
        self.header(&self.form_cookie, None)
    }

    fn part(&self, at: usize) -> String {
        format!("{}-{at}", self.session_cookie)
    }

    fn header(&self, name: &str, value: Option<&str>) -> Option<HeaderValue> {
        self.header_for(name, value, "Strict", MAX_AGE)
    }

    fn header_for(&self, name: &str, value: Option<&str>, same_site: &str, age: Duration) -> Option<HeaderValue> {
        let secure = if self.is_secure { "; Secure" } else { "" };
        let age = if value.is_some() { age.as_secs() } else { 0 };
        let value = value.unwrap_or_default();
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite={same_site}; Max-Age={age}{secure}");
        let mut header = HeaderValue::try_from(text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// Compares in constant time.
pub(super) fn is_equal(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let texts = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(is_secure: bool) -> Sessions {
        Sessions::new(None, is_secure, 8090).expect("a key")
    }

    fn session(token: &str, seconds: u64) -> Session {
        let token = Token { secret: token.to_owned().into(), expires: now() + seconds };
        Session::begin("acme.app", Renewal::Secret("wgs_secret".to_owned().into()), &token)
    }

    /// The request headers with which a browser answers these response headers.
    fn returned(cookies: &[HeaderValue]) -> HeaderMap {
        let pairs = cookies.iter().map(|cookie| cookie.to_str().expect("ASCII").split(';').next().expect("a pair"));
        let text = pairs.filter(|pair| !pair.ends_with('=')).collect::<Vec<_>>().join("; ");
        [(COOKIE, text.parse().expect("a value"))].into_iter().collect()
    }

    #[test]
    fn a_session_survives_its_cookies_and_shows_neither_secret_nor_token() {
        for (is_secure, length) in [(false, 600), (true, 600), (false, 8_000)] {
            let sessions = sessions(is_secure);
            let token = "t".repeat(length);
            let cookies = sessions.store(&session(&token, 60)).expect("it fits");
            for cookie in &cookies {
                let text = cookie.to_str().expect("ASCII");
                assert!(text.contains("; Path=/; HttpOnly; SameSite=Strict; "), "{text}");
                assert_eq!((text.contains("Secure"), text.starts_with("__Host-")), (is_secure, is_secure), "{text}");
                assert!(!text.contains("wgs_") && !text.contains("tttt") && text.len() < 4096);
            }
            let read = sessions.read(&returned(&cookies)).expect("the same session");
            assert_eq!((read.client_id.as_str(), read.token.expose_secret().len()), ("acme.app", length));
            assert!(matches!(read.renewal, Renewal::Secret(secret) if secret.expose_secret() == "wgs_secret"));
        }
        assert!(sessions(false).store(&session(&"t".repeat(20_000), 60)).is_none());
    }

    #[test]
    fn a_session_is_refused_when_changed_expired_signed_out_or_of_another_gateway() {
        let sessions = sessions(false);
        let cookies = sessions.store(&session("t", 60)).expect("it fits");
        assert!(sessions.read(&returned(&cookies)).is_some());
        assert!(self::sessions(false).read(&returned(&cookies)).is_none(), "another key");
        let text = cookies[0].to_str().expect("ASCII");
        let value = text.split(';').next().expect("a pair");
        for at in ["warrengate-session-8090-0=".len(), value.len() / 2, value.len() - 1] {
            let mut bytes = value.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = [(COOKIE, HeaderValue::from_bytes(&bytes).expect("a value"))].into_iter().collect();
            assert!(sessions.read(&changed).is_none(), "changed at {at}");
        }
        let expired = sessions.store(&session("t", 0)).expect("it fits");
        assert!(sessions.read(&returned(&expired)).is_none(), "expired");
        let mut old = session("t", 60);
        old.began = now() - MAX_AGE.as_secs();
        assert!(sessions.read(&returned(&sessions.store(&old).expect("it fits"))).is_none(), "too old");
        let read = sessions.read(&returned(&cookies)).expect("a session");
        sessions.sign_out(&read);
        assert!(sessions.read(&returned(&cookies)).is_none(), "signed out");
        assert!(sessions.read(&HeaderMap::new()).is_none());
    }

    #[test]
    fn however_many_sessions_a_client_signs_out_they_are_refused_and_those_of_others_are_not() {
        let sessions = sessions(false);
        let of = |client: &str| {
            let token = Token { secret: "t".to_owned().into(), expires: now() + 60 };
            Session::begin(client, Renewal::Secret("wgs_secret".to_owned().into()), &token)
        };
        let cookies = |session: &Session| returned(&sessions.store(session).expect("it fits"));
        let other = cookies(&of("globex.app"));
        let all: Vec<_> = (0..3 * MAX_SIGNED_OUT).map(|_| of("acme.app")).collect();
        all.iter().for_each(|session| sessions.sign_out(session));
        assert!(all.iter().all(|session| sessions.read(&cookies(session)).is_none()));
        assert!(sessions.read(&other).is_some());
        let mut later = of("acme.app");
        later.began += 1;
        assert!(sessions.read(&cookies(&later)).is_some(), "a new session");
        let remembered = sessions.signed_out.get("acme.app").expect("remembered");
        assert!(remembered.lock().expect("not poisoned").ids.len() <= MAX_SIGNED_OUT);
    }

    #[test]
    fn a_sign_in_at_an_issuer_continues_only_in_the_browser_that_began_it_and_not_for_long() {
        let sessions = sessions(true);
        let flow = |began| Flow { began, ..Flow::begin("state".to_owned(), &"v".to_owned().into(), "/queues") };
        let cookie = sessions.store_flow(&flow(now())).expect("it fits");
        let text = cookie.to_str().expect("ASCII").to_owned();
        assert!(
            text.starts_with("__Host-") && text.contains("; HttpOnly; SameSite=Lax; Max-Age=600; Secure"),
            "{text}"
        );
        let headers = returned(&[cookie]);
        assert_eq!(sessions.own_flow(&headers, "state").expect("its own").next, "/queues");
        assert!(sessions.own_flow(&headers, "other").is_none() && sessions.own_flow(&headers, "").is_none());
        assert!(sessions.own_flow(&HeaderMap::new(), "state").is_none());
        let old = sessions.store_flow(&flow(now() - FLOW_AGE.as_secs())).expect("it fits");
        assert!(sessions.own_flow(&returned(&[old]), "state").is_none(), "too old");
    }

    #[test]
    fn a_session_keeps_its_refresh_token_or_none() {
        let sessions = sessions(false);
        let token = Token { secret: "t".to_owned().into(), expires: now() + 60 };
        for renewal in [Renewal::RefreshToken("again".to_owned().into()), Renewal::None] {
            let session = Session::begin("acme.app", renewal.clone(), &token);
            let read = sessions.read(&returned(&sessions.store(&session).expect("it fits"))).expect("a session");
            let text = |renewal| match renewal {
                Renewal::RefreshToken(token) => token.expose_secret().to_owned(),
                Renewal::Secret(_) => "a secret".to_owned(),
                Renewal::None => String::new(),
            };
            assert_eq!(text(read.renewal), text(renewal));
        }
    }

    #[test]
    fn gateways_with_the_same_key_share_sessions() {
        let key = SecretString::from("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let with_key = || Sessions::new(Some(&key), true, 443).expect("a key");
        let cookies = with_key().store(&session("t", 60)).expect("it fits");
        assert!(with_key().read(&returned(&cookies)).is_some());
    }

    #[test]
    fn a_token_is_due_for_renewal_after_two_thirds_of_its_lifetime() {
        let mut session = session("t", 90);
        assert!(!session.is_due());
        session.issued -= 61;
        session.expires = session.issued + 90;
        assert!(session.is_due());
    }

    #[test]
    fn a_sign_in_form_is_accepted_only_with_the_cookie_that_came_with_it() {
        let sessions = sessions(false);
        let (token, cookie) = sessions.new_form().expect("a form");
        let (other, _) = sessions.new_form().expect("a form");
        let headers = returned(&[cookie]);
        assert!(sessions.is_own_form(&headers, &token));
        assert!(!sessions.is_own_form(&headers, &other) && !sessions.is_own_form(&headers, ""));
        assert!(!sessions.is_own_form(&HeaderMap::new(), &token));
    }
}
