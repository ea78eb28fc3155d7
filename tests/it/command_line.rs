//! The command line: the binary, its arguments, standard input and output, and exit codes.

use std::process::Stdio;

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};
use warrengate::client::Nack;

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, amqp, certificate_of, tls},
    command::{json, lines, ok, run, warrengate},
    wait::{until, within},
};

fn of(tenant: &Tenant) -> impl Fn() -> Command {
    let (id, secret) = (tenant.client_id.clone(), tenant.secret.clone());
    move || warrengate(&id, &secret)
}

#[tokio::test]
async fn a_message_is_published_and_consumed_by_command() {
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
async fn topology_is_created_listed_and_deleted_by_command() {
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
    let shared = SharedStack::get();
    let admin = || warrengate("admin", shared.admin_secret());
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
    let text = ok(admin(), &["tenant", "verify", &id, "--against", &other.id]).await;
    assert_eq!(text.lines().last(), Some("isolated: yes"), "{text}");
    ok(admin(), &["tenant", "suspend", &id]).await;
    assert_eq!(run(app(), &["queue", "list"]).await.status.code(), Some(1));
    ok(admin(), &["tenant", "resume", &id]).await;
    ok(app(), &["queue", "list"]).await;
    ok(admin(), &["tenant", "delete", &id, "--yes"]).await;
    assert!(!ok(admin(), &["tenant", "list"]).await.contains(&id));
}

#[tokio::test]
async fn an_invalid_command_explains_what_to_do() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    let missing = run(app(), &["subscribe", "nowhere", "--count", "1"]).await;
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("nowhere") && text.contains("declare"), "{text}");
    assert_eq!(run(app(), &["publish", "--nonsense"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn serve_reports_all_configuration_errors_at_once() {
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
        let delivery = within("a delivery", consumer.next()).await.unwrap().expect("the stream continues");
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

async fn publish_numbers(app: &impl Fn() -> Command, queue: &str, count: usize) {
    let numbers: String = (1..=count).map(|n| format!("{n}\n")).collect();
    let mut publish = app().args(["publish", "--queue", queue, "--lines"]).stdin(Stdio::piped()).spawn().unwrap();
    publish.stdin.take().unwrap().write_all(numbers.as_bytes()).await.unwrap();
    let published = within("publishing", publish.wait_with_output()).await.unwrap();
    assert!(published.status.success(), "{}", String::from_utf8_lossy(&published.stderr));
}

async fn ready(app: &impl Fn() -> Command, queue: &str) -> u64 {
    json(app(), &["queue", "get", queue]).await["status"]["messages_ready"].as_u64().unwrap()
}

#[tokio::test]
async fn sigterm_and_no_ack_return_messages_without_counting_an_attempt() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "poor", "--max-delivery-attempts", "2"]).await;
    publish_numbers(&app, "poor", 5).await;
    for _ in 0..4 {
        let mut subscribe = app().args(["subscribe", "poor", "--no-ack", "--prefetch", "10"]).spawn().unwrap();
        let mut printed = lines(&mut subscribe);
        within("a message", printed.next_line()).await.unwrap().expect("a line");
        let id = subscribe.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let status = within("the end of subscribe", subscribe.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
    assert_eq!(json(app(), &["dead-letter", "list"]).await, Value::Array(Vec::new()));
    let attempts = ok(app(), &["subscribe", "poor", "--count", "5", "--json"]).await;
    let attempts: Vec<Value> = attempts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(attempts.iter().all(|message| message["attempt"] == 1), "{attempts:?}");
}

#[tokio::test]
async fn no_ack_ends_when_its_window_is_full() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "full"]).await;
    publish_numbers(&app, "full", 5).await;
    assert_eq!(ok(app(), &["subscribe", "full", "--no-ack", "--prefetch", "3"]).await, "1\n2\n3\n");
    until("the messages are returned", async || (ready(&app, "full").await == 5).then_some(())).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_pipe_leaves_unread_messages_in_the_queue() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "clicks"]).await;
    publish_numbers(&app, "clicks", 500).await;
    let shell = app().into_std();
    let program = shell.get_program().to_owned();
    let mut head = Command::new("sh");
    head.args(["-c", "\"$0\" subscribe clicks | head -n 2"]).arg(program).stdin(Stdio::null());
    head.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("WARRENGATE_TOKEN");
    head.current_dir(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::piped());
    let output = within("head", head.output()).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n2\n");
    until("all but two messages are in the queue", async || (ready(&app, "clicks").await == 498).then_some(())).await;
}

