//! The way to the broker's HTTP API: one HTTP client that trusts the broker's CA and nothing else, presents the provisioner's
//! certificate, and tries each endpoint in turn for a bounded time. Every request that goes through here can be repeated
//! without harm, so a lost connection is simply tried again.
//!
//! Invariant: authority, certificate, key and password may change in their files at any time, and no request fails for it.
//! Files are read again when they change, at the latest when a request fails; and while the password changes, its file holds
//! the next one in a line before the last one, and whichever the broker takes is used.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use rabbitmq_http_client::{api::Client, commons::Password};
use reqwest::{Certificate, Identity, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Cause, Error};
use crate::{config::ManagementConfig, pki::Watched};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For one act with all its tries.
const DEADLINE: Duration = Duration::from_secs(20);
const TRIES: u32 = 5;
/// Passwords that may count at the same time.
const PASSWORDS: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// An answer is read up to here, so that a vhost with millions of bindings cannot fill our memory.
const MAX_ANSWER: usize = 32 << 20;

/// One endpoint, ready to be asked.
pub(super) struct Link {
    /// The administrative calls.
    pub(super) client: Client<String, String, Password>,
    /// The same connection pool, for what the client does not decode (rates).
    http: reqwest::Client,
    root: Url,
    user: String,
    password: SecretString,
}

/// All endpoints.
pub(super) struct Api {
    links: ArcSwap<Links>,
    /// The endpoint that answered last.
    first: AtomicUsize,
    settings: Settings,
    files: Mutex<Watched>,
}

/// The endpoints, by each password that may count.
struct Links {
    by_password: Vec<Vec<Arc<Link>>>,
    /// The password that was taken last.
    taken: AtomicUsize,
}

struct Settings {
    roots: Vec<Url>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    user: String,
    /// As it was given, when no file holds it.
    password: SecretString,
    password_file: Option<PathBuf>,
}

impl Api {
    pub(super) fn new(config: &ManagementConfig, broker_ca: &Path) -> Result<Self, Error> {
        let roots = config.endpoints.iter().map(|text| root(text)).collect::<Result<Vec<_>, _>>()?;
        if roots.is_empty() {
            return Err(Error::settings("no endpoint is given"));
        }
        let settings = Settings {
            roots,
            ca: broker_ca.to_owned(),
            certificate: config.certificate.clone(),
            key: config.key.clone(),
            user: config.user.clone(),
            password: config.password.clone(),
            password_file: config.password_file.clone(),
        };
        // Before they are read, so that no change is missed.
        let files = Mutex::new(Watched::new(settings.files()));
        let links = ArcSwap::from_pointee(settings.links()?);
        Ok(Self { links, first: AtomicUsize::new(0), settings, files })
    }

    /// Reads the files again whenever they change, until stopped.
    pub(super) async fn follow_files(&self, stop: CancellationToken) {
        let mut files = Watched::new(self.settings.files());
        // They may have changed since the first reading.
        self.read_again();
        loop {
            tokio::select! {
                () = files.changed() => self.read_again(),
                () = stop.cancelled() => return,
            }
        }
    }

    fn read_again(&self) {
        match self.settings.links() {
            Ok(links) => self.links.store(Arc::new(links)),
            // Perhaps only one of two is written yet.
            Err(error) => tracing::warn!(%error, "the provisioner's files cannot be used as they are now"),
        }
    }

    /// Does something that can be repeated, at the first endpoint that answers.
    pub(super) async fn call<T, E, F>(&self, act: impl Fn(Arc<Link>) -> F) -> Result<T, Error>
    where
        E: Into<Error>,
        F: Future<Output = Result<T, E>>,
    {
        let in_time = tokio::time::timeout(DEADLINE, self.tries(act)).await;
        in_time.unwrap_or_else(|_| Err(Error::Unavailable(Cause("no answer in time".into()))))
    }

