//! The HTTP/2 connection to the gateway.
//!
//! Tokens are never sent unencrypted to another machine: `http://` is accepted for loopback addresses only. A dead peer
//! is detected within 25 s by keepalive pings.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::{ClientOptions, Error, backoff::Backoff};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the gateway may send on one stream before it is read.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for the connection. h2 ends a connection with `too_many_data_frames` when unread frames below 256 bytes
/// exceed a budget of half this window. With an adaptive window, 100 streams with two small unread events each would
/// exceed it.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Limit for one attempt to connect, so that an address that does not respond does not use up the whole time.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The current connection. Open streams of a replaced connection stay there; new calls use the new one.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Endpoint,
    current: ArcSwap<ChannelHandle>,
}

/// One connection, which is established again when it was lost.
#[derive(Debug)]
pub(super) struct ChannelHandle(pub(super) Channel);

impl Connection {
    /// Connects; while the gateway cannot be reached, tries again until the deadline.
    pub(super) async fn open(options: &ClientOptions, deadline: Instant) -> Result<Self, Error> {
        let endpoint = endpoint(options)?;
        let mut backoff = Backoff::default();
        loop {
            let error = match timeout_at(deadline, endpoint.connect()).await {
                Ok(Ok(channel)) => {
                    return Ok(Self { endpoint, current: ArcSwap::from_pointee(ChannelHandle(channel)) });
                }
                Ok(Err(source)) => Error::connect(&options.endpoint, source),
                Err(_) => Error::no_answer(&options.endpoint),
            };
            let pause = backoff.next();
            if options.connect_once || !error.is_retryable() || Instant::now() + pause > deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    pub(super) fn current(&self) -> Arc<ChannelHandle> {
        self.current.load_full()
    }

    /// Replaces the connection for new calls, unless it was replaced already.
    pub(super) fn replace(&self, old: &Arc<ChannelHandle>) {
        let new = Arc::new(ChannelHandle(self.endpoint.connect_lazy()));
        self.current.compare_and_swap(old, new);
    }
}

fn endpoint(options: &ClientOptions) -> Result<Endpoint, Error> {
    let wrong = || Error::Endpoint(options.endpoint.clone());
    let endpoint = Endpoint::from_shared(options.endpoint.clone())
        .map_err(|_| wrong())?
        .connect_timeout(options.connect_timeout.min(ATTEMPT))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let uri = endpoint.uri().clone();
    let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']')).ok_or_else(wrong)?;
    match uri.scheme_str() {
        Some("http") if is_loopback(host) => Ok(endpoint),
        Some("https") => {
            let tls = authorities(options)?
                .domain_name(options.server_name.as_deref().unwrap_or(host))
                .timeout(options.connect_timeout.min(ATTEMPT));
            endpoint.tls_config(tls).map_err(|source| Error::CertificateAuthority(Arc::new(source)))
        }
        _ => Err(wrong()),
    }
}

/// The given authority alone, or the system's when none is given.
fn authorities(options: &ClientOptions) -> Result<ClientTlsConfig, Error> {
    match &options.ca_certificate {
        Some(pem) => Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))),
        #[cfg(feature = "system-roots")]
        None => Ok(ClientTlsConfig::new().with_native_roots()),
        #[cfg(not(feature = "system-roots"))]
        None => Err(Error::NoCertificateAuthority),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credentials;

    fn check(address: &str) -> Result<Endpoint, Error> {
        endpoint(&ClientOptions::new(address, Credentials::Anonymous))
    }

    #[test]
    fn tokens_are_sent_unencrypted_to_loopback_addresses_only() {
        for fine in ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for bad in ["http://gateway.example:80", "http://10.0.0.1", "127.0.0.1:8443", "", "ftp://x", "https:///"] {
            assert!(matches!(check(bad), Err(Error::Endpoint(_))), "{bad}");
        }
    }

    #[cfg(not(feature = "system-roots"))]
    #[test]
    fn tls_needs_a_certificate_authority() {
        assert!(matches!(check("https://127.0.0.1:8443"), Err(Error::NoCertificateAuthority)));
    }

    #[cfg(feature = "system-roots")]
    #[test]
    fn an_endpoint_uses_the_system_authorities_by_default() {
        assert!(check("https://127.0.0.1:8443").is_ok());
    }
}
