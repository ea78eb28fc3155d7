//! The secrets of the broker's side change under load: its authority, its certificate, the provisioner's account.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
};

use warrengate::{
    broker::diagnose::reachability::{NodeReachability, check_reachability},
    pb,
    pki::{Authority, Sans, inspect_der},
};

use super::load::under_load;
use crate::harness::{
    Tenant,
    broker::Management,
    command::{ok, warrengate},
    dedicated::DedicatedStack,
    wait::until,
};

/// Makes the broker reload its certificates, which it does by itself within two minutes.
async fn broker_reads_its_files(dedicated: &DedicatedStack) {
    dedicated.stack.node().control(&["eval", "ssl:clear_pem_cache()."]).await.unwrap();
}

/// The broker, as seen by a client that trusts one authority and presents a certificate of another.
async fn seen(dedicated: &DedicatedStack, trusted: &Authority, signer: &Authority) -> NodeReachability {
    check_reachability(&dedicated.stack.config().broker, trusted, signer).await.remove(0)
}

/// By which authorities the certificates of a tenant's connections are signed.
async fn issuers(dedicated: &DedicatedStack, tenant: &Tenant) -> Vec<String> {
    let connections = Management::of(dedicated.stack.config()).connections(&tenant.id).await;
    connections.iter().map(|it| it["peer_cert_issuer"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn metric(dedicated: &DedicatedStack, sample: &str) -> Option<f64> {
    let url = format!("http://{}/metrics", dedicated.stack.gateway().ops_address());
    let page = reqwest::get(url).await.unwrap().text().await.unwrap();
    page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
}

/// The command, with the gateway's own settings.
fn command(dedicated: &DedicatedStack) -> tokio::process::Command {
    let mut command = warrengate("nobody", &"unused".into());
    command
        .envs(dedicated.stack.settings().iter().cloned())
        .env("WARRENGATE_CERTS_DIR", dedicated.stack.certs().path());
    command
}

/// Creates and deletes tenants and lists queues while something is done: the provisioner is always accepted. Several
/// requests are sent at the same time, because the first of them to be refused reads the changed files for all.
async fn administer<T>(dedicated: &DedicatedStack, tenant: &Tenant, work: impl Future<Output = T>) -> T {
    let admin = dedicated.admin().await;
    let count = AtomicU64::new(0);
    let repeat = async || -> Infallible {
        loop {
            let id = format!("x{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
            let whole = Some(pb::Tenant { id: id.clone(), ..pb::Tenant::default() });
            let request = pb::CreateTenantRequest { tenant: whole, ..pb::CreateTenantRequest::default() };
            admin.admin().create_tenant(request).await.unwrap();
            tenant.depth("load").await;
            admin.admin().delete_tenant(pb::DeleteTenantRequest { tenant: id }).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let done = async {
        let done = work.await;
        until("one tenant is created and deleted", async || (count.load(Ordering::Relaxed) > 0).then_some(())).await;
        done
    };
    let done = tokio::select! {
        done = done => done,
        _ = futures_util::future::join_all((0..6).map(|_| repeat())) => unreachable!("it does not end"),
    };
    eprintln!("{} tenants created and deleted meanwhile, each at the first attempt", count.into_inner());
    done
}

#[tokio::test]
async fn the_brokers_authority_is_replaced_while_both_are_trusted() {
    let dedicated = DedicatedStack::start("rotate-authority", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("load").await;
    let certs = dedicated.stack.certs();
    let beside = r#"warrengate_certificate_expiry_timestamp_seconds{certificate="broker_ca_beside"}"#;
    let old = certs.broker_authority().unwrap();
    under_load(
        &tenant.client,
        "load",
        administer(&dedicated, &tenant, async {
            // Both are trusted.
            ok(command(&dedicated), &["certs", "rotate-ca", "prepare"]).await;
            broker_reads_its_files(&dedicated).await;
            let next = |end: &str| certs.path().join(format!("broker-ca-next.{end}"));
            let new = Authority::load(&next("pem"), &next("key")).unwrap();
            until("the gateway trusts both", async || metric(&dedicated, beside).await).await;
            let both = certs.broker_authority().unwrap();
            seen(&dedicated, &both, &old).await.accepts_clients.unwrap();
            seen(&dedicated, &both, &new).await.accepts_clients.unwrap();
            assert!(issuers(&dedicated, &tenant).await.iter().all(|issuer| issuer.contains("Warrengate broker CA")));

            // The new one signs.
            ok(command(&dedicated), &["certs", "rotate-ca", "switch"]).await;
            broker_reads_its_files(&dedicated).await;
            until("the broker shows a certificate of the new one", async || {
                let shown = inspect_der(&seen(&dedicated, &both, &new).await.certificate.unwrap()).unwrap();
                shown.signed_by(new.inspection()).then_some(())
            })
            .await;
            let name = new.inspection().common_name().unwrap().to_owned();
            until("the tenant's connections are of the new one", async || {
                let issuers = issuers(&dedicated, &tenant).await;
                (!issuers.is_empty() && issuers.iter().all(|issuer| issuer.contains(&name))).then_some(())
            })
            .await;

            // It alone is trusted.
            ok(command(&dedicated), &["certs", "rotate-ca", "finish"]).await;
            broker_reads_its_files(&dedicated).await;
            until("the gateway trusts the new one alone", async || {
                metric(&dedicated, beside).await.is_none().then_some(())
            })
            .await;
            let (after_new, after_old) = (seen(&dedicated, &new, &new).await, seen(&dedicated, &new, &old).await);
            after_new.accepts_clients.unwrap();
            after_old.accepts_clients.expect_err("the old one is not believed any more");
            let another = dedicated.tenant().await;
            another.queue("load").await;
            another.publish_to("load", "by the new one").await;
        }),
    )
    .await;
    let report = ok(command(&dedicated), &["doctor"]).await;
    assert!(!report.contains("FAILED") && !report.contains("rotate-ca"), "nothing is due: {report}");
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test]
async fn the_brokers_certificate_and_the_provisioners_account_are_replaced() {
    let dedicated = DedicatedStack::start("rotate-account", &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("load").await;
    let (certs, authority) = (dedicated.stack.certs(), dedicated.stack.certs().broker_authority().unwrap());
    let password = || std::fs::read_to_string(certs.path().join("provisioner.password")).unwrap();
    let shown = async || seen(&dedicated, &authority, &authority).await.certificate.unwrap();
    let old = (shown().await, password());
    let managed_by = |password: &str| {
        let config = dedicated.stack.config();
        let mut identity = std::fs::read(&config.management.key).unwrap();
        identity.extend(std::fs::read(&config.management.certificate).unwrap());
        Management::with_at(config, identity, password)
    };
    under_load(
        &tenant.client,
        "load",
        administer(&dedicated, &tenant, async {
            certs.renew(&Sans::default()).unwrap();
            broker_reads_its_files(&dedicated).await;
            until("the broker shows its new certificate", async || (shown().await != old.0).then_some(())).await;

            // For gateways with copies of the files: first both lines are in the file, and the old password is valid.
            ok(command(&dedicated), &["certs", "rotate-password", "--prepare"]).await;
            let offered = password();
            assert!(offered.lines().count() == 2 && offered.ends_with(&old.1), "both");
            ok(command(&dedicated), &["certs", "rotate-password"]).await;
            let new = password();
            assert_eq!((new.lines().count(), offered.starts_with(&new)), (1, true));
            let whoami = async |password: &str| {
                managed_by(password.trim()).ask(reqwest::Method::GET, "whoami", None).await.unwrap().0.as_u16()
            };
            assert_eq!((whoami(&new).await, whoami(&old.1).await), (200, 401));
            // Once more, without waiting.
            ok(command(&dedicated), &["certs", "rotate-password"]).await;
            assert_eq!((whoami(&password()).await, whoami(&new).await), (200, 401));
        }),
    )
    .await;
    // A restart of the broker restores nothing from before.
    dedicated.stack.node().restart().await.unwrap();
    let report = ok(command(&dedicated), &["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let checks = report["checks"].as_array().unwrap();
    for check in ["gateway certificate", "broker CA", "provisioner certificate", "broker's management API"] {
        let found = checks.iter().find(|found| found["check"] == check).unwrap_or_else(|| panic!("{check}: {report}"));
        assert!(found["ok"] == true && !found["next"].as_str().unwrap().is_empty(), "{found}");
    }
    assert!(checks.iter().filter(|check| check["ends"].is_string()).count() >= 4, "{report}");
    dedicated.stack.stop().await.unwrap();
}
