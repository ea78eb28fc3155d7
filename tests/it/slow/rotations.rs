//! Rotation of every secret while messages flow: no message is lost and no stream ends. Rotations at the broker use a
//! separate broker (`broker_side`).

mod broker_side;
pub mod load;

use std::{collections::HashSet, sync::Arc, time::Duration};

use reqwest::Method;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use secrecy::SecretString;
use tokio_rustls::TlsConnector;
use warrengate::{client::Credentials, pb};

use crate::harness::{
    SharedStack, Tenant,
    broker::Management,
    wait::{until, within},
    web,
};
use load::under_load;

#[tokio::test]
async fn a_client_secret_is_rotated_with_an_overlap() {
    let tenant = Tenant::fresh().await;
    tenant.queue("load").await;
    let admin = SharedStack::get().admin().await;
    let rotate = async |seconds| {
        let overlap = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = pb::RotateClientSecretRequest { client_id: tenant.client_id.clone(), overlap };
        let answer = admin.admin().rotate_client_secret(request).await.unwrap().into_inner();
        assert!(answer.previous_expires.is_some());
        SecretString::from(answer.client_secret)
    };
    let status = async |secret: &SecretString| web::token(&tenant.client_id, secret).await.0.as_u16();
    under_load(&tenant.client, "load", async {
        let newer = rotate(3600).await;
        assert_eq!((status(&tenant.secret).await, status(&newer).await), (200, 200));
        assert_eq!(status(&"wgs_wrong".into()).await, 401);
        // Two secrets are valid, never three, and the older one only during the overlap.
        let newest = rotate(2).await;
        assert_eq!((status(&tenant.secret).await, status(&newest).await), (401, 200));
        until("the overlap is over", async || (status(&newer).await == 401).then_some(())).await;
        assert_eq!(status(&newest).await, 200);
    })
    .await;
    for (seconds, nanos) in [(-1, 0), (31 * 24 * 3600, 0)] {
        let overlap = Some(prost_types::Duration { seconds, nanos });
        let request = pb::RotateClientSecretRequest { client_id: tenant.client_id.clone(), overlap };
        let refused = admin.admin().rotate_client_secret(request).await.expect_err("no overlap");
        assert_eq!(crate::harness::raw::field(&refused), "overlap");
    }
}

