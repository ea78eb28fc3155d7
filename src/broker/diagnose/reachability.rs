//! A look at each broker node from outside, for `warrengate doctor`: its own certificate, and whether it listens to who shows one
//! of our authority. Settings and authorities enter; an answer for each node leaves. Nothing is changed.

use std::{sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    broker::{
        Error,
        connection::connect::{External, Target, connect},
    },
    config::{BrokerConfig, Endpoint},
    pki::Authority,
};

/// What a node shows and says.
pub struct Reached {
    /// Which.
    pub endpoint: Endpoint,
    /// Its certificate, as a handshake shows it.
    pub certificate: Result<CertificateDer<'static>, String>,
    /// Whether it listens to who shows a certificate of the authority's.
    pub listens: Result<(), String>,
}

/// Looks at each node: its certificate has to be of one that is `trusted`, and it has to listen to what `signer` signs. A user
/// that does not exist is tried: being refused by name is what shows that the node listened.
pub async fn reach(config: &BrokerConfig, trusted: &Authority, signer: &Authority) -> Vec<Reached> {
    let looks = config.endpoints.iter().map(async |endpoint| Reached {
        endpoint: endpoint.clone(),
        certificate: shown(config, trusted, endpoint).await,
        listens: listens(config, trusted, signer, endpoint).await,
    });
    futures_util::future::join_all(looks).await
}

fn roots(trusted: &Authority) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for trusted in trusted.trusted_der() {
        roots.add(trusted.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

async fn shown(
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
        Err(_) => return Err("no answer in time".to_owned()),
    };
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    chain.first().map(|leaf| leaf.clone().into_owned()).ok_or_else(|| "it shows no certificate".to_owned())
}

async fn listens(
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
