//! HTTPS requests to the broker's management API. The HTTP client trusts only the broker's CA and presents the
//! provisioner's certificate. Each endpoint is tried in turn, for a limited time.
//!
//! Every request sent through this module can be repeated without harm, so a request whose response was lost is sent
//! again. The CA, the certificate, the key and the password may change in their files at any time without a request
//! failing: the files are read again when they change, and at the latest when a request fails. While the password is
//! being changed, its file contains the new password in the first line and the old one in the second, and the one that
//! the broker accepts is used.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use reqwest::{
    Certificate, Identity, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderValue},
    redirect,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Cause, Error};
use crate::{
    backoff::Backoff,
    config::ManagementConfig,
    memory::{MemoryBudget, MemoryPermit},
    pki::Watched,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum time for one request with all its attempts.
const DEADLINE: Duration = Duration::from_secs(20);
const MAX_ATTEMPTS: u32 = 5;
/// The maximum number of passwords that are valid at the same time.
const MAX_PASSWORDS: usize = 2;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
/// The maximum size of a response, so that a vhost with millions of bindings cannot exhaust the gateway's memory.
const MAX_ANSWER: usize = 32 << 20;
/// The memory charged for a response in addition to its size, for parsing it.
const COPIES: usize = 2;
/// The same for the body of an error.
const MAX_ERROR: usize = 64 << 10;

/// One request, without the endpoint.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// The path's segments below `/api`, not yet percent-encoded.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    /// The body, as JSON.
    pub(super) body: Option<Vec<u8>>,
    /// The reason, for the broker's log.
    pub(super) reason: Option<&'static str>,
}

/// The client for all endpoints.
pub(super) struct Http {
    connections: ArcSwap<Connections>,
    /// The endpoint that responded last.
    first: AtomicUsize,
    settings: Settings,
    files: Mutex<Watched>,
    memory: MemoryBudget,
}

/// The body of a response, which is charged until it is dropped.
#[derive(Debug)]
pub(super) struct Answer {
    body: Vec<u8>,
    _charge: Option<MemoryPermit>,
}

impl std::ops::Deref for Answer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.body
    }
}

/// The clients and passwords that were read from the files.
struct Connections {
    client: reqwest::Client,
    passwords: Vec<SecretString>,
    /// The password that was accepted last.
    accepted: AtomicUsize,
}

struct Settings {
    /// The endpoints, each with `/api` at its end.
    roots: Vec<Url>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    user: String,
    /// The password in the configuration, used if there is no password file.
    password: SecretString,
    password_file: Option<PathBuf>,
}

impl Http {
    /// Response bodies are charged to `memory`.
    pub(super) fn new(config: &ManagementConfig, broker_ca: &Path, memory: MemoryBudget) -> Result<Self, Error> {
        let roots = config.endpoints.iter().map(|text| root(text)).collect::<Result<Vec<_>, _>>()?;
        if roots.is_empty() {
            return Err(Error::settings("no endpoint is configured"));
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
        // Before the files are read, so that no change is missed.
        let files = Mutex::new(Watched::new(settings.files()));
        let connections = ArcSwap::from_pointee(settings.connections()?);
        Ok(Self { connections, first: AtomicUsize::new(0), settings, files, memory })
    }

    /// Reads the files again whenever they change, until stopped.
    pub(super) async fn watch_files(&self, stop: CancellationToken) {
        let mut files = Watched::new(self.settings.files());
        // The files may have changed since they were first read.
        self.reload();
        loop {
            tokio::select! {
                () = files.changed() => self.reload(),
                () = stop.cancelled() => return,
            }
        }
    }

    fn reload(&self) {
        match self.settings.connections() {
            Ok(connections) => self.connections.store(Arc::new(connections)),
            // Possibly only one of two files has been written so far.
            Err(error) => {
                tracing::warn!(%error, "cannot use the provisioner's changed files, using the previous ones")
            }
        }
    }

    /// Sends a request; returns the body of the response of the first endpoint that responds.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Answer, Error> {
        let in_time = tokio::time::timeout(DEADLINE, self.attempts(request)).await;
        in_time.unwrap_or_else(|_| Err(Error::Unavailable(Cause("no response in time".into()))))
    }

