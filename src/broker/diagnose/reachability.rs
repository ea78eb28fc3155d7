//! The reachability check of each broker node, for `warrengate doctor`: the node's own certificate, and whether it
//! accepts client certificates of the gateway's authority. It changes nothing.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    broker::{
        connection::connect::{External, Target, connect},
        error::Error,
    },
    config::{BrokerConfig, Endpoint},
    pki::Authority,
};

/// The result of the check at one node.
pub struct NodeReachability {
    /// The node.
    pub endpoint: Endpoint,
    /// The certificate that it presents in a handshake.
    pub certificate: Result<CertificateDer<'static>, String>,
    /// Whether it accepts client certificates that the authority has signed.
    pub accepts_clients: Result<(), String>,
}

/// Checks each node: whether a `trusted` authority has signed its certificate, and whether it accepts certificates
/// signed by `signer`. It logs in as a user that does not exist: the broker refuses the user only after it has accepted
/// the certificate.
pub async fn check_reachability(
    config: &BrokerConfig,
    trusted: &Authority,
    signer: &Authority,
) -> Vec<NodeReachability> {
    let checks = config.endpoints.iter().map(async |endpoint| NodeReachability {
        endpoint: endpoint.clone(),
        certificate: presented_certificate(config, trusted, endpoint).await,
        accepts_clients: accepts_clients(config, trusted, signer, endpoint).await,
    });
    futures_util::future::join_all(checks).await
}

fn roots(trusted: &Authority) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for trusted in trusted.trusted_der() {
        roots.add(trusted.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

async fn presented_certificate(
    config: &BrokerConfig,
    trusted: &Authority,
    endpoint: &Endpoint,
) -> Result<CertificateDer<'static>, String> {
    let tls = ClientConfig::builder().with_root_certificates(roots(trusted)?).with_no_client_auth();
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| error.to_string())?;
    let handshake = async {
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    };
    let tls = match tokio::time::timeout(config.connect_timeout, handshake).await {
        Ok(tls) => tls.map_err(|error| error.to_string())?,
        Err(_) => return Err("no response in time".to_owned()),
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    chain.first().map(|leaf| leaf.clone().into_owned()).ok_or_else(|| "it presents no certificate".to_owned())
}

async fn accepts_clients(
    config: &BrokerConfig,
    trusted: &Authority,
    signer: &Authority,
    endpoint: &Endpoint,
) -> Result<(), String> {
    let leaf = signer.client("wg-doctor", Duration::from_secs(3600)).map_err(|error| error.to_string())?;
    let tls = ClientConfig::builder()
        .with_root_certificates(roots(trusted)?)
        .with_client_auth_cert(leaf.chain_der(), leaf.key_der())
        .map_err(|error| error.to_string())?;
    let target = Target {
        endpoint,
        vhost: "/",
        tls: Arc::new(tls),
        heartbeat: config.heartbeat,
        timeout: config.connect_timeout,
        name: "warrengate doctor".to_owned(),
    };
    match connect(target, External).await {
        Ok(_) | Err(Error::Refused(_)) => Ok(()),
        Err(Error::Unreachable(Some(error))) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