#[tokio::test]
async fn messages_are_retried_dead_lettered_and_dropped_by_command() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "parcels", "--min-backoff", "100ms"]).await;
    ok(app(), &["publish", "--queue", "parcels", "one parcel", "--reply-to", "replies", "--header", "level:int=3"])
        .await;
    let retried = ok(app(), &["subscribe", "parcels", "--count", "1", "--nack", "retry", "--reason", "later"]).await;
    assert_eq!(retried, "one parcel\n");
    let args = ["subscribe", "parcels", "--count", "1", "--verbose", "--nack", "dead-letter", "--reason", "broken"];
    let shown = ok(app(), &args).await;
    for line in ["attempt 2", "reply to replies", "header level=3", "one parcel"] {
        let words = |found: &str| found.split_whitespace().collect::<Vec<_>>().join(" ") == line;
        assert!(shown.lines().any(words), "{line:?} is not in\n{shown}");
    }
    let letters = json(app(), &["dead-letter", "list", "--since", "1h"]).await;
    assert_eq!((&letters[0]["reason"], &letters[0]["code"]), (&"broken".into(), &"rejected".into()), "{letters}");
    ok(app(), &["dead-letter", "redrive", "--all"]).await;
    ok(app(), &["subscribe", "parcels", "--count", "1", "--nack", "drop"]).await;
    assert_eq!(json(app(), &["dead-letter", "list"]).await, Value::Array(Vec::new()));
    assert_eq!(ready(&app, "parcels").await, 0);
}

#[tokio::test]
async fn peeking_a_queue_removes_nothing() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "letters"]).await;
    publish_numbers(&app, "letters", 3).await;
    for _ in 0..2 {
        assert_eq!(ok(app(), &["queue", "peek", "letters", "--count", "10"]).await, "1\n2\n3\n");
        until("the messages are returned", async || (ready(&app, "letters").await == 3).then_some(())).await;
    }
    ok(app(), &["queue", "declare", "log", "--type", "stream"]).await;
    publish_numbers(&app, "log", 3).await;
    assert_eq!(ok(app(), &["subscribe", "log", "--from", "1h", "--count", "3"]).await, "1\n2\n3\n");
}

#[tokio::test]
async fn an_oversized_body_is_rejected_and_the_others_are_confirmed() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "blobs"]).await;
    let publish = async |input: Vec<u8>, args: &[&str]| {
        let mut publish = app();
        publish.args(["publish", "--queue", "blobs", "--json"]).args(args).stdin(Stdio::piped());
        let mut publish = publish.spawn().unwrap();
        publish.stdin.take().unwrap().write_all(&input).await.unwrap();
        let output = within("publishing", publish.wait_with_output()).await.unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let large = vec![b'x'; 12 << 20];
    let one = publish(large.clone(), &["--file", "-"]).await;
    assert_eq!(one["outcome"], "rejected", "{one}");
    assert!(one["reason"].as_str().unwrap().starts_with("MESSAGE_TOO_LARGE"), "{one}");
    let lines = [b"first\n".to_vec(), large, b"\nlast\n".to_vec()].concat();
    let several = publish(lines, &["--lines"]).await;
    assert_eq!(several["outcomes"], serde_json::json!({ "confirmed": 2, "rejected": 1 }), "{several}");
    // The large one ends the stream, so the first one is sent again, with the same id, if it had no outcome until then.
    let mut received = Vec::<String>::new();
    while received.last().is_none_or(|line| line == "first\n") {
        received.push(ok(app(), &["subscribe", "blobs", "--count", "1"]).await);
    }
    received.dedup();
    assert_eq!(received, ["first\n", "last\n"]);
}

#[tokio::test]
async fn timestamps_out_of_range_are_shown() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "far"]).await;
    // Published directly to the broker, because the gateway refuses such a time: 1,700,000,000,000 s.
    let certificate = certificate_of(&tenant.id);
    let broker = amqp(tls(Some(&certificate)), &format!("wg.{}", tenant.id), Login::External).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let properties = BasicProperties::default().with_timestamp(1_700_000_000_000);
    let sent = channel.basic_publish("".into(), "far".into(), BasicPublishOptions::default(), b"far", properties).await;
    within("the confirm", sent.unwrap()).await.unwrap();
    let shown = json(app(), &["subscribe", "far", "--count", "1", "--nack", "dead-letter"]).await;
    assert_eq!(shown["publish_time"].as_str(), Some("9999-12-31T23:59:59Z"), "{shown}");
    let letters = json(app(), &["dead-letter", "list"]).await;
    let id = letters[0]["dead_letter_id"].as_str().unwrap();
    ok(app(), &["dead-letter", "show", id]).await;
}

#[tokio::test]
async fn errors_are_json_on_request_and_name_the_source_of_the_credentials() {
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    let error = async |args: &[&str]| {
        let output = run(app(), args).await;
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = error(&["subscribe", "nowhere", "--count", "1", "--json"]).await;
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|wrong| panic!("{wrong}: {text}"));
    assert_eq!((code, &json["error"]["reason"]), (Some(1), &"QUEUE_NOT_FOUND".into()), "{json}");
    let (code, text) = error(&["subscribe", "--json"]).await;
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|wrong| panic!("{wrong}: {text}"));
    assert_eq!((code, &json["error"]["exit_code"]), (Some(2), &2.into()), "{json}");

    let (_, denied) = error(&["tenant", "list"]).await;
    assert!(denied.contains("WARRENGATE_CLIENT_ID") && denied.contains(&tenant.client_id), "{denied}");
    let (_, missing) = error(&["queue", "delete", "nope"]).await;
    assert!(missing.contains("queue \"nope\" does not exist") && !missing.contains("declare"), "{missing}");
    let (_, missing) = error(&["queue", "delete", "nope", "--json"]).await;
    let json: Value = serde_json::from_str(&missing).unwrap_or_else(|wrong| panic!("{wrong}: {missing}"));
    assert_eq!(json["error"]["reason"], "QUEUE_NOT_FOUND", "{json}");
    let plain = SharedStack::get().stack.endpoint().replace("https://", "http://");
    let (_, no_tls) = error(&["queue", "list", "--endpoint", &plain]).await;
    assert!(no_tls.contains("write https://"), "{no_tls}");
    let (_, typo) = error(&["publish", "--queue", "ordrs", "x"]).await;
    assert!(typo.contains("queue \"ordrs\" does not exist"), "{typo}");
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let (code, no_pem) = error(&["queue", "list", "--ca", readme]).await;
    assert!(code == Some(2) && no_pem.contains("no certificate in PEM form"), "{no_pem}");
}