    async fn attempts(&self, request: &Request<'_>) -> Result<Answer, Error> {
        let mut backoff = BACKOFF;
        let mut last = Error::Unavailable(Cause("not tried".into()));
        for attempt in 0..MAX_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(backoff.pause()).await;
            }
            let connections = self.connections.load_full();
            let first = self.first.load(Ordering::Relaxed);
            let endpoints = self.settings.roots.len();
            for offset in 0..endpoints {
                let index = (first + offset) % endpoints;
                match self.send_to(&connections, &self.settings.roots[index], request).await {
                    Err(error) if error.may_pass() => last = error,
                    Err(error @ Error::Refused(_)) if self.may_be_outdated(&connections).await => last = error,
                    answer => {
                        self.first.store(index, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
            // The files may differ from what was read.
            self.reload();
        }
        tracing::warn!(error = &last as &dyn std::error::Error, "cannot reach the broker's management API");
        Err(last)
    }

    /// Whether a request with these passwords may have been refused because of a password change: the change is in
    /// progress, so that the broker may have replaced the password between two tries, or the files were read again,
    /// possibly for another request.
    async fn may_be_outdated(&self, used: &Arc<Connections>) -> bool {
        // Other requests wait here until the changed files are read, because a change is reported only once.
        let mut files = self.files.lock().await;
        if files.check().await {
            self.reload();
        }
        used.passwords.len() > 1 || !Arc::ptr_eq(used, &self.connections.load())
    }

    /// Sends a request to one endpoint, with the password that was accepted last, or with another one if that is
    /// refused.
    async fn send_to(&self, connections: &Connections, root: &Url, request: &Request<'_>) -> Result<Answer, Error> {
        let (count, accepted) = (connections.passwords.len(), connections.accepted.load(Ordering::Relaxed));
        let mut refused = None;
        for index in (0..count).map(|offset| (accepted + offset) % count) {
            let password = &connections.passwords[index];
            match request.send(&connections.client, root, &self.settings.user, password, &self.memory).await {
                Err(error @ Error::Refused(_)) => refused = refused.or(Some(error)),
                answer => {
                    connections.accepted.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(refused.unwrap_or_else(|| Error::settings("no password is configured")))
    }
}

impl Request<'_> {
    async fn send(
        &self,
        client: &reqwest::Client,
        root: &Url,
        user: &str,
        password: &SecretString,
        memory: &MemoryBudget,
    ) -> Result<Answer, Error> {
        let mut url = root.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(self.path);
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(self.query);
        }
        let mut request = client.request(self.method.clone(), url).basic_auth(user, Some(password.expose_secret()));
        if let Some(body) = &self.body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body.clone());
        }
        if let Some(reason) = self.reason {
            request = request.header("x-reason", HeaderValue::from_static(reason));
        }
        let response = request.send().await?;
        let status = response.status();
        if status.is_success() {
            return read(response, MAX_ANSWER, memory).await?.ok_or(Error::TooLarge);
        }
        let body = read(response, MAX_ERROR, memory).await.ok().flatten();
        Err(Error::of_status(status, self.cause(status, body.as_deref().unwrap_or_default())))
    }

    /// One line for the log: the request, the status and the broker's reason.
    fn cause(&self, status: StatusCode, body: &[u8]) -> Cause {
        #[derive(Deserialize)]
        struct Refusal {
            reason: serde_json::Value,
        }
        let mut text = format!("{} /api/{}: {status}", self.method, self.path.join("/"));
        match serde_json::from_slice(body) {
            Ok(Refusal { reason: serde_json::Value::String(reason) }) => text.extend([": ", &reason]),
            Ok(Refusal { reason }) => text.extend([": ", &reason.to_string()]),
            Err(_) => {}
        }
        Cause(text)
    }
}

/// The whole body; `None` if it is larger than `max`.
async fn read(mut response: Response, max: usize, memory: &MemoryBudget) -> Result<Option<Answer>, Error> {
    let mut answer = Answer { body: Vec::new(), _charge: None };
    while let Some(chunk) = response.chunk().await? {
        if answer.body.len() + chunk.len() > max {
            return Ok(None);
        }
        let charge = memory.try_reserve(COPIES * chunk.len())?;
        match &mut answer._charge {
            Some(charged) => charged.merge(charge),
            none => *none = Some(charge),
        }
        answer.body.extend_from_slice(&chunk);
    }
    Ok(Some(answer))
}

impl Settings {
    fn files(&self) -> Vec<PathBuf> {
        let password = self.password_file.iter().cloned();
        [&self.ca, &self.certificate, &self.key].into_iter().cloned().chain(password).collect()
    }

    /// One password, or the new and the old one while it is being changed.
    fn passwords(&self) -> Result<Vec<SecretString>, Error> {
        let given = match &self.password_file {
            Some(file) => SecretString::from(std::fs::read_to_string(file).map_err(|e| Error::Settings {
                what: format!("cannot read {}", file.display()),
                source: Some(Box::new(e)),
            })?),
            None => self.password.clone(),
        };
        let lines = given.expose_secret().lines().map(str::trim_end).filter(|line| !line.is_empty());
        let passwords: Vec<_> = lines.take(MAX_PASSWORDS).map(SecretString::from).collect();
        if passwords.is_empty() { Err(Error::settings("there is no password")) } else { Ok(passwords) }
    }

    fn connections(&self) -> Result<Connections, Error> {
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
        let identity = Identity::from_pem(&pem)
            .map_err(unusable("the provisioner's certificate and key do not belong together"))?;
        let client = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(ca)
            .identity(identity)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            .https_only(true)
            // Proxies from the environment and redirects are disabled, because they could read the password.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(unusable("the TLS settings cannot be used"))?;
        Ok(Connections { client, passwords: self.passwords()?, accepted: AtomicUsize::new(0) })
    }
}

/// `https://host:port` or `https://host:port/prefix`, with `/api` added if it is missing.
fn root(text: &str) -> Result<Url, Error> {
    // The message does not contain the text, because it may contain a password.
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

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.settings.roots.iter().map(Url::as_str).collect();
        f.debug_struct("Http").field("endpoints", &roots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_logged_with_the_brokers_reason() {
        let request = Request { method: Method::PUT, path: &["vhosts", "wg.a"], query: &[], body: None, reason: None };
        let cause = |body: &str| request.cause(StatusCode::BAD_REQUEST, body.as_bytes()).to_string();
        let line = "PUT /api/vhosts/wg.a: 400 Bad Request";
        assert_eq!(cause(r#"{"error": "bad_request", "reason": "not_json"}"#), format!("{line}: not_json"));
        assert_eq!(cause(r#"{"error": "bad_request", "reason": {"a": 1}}"#), format!("{line}: {{\"a\":1}}"));
        assert_eq!(cause("<html>"), line);
    }

    #[test]
    fn an_endpoint_is_https_and_refers_to_the_api() {
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
