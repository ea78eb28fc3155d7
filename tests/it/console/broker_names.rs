//! Names that were created at the broker directly, and so did not pass the gateway's checks: pages show them escaped, or
//! say that they do not list them.

use lapin::{
    BasicProperties, ExchangeKind,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use reqwest::StatusCode;

use crate::harness::{
    Tenant,
    broker::{Login, amqp, certificate_of, tls},
    browser::Browser,
    wait::{until, within},
};

/// Would be a script in the text of a page and in an attribute, and a command in a terminal.
const HOSTILE: &str = "\"'><script>alert(1)</script>\u{1b}[31m\u{1}";
/// As a page shows it.
const ESCAPED: &str = "&quot;'&gt;&lt;script&gt;alert(1)&lt;/script&gt;\u{241b}[31m\u{2401}";

/// Creates an exchange, a queue, bindings, a message and a dead letter with such names and keys, with the tenant's own
/// certificate.
async fn create_at_the_broker(tenant: &Tenant) {
    let vhost = format!("wg.{}", tenant.id);
    let connection = amqp(tls(Some(&certificate_of(&tenant.id))), &vhost, Login::External).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let plain = FieldTable::default;
    within("an exchange", channel.exchange_declare(HOSTILE.into(), ExchangeKind::Topic, durable, plain()))
        .await
        .unwrap();
    let mut alternate = plain();
    alternate.insert("alternate-exchange".into(), AMQPValue::LongString(HOSTILE.into()));
    within("an exchange", channel.exchange_declare("events".into(), ExchangeKind::Topic, durable, alternate))
        .await
        .unwrap();
    for name in [HOSTILE, "expiring"] {
        let mut expiring = plain();
        expiring.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("wg.dead-letters".into()));
        expiring.insert("x-message-ttl".into(), AMQPValue::LongInt(1));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        within("a queue", channel.queue_declare(name.into(), options, expiring)).await.unwrap();
    }
    for (queue, exchange) in [("jobs", HOSTILE), ("expiring", HOSTILE), (HOSTILE, "events"), ("jobs", "events")] {
        let options = QueueBindOptions::default();
        within("a binding", channel.queue_bind(queue.into(), exchange.into(), HOSTILE.into(), options, plain()))
            .await
            .unwrap();
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    // One dies in the queue with such a name, the other one in a queue with a valid name.
    for exchange in ["", HOSTILE] {
        let properties = BasicProperties::default().with_message_id(HOSTILE.into()).with_type(HOSTILE.into());
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(exchange.into(), HOSTILE.into(), options, b"{}", properties).await.unwrap();
        assert!(within("the confirm", sent).await.unwrap().is_ack());
    }
    until("both dead letters", async || {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("wg.dead-letters".into(), passive, plain()).await.unwrap();
        (queue.message_count() == 2).then_some(())
    })
    .await;
}

/// The addresses on a page that contain such a name.
fn links(page: &str) -> Vec<String> {
    let all = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    all.filter(|link| link.contains("script%3Ealert")).map(str::to_owned).collect()
}

fn assert_harmless(what: &str, page: &str) {
    for raw in ["<script>alert", "'><", "\u{1b}", "\u{1}"] {
        assert!(!page.contains(raw), "{what} contains {raw:?}: {page}");
    }
}

#[tokio::test]
async fn names_that_were_created_at_the_broker_directly_are_shown_escaped_or_said_to_be_missing() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    create_at_the_broker(&tenant).await;
    let mut browser = Browser::signed_in(&tenant.client_id, &tenant.secret).await;
    let letters = browser.open("/dead-letters").await;
    assert_harmless("the dead letters", &letters);
    assert_eq!((letters.matches("name=\"id\"").count(), letters.matches(ESCAPED).count()), (1, 1), "{letters}");
    assert!(letters.contains("Dead letters of queues with names that the gateway does not accept"), "{letters}");
    let link = letters.split_once("href=\"/dead-letters/letter?id=").expect("a link").1.split('"').next().unwrap();
    let letter = browser.open(&format!("/dead-letters/letter?id={link}")).await;
    assert_harmless("the dead letter", &letter);
    assert!(letter.matches(ESCAPED).count() >= 5, "exchange, routing key twice, message id, type: {letter}");

    // A binding is shown with its source, its destination and its key.
    let mut addresses = links(&letter);
    for (path, shown) in [
        ("/exchanges", 2),
        ("/exchanges/events", 4),
        ("/exchanges/amq.topic", 0),
        ("/queues/jobs", 3),
        ("/topology", 6),
    ] {
        let page = browser.open(path).await;
        assert_harmless(path, &page);
        assert!(page.matches(ESCAPED).count() >= shown, "{path}: {page}");
        addresses.extend(links(&page));
    }
    for path in ["/queues", "/topology"] {
        let page = browser.open(path).await;
        assert!(
            page.contains("names that the gateway does not accept, created at the broker, are missing"),
            "{path}: {page}"
        );
    }
    let queues = browser.open("/queues").await;
    assert_harmless("the queues", &queues);
    assert!(queues.contains(">jobs<") && !queues.contains("alert(1)"), "{queues}");
    assert_harmless("the overview", &browser.open("/").await);
    // Each link with an invalid name leads to an error page that explains the reason.
    addresses.sort_unstable();
    addresses.dedup();
    assert!(addresses.iter().any(|path| path.starts_with("/exchanges/")), "{addresses:?}");
    assert!(addresses.iter().any(|path| path.starts_with("/queues/")), "{addresses:?}");
    for path in addresses {
        let page = browser.get(&path).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{path}: {}", page.text);
        assert_harmless(&path, &page.text);
    }
}
