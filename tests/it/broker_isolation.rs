//! Tenant isolation at the broker itself: attempts that bypass the gateway, with a tenant's certificate or without one,
//! over AMQP and the management API.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use warrengate::{
    names::TenantId,
    pki::{Authority, Leaf},
};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, Management, Refusal, amqp, assert_refused, broker_ca, certificate_of, pem_of, tls},
    wait::within,
};

#[tokio::test]
async fn a_tenants_certificate_gives_access_to_its_own_vhost_only() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    theirs.queue("secrets").await;
    theirs.publish_to("secrets", "not yours").await;
    let certificate = certificate_of(&ours.id);

    // The positive control: the same certificate is accepted for its own vhost.
    let own = amqp(tls(Some(&certificate)), &format!("wg.{}", ours.id), Login::External).await.unwrap();
    assert!(own.status().connected());

    let vhosts = [format!("wg.{}", theirs.id), "/".to_owned(), String::new(), "wg.no-such-tenant".to_owned()];
    for vhost in vhosts {
        assert_refused(tls(Some(&certificate)), &vhost, Login::External, Refusal::Vhost).await;
    }
    assert_eq!(theirs.take("secrets", 1).await, ["not yours"]);
}

#[tokio::test]
async fn a_certificate_cannot_claim_to_be_another_tenant() {
    let (ours, theirs) = (Tenant::fresh().await, Tenant::fresh().await);
    let certificate = certificate_of(&ours.id);
    let claim = Login::ExternalAs(format!("wg.{}", theirs.id));
    // The broker derives the user from the certificate, and that user has no access to the vhost.
    assert_refused(tls(Some(&certificate)), &format!("wg.{}", theirs.id), claim, Refusal::Vhost).await;
}

#[tokio::test]
async fn the_broker_refuses_a_connection_without_a_certificate() {
    let tenant = Tenant::fresh().await;
    assert_refused(tls(None), &format!("wg.{}", tenant.id), Login::External, Refusal::Tls).await;
}

#[tokio::test]
async fn the_broker_refuses_a_certificate_that_another_authority_signed() {
    let tenant = Tenant::fresh().await;
    let name = format!("wg.{}", tenant.id);
    let roots = || {
        let mut roots = RootCertStore::empty();
        roots.add(broker_ca().certificate_der()).unwrap();
        ClientConfig::builder().with_root_certificates(roots)
    };

    // Signed by an authority with the same name as the broker's but another key.
    let subject = broker_ca().inspection().common_name().unwrap().to_owned();
    let foreign: Leaf = Authority::generate(&subject, 30).unwrap().client(&name, Duration::from_secs(3600)).unwrap();
    let config = Arc::new(roots().with_client_auth_cert(foreign.chain_der(), foreign.key_der()).unwrap());
    assert_refused(config, &name, Login::External, Refusal::Tls).await;

    // Self-signed.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
    let own = parameters.self_signed(&key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = Arc::new(roots().with_client_auth_cert(vec![own.der().clone()], key).unwrap());
    assert_refused(config, &name, Login::External, Refusal::Tls).await;
}

#[tokio::test]
async fn amqp_accepts_no_password_not_even_the_provisioners() {
    let tenant = Tenant::fresh().await;
    let name = format!("wg.{}", tenant.id);
    let own = certificate_of(&tenant.id);
    amqp(tls(Some(&own)), &name, Login::External).await.expect("the certificate alone opens AMQP");
    for password in ["", "guest", &name, tenant.secret.expose_secret()] {
        let login = Login::Plain(name.clone(), password.into());
        assert_refused(tls(Some(&own)), &name, login, Refusal::Login).await;
    }
    let guest = Login::Plain("guest".into(), "guest".into());
    assert_refused(tls(Some(&own)), &name, guest, Refusal::Login).await;

    let management = &SharedStack::get().stack.config().management;
    let provisioner = Leaf::load(&management.certificate, &management.key).unwrap();
    let login = Login::Plain(management.user.clone(), management.password.expose_secret().into());
    assert_refused(tls(Some(&provisioner)), &name, login, Refusal::Login).await;
    // The provisioner is an administrator without permissions in any vhost.
    assert_refused(tls(Some(&provisioner)), &name, Login::External, Refusal::Vhost).await;
}

#[tokio::test]
async fn the_amqp_port_does_not_answer_amqp_without_tls() {
    let port = SharedStack::get().stack.node().amqps_port();
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    let mut answer = Vec::new();
    // A reset is a refusal, too.
    let _ = within("the broker closes the connection", plain.read_to_end(&mut answer)).await;
    // Nothing, or a TLS alert (content type 21), but never a method frame (1) or a protocol header.
    assert!(answer.first().is_none_or(|first| *first == 21), "{answer:?}");
    assert!(!answer.windows(4).any(|four| four == b"AMQP"), "{answer:?}");
}

#[tokio::test]
async fn a_tenants_certificate_does_not_reach_the_management_api() {
    let tenant = Tenant::fresh().await;
    let name = format!("wg.{}", tenant.id);
    let own = pem_of(&certificate_of(&tenant.id));
    let password = SharedStack::get().stack.config().management.password.expose_secret();
    let logins = [("", ""), (&name, ""), (&name, &name), ("guest", "guest"), (&name, password)];
    for (user, password) in logins {
        let management = Management::with(Some(own.clone()), user, password);
        for path in ["whoami", "overview", "vhosts", "queues", "definitions"] {
            let (status, body) = management.ask(Method::GET, path, None).await.unwrap();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{user} {path}: {body}");
        }
    }
    // Without a certificate the correct password does not help, because the TLS handshake fails.
    let user = &SharedStack::get().stack.config().management.user;
    let error =
        Management::with(None, user, password).ask(Method::GET, "whoami", None).await.expect_err("no certificate");
    let causes: Vec<_> = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .map(ToString::to_string)
        .collect();
    assert!(causes.iter().any(|cause| cause.contains("alert")), "{causes:?}");
    let (status, _) = Management::with(Some(own), user, "wrong").ask(Method::GET, "whoami", None).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_certificate_of_a_deleted_tenant_is_refused() {
    let tenant = Tenant::fresh().await;
    let certificate = certificate_of(&tenant.id);
    let vhost = TenantId::parse(&tenant.id).unwrap().vhost();
    let open = amqp(tls(Some(&certificate)), &vhost, Login::External).await.unwrap();
    let admin = SharedStack::get().admin().await;
    admin.admin().delete_tenant(warrengate::pb::DeleteTenantRequest { tenant: tenant.id.clone() }).await.unwrap();
    // The broker has deleted both the user and the vhost.
    assert_refused(tls(Some(&certificate)), &vhost, Login::External, Refusal::Login).await;
    crate::harness::wait::until("the open connection is closed", async || (!open.status().connected()).then_some(()))
        .await;
}