#[tokio::test]
async fn a_token_is_kept_for_later_commands_until_it_is_refused() {
    let tenant = Tenant::fresh().await;
    let cache = tempfile::tempdir().unwrap();
    let cached = |mut command: Command| {
        command.env_remove("WARRENGATE_NO_TOKEN_CACHE").env("XDG_CACHE_HOME", cache.path());
        command
    };
    let tokens = || -> Vec<String> {
        let entries = std::fs::read_dir(cache.path().join("warrengate/tokens")).into_iter().flatten();
        entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    };
    let admin = warrengate("admin", SharedStack::get().admin_secret());
    ok(cached(admin), &["tenant", "get", &tenant.id]).await;
    ok(cached(of(&tenant)()), &["queue", "list", "--no-token-cache"]).await;
    assert!(tokens().is_empty(), "an administrator's token, or one that was not wanted, is kept");
    ok(cached(of(&tenant)()), &["queue", "list"]).await;
    let first = tokens();
    assert_eq!(first.len(), 1);
    // A new token would differ.
    ok(cached(of(&tenant)()), &["queue", "list"]).await;
    assert_eq!(tokens(), first);
    let rotate = warrengate("admin", SharedStack::get().admin_secret());
    ok(rotate, &["client", "rotate-secret", &tenant.client_id]).await;
    let refused = run(cached(of(&tenant)()), &["queue", "list"]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("INVALID_CLIENT_CREDENTIALS"), "{refused:?}");
    assert!(tokens().is_empty(), "a refused token is kept");
}

#[tokio::test]
async fn completions_and_man_pages_are_written() {
    let command = || Command::new(env!("CARGO_BIN_EXE_warrengate"));
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(command(), &["completions", shell]).await;
        assert!(script.contains("dead-letter") && script.contains("max-delivery-attempts"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    ok(command(), &["man", "--dir", dir]).await;
    let page = std::fs::read_to_string(folder.path().join("warrengate-queue-declare.1")).unwrap();
    assert!(page.contains("max\\-delivery\\-attempts"), "{page}");
}

#[tokio::test]
async fn a_plan_is_created_like_another() {
    let shared = SharedStack::get();
    let admin = || warrengate("admin", shared.admin_secret());
    let name = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
    let standard = json(admin(), &["plan", "get", "standard"]).await;
    let plan = json(admin(), &["plan", "create", &name, "--like", "standard", "--streams", "7"]).await;
    assert_eq!((&plan["max_streams"], &plan["max_queues"]), (&7.into(), &standard["max_queues"]), "{plan}");
    ok(admin(), &["plan", "delete", &name]).await;
}

#[tokio::test]
async fn a_tenant_and_its_gateway_are_watched_by_command() {
    let shared = SharedStack::get();
    let admin = || warrengate("admin", shared.admin_secret());
    let tenant = Tenant::fresh().await;
    let app = of(&tenant);
    ok(app(), &["queue", "declare", "parcels"]).await;
    publish_numbers(&app, "parcels", 3).await;
    let text = ok(app(), &["tenant", "watch", "--interval", "1s", "--count", "2", "--json"]).await;
    let snapshots: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert_eq!(snapshots[1]["queues"][0]["queue"], "parcels", "{snapshots:?}");
    let text = ok(admin(), &["tenant", "watch", &tenant.id, "--count", "1"]).await;
    assert!(text.contains("parcels") && text.contains("all 1") && text.contains("dead letters"), "{text}");
    let usage = json(app(), &["tenant", "usage"]).await;
    assert_eq!(usage["plan"], "standard", "{usage}");
    let status = json(admin(), &["status"]).await;
    assert_eq!((&status["ready"], &status["broker"]["reachable"]), (&true.into(), &true.into()), "{status}");
    let text = ok(admin(), &["status"]).await;
    assert!(text.contains("RabbitMQ") && text.contains("broker_ca") && text.contains("GRPC ADDRESS"), "{text}");
    assert_eq!(json(app(), &["stream", "list"]).await, Value::Array(Vec::new()));
    let unknown = uuid::Uuid::new_v4().simple().to_string();
    let missing = run(admin(), &["stream", "close", &tenant.id, &unknown]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("stream does not exist"), "{missing:?}");
}
