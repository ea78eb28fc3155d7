//! The connection. Checked options enter; a `Channel` leaves: HTTP/2 over TLS with the given authorities only, small
//! writes sent at once, windows that grow with the link, and a dead peer noticed within half a minute. Invariant: a
//! token never travels in the clear beyond this machine.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::{ClientOptions, Error};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn open(options: &ClientOptions) -> Result<Channel, Error> {
    endpoint(options)?.connect().await.map_err(|source| Error::connect(&options.endpoint, source))
}

fn endpoint(options: &ClientOptions) -> Result<Endpoint, Error> {
    let wrong = || Error::Endpoint(options.endpoint.clone());
    let endpoint = Endpoint::from_shared(options.endpoint.clone())
        .map_err(|_| wrong())?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let uri = endpoint.uri().clone();
    let host = uri.host().map(|host| host.trim_start_matches('[').trim_end_matches(']')).ok_or_else(wrong)?;
    match uri.scheme_str() {
        Some("http") if is_loopback(host) => Ok(endpoint),
        Some("https") => {
            let pem = options.ca_certificate.as_ref().ok_or(Error::NoCertificateAuthority)?;
            let tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(pem))
                .domain_name(options.server_name.as_deref().unwrap_or(host))
                .timeout(options.connect_timeout);
            endpoint.tls_config(tls).map_err(|source| Error::CertificateAuthority(Arc::new(source)))
        }
        _ => Err(wrong()),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Credentials;

    fn check(address: &str) -> Result<Endpoint, Error> {
        endpoint(&ClientOptions::new(address, Credentials::Anonymous))
    }

    #[test]
    fn tokens_go_in_the_clear_to_this_machine_only() {
        for fine in ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
        for bad in ["http://gateway.example:80", "http://10.0.0.1", "127.0.0.1:8443", "", "ftp://x", "https:///"] {
            assert!(matches!(check(bad), Err(Error::Endpoint(_))), "{bad}");
        }
    }

    #[test]
    fn tls_needs_an_authority_to_trust() {
        assert!(matches!(check("https://127.0.0.1:8443"), Err(Error::NoCertificateAuthority)));
    }
}
