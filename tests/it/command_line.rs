//! The command line, as its user has it: the binary, arguments, standard input and output, exit codes.

use std::process::Stdio;

use secrecy::SecretString;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};
use warrengate::client::Nack;

use crate::harness::{
    Tenant, World,
    command::{json, ok, run, warrengate},
    wait::within,
};

fn of(tenant: &Tenant) -> impl Fn() -> Command {
    let (id, secret) = (tenant.client_id.clone(), tenant.secret.clone());
    move || warrengate(&id, &secret)
}

#[tokio::test]
async fn a_message_goes_in_and_out_by_command() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "orders"]).await;
    ok(app(), &["publish", "--queue", "orders", "the first order"]).await;
    assert_eq!(ok(app(), &["subscribe", "orders", "--count", "1"]).await.trim_end(), "the first order");
    let queue = json(app(), &["queue", "get", "orders"]).await;
    assert!(queue.to_string().contains("orders"), "{queue}");
}

#[tokio::test]
async fn lines_of_standard_input_become_messages() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "lines"]).await;
    let lines: String = (0..500).map(|n| format!("line {n}\n")).collect();
    let mut publish = app().args(["publish", "--queue", "lines", "--lines"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = publish.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
    drop(stdin);
    let published = within("publishing", publish.wait_with_output()).await.unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
    assert_eq!(ok(app(), &["subscribe", "lines", "--count", "500"]).await, lines);
}

#[tokio::test]
async fn topology_is_made_listed_and_deleted_by_command() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["exchange", "declare", "events", "--type", "topic"]).await;
    ok(app(), &["queue", "declare", "errors"]).await;
    ok(app(), &["binding", "create", "events", "errors", "--routing-key", "#.error"]).await;
    ok(app(), &["publish", "--exchange", "events", "--routing-key", "app.error", "boom"]).await;
    assert!(ok(app(), &["exchange", "list"]).await.contains("events"));
    assert!(ok(app(), &["binding", "list"]).await.contains("#.error"));
    assert!(ok(app(), &["queue", "list"]).await.contains("errors"));
    ok(app(), &["queue", "purge", "errors"]).await;
    ok(app(), &["binding", "delete", "events", "errors", "--routing-key", "#.error"]).await;
    let unroutable = run(app(), &["publish", "--exchange", "events", "--routing-key", "app.error", "boom"]).await;
    assert_eq!(unroutable.status.code(), Some(1));
    ok(app(), &["queue", "delete", "errors"]).await;
    ok(app(), &["exchange", "delete", "events"]).await;
}

#[tokio::test]
async fn an_administrator_manages_tenants_and_clients_by_command() {
    let world = World::get();
    let admin = || warrengate("admin", world.admin_secret());
    let id = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    json(admin(), &["tenant", "create", &id, "--display-name", "By command"]).await;
    assert!(ok(admin(), &["tenant", "list"]).await.contains(&id));
    let client = format!("{id}.app");
    let made = json(admin(), &["client", "create", &client, "--all"]).await;
    let secret: SecretString = made["client_secret"].as_str().unwrap_or_else(|| panic!("{made}")).into();
    let app = || warrengate(&client, &secret);
    assert!(ok(app(), &["token", "--whoami"]).await.contains(&client));
    ok(app(), &["queue", "declare", "q"]).await;
    let other = Tenant::fresh().await;
    let proof = json(admin(), &["tenant", "verify", &id, "--against", &other.id]).await;
    assert_eq!(proof["isolated"], Value::Bool(true), "{proof}");
    ok(admin(), &["tenant", "suspend", &id]).await;
    assert_eq!(run(app(), &["queue", "list"]).await.status.code(), Some(1));
    ok(admin(), &["tenant", "resume", &id]).await;
    ok(app(), &["queue", "list"]).await;
    ok(admin(), &["tenant", "delete", &id, "--yes"]).await;
    assert!(!ok(admin(), &["tenant", "list"]).await.contains(&id));
}

#[tokio::test]
async fn a_wrong_command_says_what_to_do_next() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    let missing = run(app(), &["subscribe", "nowhere", "--count", "1"]).await;
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("nowhere") && text.contains("declare"), "{text}");
    assert_eq!(run(app(), &["publish", "--nonsense"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn serve_names_all_faults_of_its_settings_at_once() {
    let mut serve = Command::new(env!("CARGO_BIN_EXE_warrengate"));
    serve.env("WARRENGATE_GRPC__LISTEN", "nonsense").env("WARRENGATE_AUTH__LEEWAY", "5m").stdin(Stdio::null());
    let output = run(serve, &["serve", "--check"]).await;
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    for key in ["grpc.listen", "auth.leeway", "broker.endpoints", "store.encryption_key"] {
        assert!(text.contains(key), "{key} is not named in:\n{text}");
    }
}

#[tokio::test]
async fn dead_letters_are_shown_sent_again_and_deleted_by_command() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    let retry = ["--min-backoff", "100ms", "--max-backoff", "1s", "--backoff-multiplier", "1", "--backoff-jitter", "0"];
    let declare = [&["queue", "declare", "brittle", "--max-delivery-attempts", "1"][..], &retry].concat();
    let queue = json(app(), &declare).await;
    assert_eq!(queue["retry_policy"]["min_backoff"], "100ms", "{queue}");
    for body in ["one", "two", "three"] {
        ok(app(), &["publish", "--queue", "brittle", body]).await;
    }
    let mut consumer = tenant.subscribe("brittle").await;
    for _ in 0..3 {
        let delivery = within("a delivery", consumer.next()).await.unwrap().expect("the stream goes on");
        consumer.nack(&delivery, Nack::retry().because("not today")).unwrap();
    }
    consumer.close().await.unwrap();
    tenant.has_dead_letters(3).await;
    assert!(ok(app(), &["dead-letter", "list"]).await.contains("not today"));
    let letters = json(app(), &["dead-letter", "list", "--queue", "brittle", "--code", "delivery_limit"]).await;
    assert_eq!((&letters[0]["body"], &letters[2]["body"]), (&"one".into(), &"three".into()), "{letters}");
    let id = letters[1]["dead_letter_id"].as_str().unwrap();
    assert!(ok(app(), &["dead-letter", "show", id]).await.ends_with("\n\ntwo\n"));
    assert_eq!(json(app(), &["dead-letter", "redrive", id]).await["redriven"], 1);
    assert_eq!(ok(app(), &["subscribe", "brittle", "--count", "1"]).await.trim_end(), "two");
    let reckless = run(app(), &["dead-letter", "purge"]).await;
    assert_eq!(reckless.status.code(), Some(2), "{reckless:?}");
    assert_eq!(json(app(), &["dead-letter", "purge", "--queue", "other"]).await["purged"], 0);
    assert_eq!(json(app(), &["dead-letter", "purge", "--all"]).await["purged"], 2);
    assert_eq!(run(app(), &["dead-letter", "show", id]).await.status.code(), Some(1));
}