#[tokio::test]
async fn the_signing_key_is_rotated_and_tokens_of_both_keys_are_valid() {
    let tenant = Tenant::fresh().await;
    tenant.queue("load").await;
    let shared = SharedStack::get();
    let admin = shared.admin().await;
    let old = web::access_token(&tenant.client_id, &tenant.secret).await;
    under_load(&tenant.client, "load", async {
        let rotated = admin.admin().rotate_signing_key(pb::RotateSigningKeyRequest {}).await.unwrap().into_inner();
        let key_id = async || {
            let token = web::access_token(&tenant.client_id, &tenant.secret).await;
            jsonwebtoken::decode_header(&token).unwrap().kid.unwrap()
        };
        // All gateways know the key before any of them signs with it.
        until("the new key is published", async || {
            let jwks = web::ops_json("/.well-known/jwks.json").await;
            jwks["keys"].as_array().unwrap().iter().any(|key| key["kid"] == rotated.key_id.as_str()).then_some(())
        })
        .await;
        until("the new key signs", async || {
            let kid = key_id().await;
            // A rotation by another test may have followed.
            (kid != jsonwebtoken::decode_header(&old).unwrap().kid.unwrap()).then_some(())
        })
        .await;
        let with_old = shared.client_at(&shared.stack.endpoint(), Credentials::Token(old.clone().into())).await;
        with_old.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    })
    .await;
    let refused = tenant.client.admin().rotate_signing_key(pb::RotateSigningKeyRequest {}).await;
    assert_eq!(refused.expect_err("a tenant's client").code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn a_rotated_broker_certificate_is_used_by_new_connections_before_old_ones_close() {
    let tenant = Tenant::fresh().await;
    let shared = SharedStack::get();
    let at_first = async |id: &str, secret: &SecretString| {
        let credentials = Credentials::Secret { client_id: id.into(), secret: secret.clone() };
        shared.client_at(&shared.stack.endpoint(), credentials).await
    };
    let (admin, client) =
        (at_first("admin", shared.admin_secret()).await, at_first(&tenant.client_id, &tenant.secret).await);
    tenant.queue("load").await;
    let management = Management::new();
    let connections = async || {
        let (_, list) =
            management.ask(Method::GET, &format!("vhosts/wg.{}/connections", tenant.id), None).await.unwrap();
        let names = list.as_array().cloned().unwrap_or_default();
        names.iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect::<HashSet<_>>()
    };
    under_load(&client, "load", async {
        let before = until("the connections", async || Some(connections().await).filter(|all| all.len() >= 2)).await;
        let request = pb::RotateBrokerCredentialsRequest { tenant: tenant.id.clone() };
        let answer = admin.admin().rotate_broker_credentials(request).await.unwrap().into_inner();
        assert!(answer.expires.is_some());
        until("new connections in place of the old ones", async || {
            let now = connections().await;
            let (old, new) = (now.intersection(&before).count(), now.difference(&before).count());
            (new >= 2 && (old == 0 || before.len() > 2 && old < before.len() - 1)).then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn the_gateway_certificate_is_reloaded_when_its_files_change() {
    let shared = SharedStack::get();
    let tenant = Tenant::fresh().await;
    tenant.queue("load").await;
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("gateway.pem"), folder.path().join("gateway.key"));
    let authority = shared.stack.certs().gateway_authority().unwrap();
    let make = || authority.server("gateway", &["127.0.0.1".to_owned()], Duration::from_secs(3600)).unwrap();
    make().save(&certificate, &key).unwrap();
    let gateway = web::gateway(|config| {
        config.grpc.certificate = certificate.clone();
        config.grpc.key = key.clone();
    })
    .await;
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let client = shared.client_at(&gateway.endpoint(), credentials).await;
    let address = gateway.running.grpc_address();
    under_load(&client, "load", async {
        let before = presented(address).await;
        // A certificate with another key changes nothing.
        std::fs::write(&certificate, make().certificate_pem()).unwrap();
        let next = make();
        next.save(&certificate, &key).unwrap();
        let now = until("the new certificate", async || {
            let now = presented(address).await;
            (now != before).then_some(now)
        })
        .await;
        assert_eq!(now, next.chain_der()[0]);
    })
    .await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn the_certificate_of_the_ops_listener_is_reloaded_when_its_files_change() {
    let shared = SharedStack::get();
    let tenant = Tenant::fresh().await;
    tenant.queue("load").await;
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("ops.pem"), folder.path().join("ops.key"));
    let authority = shared.stack.certs().gateway_authority().unwrap();
    let make = || authority.server("ops", &["127.0.0.1".to_owned()], Duration::from_secs(3600)).unwrap();
    make().save(&certificate, &key).unwrap();
    let gateway = web::gateway(|config| {
        config.ops.certificate = Some(certificate.clone());
        config.ops.key = Some(key.clone());
    })
    .await;
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let client = shared.client_at(&gateway.endpoint(), credentials).await;
    let address = gateway.running.ops_address();
    let is_alive = async || {
        let answer = web::http().get(format!("https://{address}/livez")).send().await.unwrap();
        assert!(answer.status().is_success());
    };
    under_load(&client, "load", async {
        let before = presented(address).await;
        is_alive().await;
        let next = make();
        next.save(&certificate, &key).unwrap();
        let now = until("the new certificate", async || {
            let now = presented(address).await;
            (now != before).then_some(now)
        })
        .await;
        assert_eq!(now, next.chain_der()[0]);
        is_alive().await;
    })
    .await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_broker_certificate_is_renewed_before_it_expires() {
    let tenant = Tenant::fresh().await;
    tenant.queue("load").await;
    // Renewed after two thirds of its lifetime, at the next check of the connections, which is every second here.
    let gateway = web::gateway(|config| {
        config.broker.certificate_lifetime = Duration::from_secs(12);
        config.broker.idle_timeout = Duration::from_secs(4);
    })
    .await;
    let client = tenant.client_at(&gateway.endpoint()).await;
    let management = Management::new();
    let validity = async || {
        let all = management.connections(&tenant.id).await;
        all.iter().filter_map(|it| it["peer_cert_validity"].as_str().map(str::to_owned)).collect::<HashSet<_>>()
    };
    under_load(&client, "load", async {
        let mut seen = until("the connections", async || Some(validity().await).filter(|all| !all.is_empty())).await;
        // The declaring connection by the shared gateway may be among them, and does not change.
        let enough = seen.len() + 2;
        until("certificates of two more times", async || {
            seen.extend(validity().await);
            (seen.len() >= enough).then_some(())
        })
        .await;
    })
    .await;
    gateway.running.shutdown().await;
}

/// The certificate presented in a handshake.
async fn presented(address: std::net::SocketAddr) -> CertificateDer<'static> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(SharedStack::get().ca().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    let tls = within("a handshake", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