    async fn tries<T, E, F>(&self, act: impl Fn(Arc<Link>) -> F) -> Result<T, Error>
    where
        E: Into<Error>,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut last = Error::Unavailable(Cause("not tried".into()));
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
                pause *= 2;
            }
            let links = self.links.load_full();
            let first = self.first.load(Ordering::Relaxed);
            let endpoints = self.settings.roots.len();
            for turn in 0..endpoints {
                let index = (first + turn) % endpoints;
                match links.ask(index, &act).await {
                    Err(error) if error.may_pass() => last = error,
                    // The password may be another one by now.
                    Err(error @ Error::Refused(_)) if self.files.lock().await.look().await => last = error,
                    answer => {
                        self.first.store(index, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
            // What is in the files may be other than what was read.
            self.read_again();
        }
        tracing::warn!(error = &last as &dyn std::error::Error, "the broker's administration cannot be asked");
        Err(last)
    }
}

impl Links {
    /// With the password that was taken last; with another one when that is refused.
    async fn ask<T, E, F>(&self, endpoint: usize, act: &impl Fn(Arc<Link>) -> F) -> Result<T, Error>
    where
        E: Into<Error>,
        F: Future<Output = Result<T, E>>,
    {
        let (count, taken) = (self.by_password.len(), self.taken.load(Ordering::Relaxed));
        let mut refused = None;
        for password in (0..count).map(|turn| (taken + turn) % count) {
            match act(Arc::clone(&self.by_password[password][endpoint])).await.map_err(Into::into) {
                Err(error @ Error::Refused(_)) => refused = refused.or(Some(error)),
                answer => {
                    self.taken.store(password, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(refused.unwrap_or_else(|| Error::settings("there is no password")))
    }
}

impl Settings {
    fn files(&self) -> Vec<PathBuf> {
        let password = self.password_file.iter().cloned();
        [&self.ca, &self.certificate, &self.key].into_iter().cloned().chain(password).collect()
    }

    /// One; or two, the next and the last, while it changes.
    fn passwords(&self) -> Result<Vec<SecretString>, Error> {
        let given = match &self.password_file {
            Some(file) => SecretString::from(std::fs::read_to_string(file).map_err(|e| Error::Settings {
                what: format!("cannot read {}", file.display()),
                source: Some(Box::new(e)),
            })?),
            None => self.password.clone(),
        };
        let lines = given.expose_secret().lines().map(str::trim_end).filter(|line| !line.is_empty());
        let passwords: Vec<_> = lines.take(PASSWORDS).map(SecretString::from).collect();
        if passwords.is_empty() { Err(Error::settings("there is no password")) } else { Ok(passwords) }
    }

    fn links(&self) -> Result<Links, Error> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| Error::Settings {
                what: format!("cannot read {}", path.display()),
                source: Some(Box::new(e)),
            })
        };
        let unusable = |what: &str| {
            let what = what.to_owned();
            move |e: reqwest::Error| Error::Settings { what, source: Some(Box::new(e)) }
        };
        let ca = Certificate::from_pem_bundle(&read(&self.ca)?)
            .map_err(|e| Error::Settings { what: "the broker's CA is not PEM".into(), source: Some(Box::new(e)) })?;
        if ca.is_empty() {
            return Err(Error::settings("the broker's CA is not PEM"));
        }
        let mut pem = zeroize::Zeroizing::new(read(&self.key)?);
        pem.push(b'\n');
        pem.extend(read(&self.certificate)?);
        let identity =
            Identity::from_pem(&pem).map_err(unusable("the provisioner's certificate and key do not fit together"))?;
        let http = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(ca)
            .identity(identity)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .https_only(true)
            // Not through whatever proxy the environment names, and not to wherever an answer points.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(unusable("the TLS settings cannot be used"))?;
        let of = |password: &SecretString| {
            self.roots.iter().map(|root| Arc::new(self.link(root, &http, password))).collect()
        };
        Ok(Links { by_password: self.passwords()?.iter().map(of).collect(), taken: AtomicUsize::new(0) })
    }

    fn link(&self, root: &Url, http: &reqwest::Client, secret: &SecretString) -> Link {
        let endpoint = root.as_str().trim_end_matches('/').to_owned();
        let password = Password::new(secret.expose_secret());
        Link {
            client: Client::from_http_client(http.clone(), endpoint, self.user.clone(), password),
            http: http.clone(),
            root: root.clone(),
            user: self.user.clone(),
            password: secret.clone(),
        }
    }
}

/// `https://host:port` or `https://host:port/prefix`, with `/api` added when it is not there.
fn root(text: &str) -> Result<Url, Error> {
    // The text stays out of the message: somebody may have put a password into it.
    let bad = || Error::settings("an endpoint is not an address like \"https://broker:15671\"");
    let mut url = Url::parse(text).map_err(|_| bad())?;
    if url.scheme() != "https" || !url.has_host() || url.query().is_some() || !url.username().is_empty() {
        return Err(bad());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if path.ends_with("/api") { path } else { format!("{path}/api") };
    url.set_path(&path);
    Ok(url)
}

impl Link {
    /// `GET /api/<path>?<query>` as JSON; none when the answer is larger than the bound.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Option<Value>, Error> {
        let mut url = self.root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.get(url).basic_auth(&self.user, Some(self.password.expose_secret()));
        let mut response = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map(Some).map_err(|e| Error::Answer(Cause::of(&e)))
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.settings.roots.iter().map(Url::as_str).collect();
        f.debug_struct("Api").field("endpoints", &roots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_https_and_leads_to_the_api() {
        let text = |given| root(given).expect("an endpoint").to_string();
        assert_eq!(text("https://localhost:15681"), "https://localhost:15681/api");
        assert_eq!(text("https://localhost:15681/"), "https://localhost:15681/api");
        assert_eq!(text("https://localhost:15681/api/"), "https://localhost:15681/api");
        assert_eq!(text("https://host/rabbit"), "https://host/rabbit/api");
        for bad in ["http://localhost:15681", "localhost", "https://", "https://u@host/", "https://host/?a=b"] {
            assert!(root(bad).is_err(), "{bad}");
        }
    }
}
