//! A browser without scripts: it keeps cookies, sends forms with the hidden fields of the page, and follows redirects.

use std::{collections::BTreeMap, net::SocketAddr};

use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap, redirect::Policy};
use secrecy::{ExposeSecret as _, SecretString};

use super::{SharedStack, wait::within};

/// A page as it was received.
#[derive(Debug)]
pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    /// The path at the end of all redirects.
    pub path: String,
}

pub struct Browser {
    http: reqwest::Client,
    origin: String,
    pub cookies: BTreeMap<String, String>,
    csrf: String,
}

impl Browser {
    /// A browser at the shared gateway's console.
    pub fn new() -> Self {
        Self::at(SharedStack::get().stack.gateway().console_address().expect("the console is on"))
    }

    pub fn at(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { http, origin: format!("http://{address}"), cookies: BTreeMap::new(), csrf: String::new() }
    }

    /// A browser in which this client is signed in.
    pub async fn signed_in(id: &str, secret: &SecretString) -> Self {
        let mut browser = Self::new();
        let page = browser.sign_in(id, secret).await;
        assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/"), "{}", page.text);
        browser
    }

    pub async fn sign_in(&mut self, id: &str, secret: &SecretString) -> Page {
        self.get("/sign-in").await;
        self.post("/sign-in", &[("client_id", id), ("client_secret", secret.expose_secret())]).await
    }

    /// The token of forms on the page that was received last.
    pub fn csrf(&self) -> &str {
        &self.csrf
    }

    pub fn forget_csrf(&mut self) {
        self.csrf.clear();
    }

    pub async fn get(&mut self, path: &str) -> Page {
        let request = self.request(Method::GET, path);
        self.follow(path, request).await
    }

    /// The page, which must be there.
    pub async fn open(&mut self, path: &str) -> String {
        let page = self.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        page.text
    }

    /// Sends a form with the token of the last page.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let request = self.form(path, fields).header("sec-fetch-site", "same-origin");
        self.follow(path, request).await
    }

    /// Sends a form without the headers for its origin.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
        let csrf = ("csrf", self.csrf.as_str());
        let pairs = fields.iter().copied().chain([csrf]);
        let body =
            pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&");
        let kind = "application/x-www-form-urlencoded";
        self.request(Method::POST, path).header("content-type", kind).body(body)
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.http.request(method, format!("{}{path}", self.origin)).header("cookie", cookies.join("; "))
    }

    pub async fn follow(&mut self, path: &str, request: RequestBuilder) -> Page {
        let mut page = self.send(path, request).await;
        while page.status.is_redirection() {
            let next = page.headers["location"].to_str().unwrap().to_owned();
            assert!(next.starts_with('/') && !next.starts_with("//"), "{next}");
            let request = self.request(Method::GET, &next);
            page = self.send(&next, request).await;
        }
        page
    }

    /// The page without following a redirect.
    pub async fn send(&mut self, path: &str, request: RequestBuilder) -> Page {
        let response = within("a page", request.send()).await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => drop(self.cookies.remove(name)),
                _ => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let text = within("its text", response.text()).await.unwrap();
        if let Some((_, rest)) = text.split_once("name=\"csrf\" value=\"") {
            self.csrf = rest.split('"').next().unwrap().to_owned();
        }
        Page { status, headers, text, path: path.split('?').next().unwrap().to_owned() }
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
