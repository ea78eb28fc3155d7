//! The gateway's connections and the tenants' accounts as the broker reports them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use warrengate::{
    client::Credentials,
    gateway::Gateway,
    pb::{self, Outcome},
};

use crate::harness::{
    SharedStack, Tenant,
    broker::Management,
    raw::{RawPublish, RawSubscribe},
    to_queue,
    wait::until,
};

#[tokio::test]
async fn every_connection_of_the_gateway_is_encrypted_and_uses_its_tenants_certificate() {
    let tenants = [Tenant::fresh().await, Tenant::fresh().await];
    let broker = Management::new();
    for tenant in &tenants {
        tenant.queue("jobs").await;
        let mut publisher = RawPublish::open(&tenant.client).await.unwrap();
        assert_eq!(publisher.publish(to_queue("jobs", "one")).await.unwrap().outcome(), Outcome::Confirmed);
        let _subscriber = RawSubscribe::started(&tenant.client, "jobs").await;
        let name = format!("wg.{}", tenant.id);
        let connections = until("the broker shows both connections", async || {
            let shown = broker.connections(&tenant.id).await;
            (shown.len() == 2 && shown.iter().all(|one| one["state"] == "running")).then_some(shown)
        })
        .await;
        for connection in connections {
            assert_eq!(connection["ssl"], true, "{connection}");
            let protocol = connection["ssl_protocol"].as_str().unwrap();
            assert!(["tlsv1.2", "tlsv1.3"].contains(&protocol), "{connection}");
            assert_eq!(connection["peer_cert_subject"], format!("CN={name}").as_str());
            assert_eq!(connection["vhost"], name.as_str());
            assert_eq!(connection["user"], name.as_str());
            assert_eq!(connection["auth_mechanism"], "EXTERNAL");
        }
    }
    // No other client uses this broker, so every connection belongs to the gateway.
    let all = broker.get("connections").await.unwrap();
    for connection in all.as_array().unwrap() {
        // A connection that is closing is shown without its details.
        if let (Some(ssl), Some(user)) = (connection["ssl"].as_bool(), connection["user"].as_str()) {
            assert!(ssl, "{connection}");
            assert_eq!(connection["peer_cert_subject"], format!("CN={user}").as_str(), "{connection}");
        }
    }
}

#[tokio::test]
async fn a_tenants_user_has_no_password_no_tags_and_access_to_its_own_vhost_only() {
    let tenant = Tenant::fresh().await;
    let name = format!("wg.{}", tenant.id);
    let broker = Management::new();

    let user = broker.get(&format!("users/{name}")).await.unwrap();
    assert!(user["password_hash"].as_str().is_none_or(str::is_empty), "{user}");
    assert!(matches!(&user["tags"], Value::Array(tags) if tags.is_empty()) || user["tags"] == "", "{user}");

    let permissions = broker.get(&format!("users/{name}/permissions")).await.unwrap();
    let permissions = permissions.as_array().unwrap();
    assert_eq!(permissions.len(), 1, "{permissions:?}");
    assert_eq!(permissions[0]["vhost"], name.as_str());
    assert_eq!(broker.get(&format!("users/{name}/topic-permissions")).await, Some(json!([])));

    // No other user has access to that vhost, including the provisioner.
    let permissions = broker.get(&format!("vhosts/{name}/permissions")).await.unwrap();
    assert_eq!(permissions.as_array().unwrap().len(), 1, "{permissions}");
}

#[tokio::test]
async fn the_only_administrator_is_the_provisioner_and_guest_does_not_exist() {
    let broker = Management::new();
    assert_eq!(broker.get("users/guest").await, None);
    let users = broker.get("users").await.unwrap();
    let others: Vec<_> = users
        .as_array()
        .unwrap()
        .iter()
        .filter(|user| !user["name"].as_str().unwrap().starts_with("wg."))
        .map(|user| user["name"].as_str().unwrap())
        .collect();
    assert_eq!(others, ["wg-provisioner"]);
    let (status, _) = Management::new().ask(Method::GET, "whoami", None).await.unwrap();
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn idle_connections_are_closed_and_opened_again_when_needed() {
    let tenant = Tenant::fresh().await;
    let shared = SharedStack::get();
    let mut config = shared.stack.config().clone();
    config.grpc.listen.set_port(0);
    config.ops.listen.set_port(0);
    config.broker.idle_timeout = std::time::Duration::from_secs(1);
    let second = Gateway::start(config).await.unwrap();
    let credentials = Credentials::Secret { client_id: tenant.client_id.clone(), secret: tenant.secret.clone() };
    let client = shared.client_at(&format!("https://{}", second.grpc_address()), credentials).await;

    let queue = Some(pb::Queue { name: "jobs".into(), ..pb::Queue::default() });
    client.topology().declare_queue(pb::DeclareQueueRequest { queue, validate_only: false }).await.unwrap();
    let broker = Management::new();
    // An open stream keeps its connection even when it is idle.
    let subscriber = RawSubscribe::started(&client, "jobs").await;
    let mut publisher = RawPublish::open(&client).await.unwrap();
    assert_eq!(publisher.publish(to_queue("jobs", "one")).await.unwrap().outcome(), Outcome::Confirmed);
    drop(publisher);
    until("the publishing connection is closed", async || {
        let shown = broker.connections(&tenant.id).await;
        let purposes: Vec<_> =
            shown.iter().filter_map(|one| one["user_provided_name"].as_str().map(str::to_owned)).collect();
        matches!(&purposes[..], [one] if one.ends_with("consume")).then_some(())
    })
    .await;
    drop(subscriber);
    until("every connection is closed", async || broker.connections(&tenant.id).await.is_empty().then_some(())).await;

    let result = client.publish_batch(vec![to_queue("jobs", "two")]).await.unwrap().remove(0);
    assert_eq!(result.outcome(), Outcome::Confirmed);
    second.shutdown().await;
}
