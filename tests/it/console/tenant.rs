//! A tenant's pages.

use reqwest::StatusCode;
use warrengate::pb::{self, ExchangeType, Outcome, value::Kind};

use crate::harness::{
    Tenant,
    browser::Browser,
    tenant::all_grants,
    to_queue,
    wait::{until, within},
};

async fn signed_in(tenant: &Tenant) -> Browser {
    Browser::signed_in(&tenant.client_id, &tenant.secret).await
}

/// A message with text that would be a script if it were not escaped, in every place that takes text.
fn hostile(queue: &str) -> pb::Publication {
    let bad = "<script>alert(1)</script>".to_owned();
    let mut publication = to_queue(queue, format!("{{\"a\": \"{bad}\"}}"));
    let message = publication.message.as_mut().unwrap();
    message.message_id.clone_from(&bad);
    message.content_type.clone_from(&bad);
    message.r#type.clone_from(&bad);
    message.headers.insert(bad.clone(), pb::Value { kind: Some(Kind::StringValue(bad)) });
    publication
}

#[tokio::test]
async fn a_queue_is_declared_gets_a_message_is_purged_and_is_deleted_with_its_name_typed() {
    let tenant = Tenant::fresh().await;
    let mut browser = signed_in(&tenant).await;
    assert!(browser.open("/").await.contains("There are no queues yet."));
    browser.open("/queues").await;
    let fields = [("name", "orders"), ("type", "classic"), ("max_length", "10"), ("min_backoff", "5s")];
    let page = browser.post("/queues", &fields).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/queues/orders"), "{}", page.text);
    assert!(page.text.contains("classic") && page.text.contains("Most ready messages"), "{}", page.text);
    let fields = [("exchange", ""), ("routing_key", "orders"), ("body", "{\"a\": 1}"), ("headers", "kind: test")];
    let page = browser.post("/publish", &[&fields[..], &[("back", "/queues/orders")]].concat()).await;
    assert!(page.text.contains(">CONFIRMED</span>") && page.text.contains("/queues/orders\">Back"), "{}", page.text);
    assert_eq!(tenant.depth("orders").await, 1);
    browser.open("/queues/orders").await;
    let page = browser.post("/queues/orders/purge", &[]).await;
    assert!(page.text.contains("Purged."), "{}", page.text);
    assert_eq!(tenant.depth("orders").await, 0);
    let page = browser.post("/queues/orders/delete", &[("confirm", "order")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    browser.open("/queues/orders").await;
    let page = browser.post("/queues/orders/delete", &[("confirm", "orders")]).await;
    assert_eq!((page.status, page.path.as_str()), (StatusCode::OK, "/queues"));
    let page = browser.get("/queues/orders").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text.contains("QUEUE_NOT_FOUND"), "{}", page.text);
}

#[tokio::test]
async fn an_unroutable_test_message_and_an_invalid_one_are_shown_with_their_codes() {
    let tenant = Tenant::fresh().await;
    tenant.exchange("events", ExchangeType::Topic).await;
    let mut browser = signed_in(&tenant).await;
    browser.open("/exchanges/events").await;
    let page = browser.post("/publish", &[("exchange", "events"), ("routing_key", "a.b"), ("body", "x")]).await;
    assert!(page.text.contains(">UNROUTABLE</span>"), "{}", page.text);
    browser.open("/exchanges/events").await;
    let page = browser.post("/publish", &[("exchange", "events"), ("headers", "no colon")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn bindings_are_made_drawn_and_removed() {
    let tenant = Tenant::fresh().await;
    tenant.queue("orders").await;
    let mut browser = signed_in(&tenant).await;
    browser.open("/exchanges").await;
    let page = browser.post("/exchanges", &[("name", "events"), ("type", "topic")]).await;
    assert_eq!(page.path, "/exchanges/events", "{}", page.text);
    let fields =
        [("source", "events"), ("destination", "orders"), ("routing_key", "order.*"), ("back", "/exchanges/events")];
    let page = browser.post("/bindings", &fields).await;
    assert!(page.text.contains("Bound.") && page.text.contains("order.*"), "{}", page.text);
    tenant
        .publish(pb::Publication { exchange: "events".into(), routing_key: "order.new".into(), ..to_queue("", "x") })
        .await;
    let picture = browser.open("/topology").await;
    assert!(
        picture.contains("<svg") && picture.contains("exchange events") && picture.contains("queue orders"),
        "{picture}"
    );
    assert!(picture.contains("order.*"), "{picture}");
    let page = browser.open("/queues/orders").await;
    let binding = page.split_once("name=\"binding\" value=\"").expect("a form").1.split('"').next().unwrap().to_owned();
    let page = browser.post("/bindings/remove", &[("binding", &binding), ("back", "/queues/orders")]).await;
    assert!(page.text.contains("The binding was removed.") && !page.text.contains("order.*"), "{}", page.text);
    let lost = pb::Publication { exchange: "events".into(), routing_key: "order.new".into(), ..to_queue("", "x") };
    assert_eq!(tenant.outcomes(vec![lost]).await, [Outcome::Unroutable]);
}

#[tokio::test]
async fn dead_letters_are_found_looked_into_sent_again_and_deleted_and_their_text_is_escaped() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for publication in [hostile("jobs"), to_queue("jobs", vec![0xff, 0x00, 0x3c])] {
        tenant.publish(publication).await;
    }
    let reason = "<script>alert(2)</script>";
    reject_all(&tenant, "jobs", 2, reason).await;
    let mut browser = signed_in(&tenant).await;
    let page = until("two dead letters", async || {
        let page = browser.open("/dead-letters").await;
        (page.matches("name=\"id\"").count() == 2).then_some(page)
    })
    .await;
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert(2)&lt;/script&gt;"), "{page}");
    let links: Vec<_> =
        page.split("href=\"/dead-letters/letter?id=").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let letters = [
        browser.open(&format!("/dead-letters/letter?id={}", links[0])).await,
        browser.open(&format!("/dead-letters/letter?id={}", links[1])).await,
    ];
    let (text, bytes) =
        if letters[0].contains("It is not text.") { (&letters[1], &letters[0]) } else { (&letters[0], &letters[1]) };
    assert!(!text.contains("<script>alert"), "{text}");
    assert!(text.matches("&lt;script&gt;alert(1)").count() >= 5, "id, type, content type, header, body: {text}");
    assert!(bytes.contains("ff 00 3c"), "{bytes}");
    assert!(browser.open("/dead-letters?code=expired").await.contains("No dead letters match."));
    assert_eq!(browser.open("/dead-letters?reason=alert").await.matches("name=\"id\"").count(), 2);

    let page = browser.post("/dead-letters/redrive", &[("which", "selected")]).await;
    assert_eq!(page.status, StatusCode::BAD_REQUEST, "nothing was selected");
    browser.open("/dead-letters").await;
    let id = percent_decoded(links[0]);
    let page = browser.post("/dead-letters/redrive", &[("which", "selected"), ("id", &id)]).await;
    assert!(page.text.contains("1 message was sent again"), "{}", page.text);
    until("it is in its queue", async || (tenant.depth("jobs").await == 1).then_some(())).await;
    browser.open("/dead-letters").await;
    let page = browser.post("/dead-letters/purge", &[("which", "matching"), ("queue", "jobs")]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    assert!(browser.open("/dead-letters").await.contains("There are no dead letters."));
}

fn percent_decoded(text: &str) -> String {
    text.replace("%2D", "-").replace("%3A", ":").replace("%2E", ".")
}

/// Rejects this number of deliveries with a reason.
async fn reject_all(tenant: &Tenant, queue: &str, number: usize, reason: &str) {
    use warrengate::client::SubscribeOptions;
    let mut subscription = tenant.client.subscribe(SubscribeOptions::queue(queue)).await.unwrap();
    for _ in 0..number {
        let delivery = within("a delivery", subscription.next()).await.unwrap().expect("a delivery");
        delivery.dead_letter(reason);
    }
    within("the end", subscription.close()).await.unwrap();
}

#[tokio::test]
async fn two_tenants_with_the_same_names_never_see_each_other() {
    let (one, other) = (Tenant::fresh().await, Tenant::fresh().await);
    for (tenant, body) in [(&one, "belongs to one"), (&other, "belongs to the other")] {
        tenant.queue("jobs").await;
        tenant.publish_to("jobs", body).await;
        reject_all(tenant, "jobs", 1, body).await;
    }
    one.queue("only-one").await;
    other.queue("only-other").await;
    for (own, foreign, word, hidden) in
        [(&one, &other, "only-one", "only-other"), (&other, &one, "only-other", "only-one")]
    {
        let mut browser = signed_in(own).await;
        until("the dead letter", async || browser.open("/dead-letters").await.contains("name=\"id\"").then_some(()))
            .await;
        for path in ["/", "/queues", "/topology", "/dead-letters"] {
            let page = browser.open(path).await;
            assert!(!page.contains(hidden) && !page.contains(&foreign.id), "{path}: {page}");
        }
        assert!(browser.open("/queues").await.contains(word));
        assert_eq!(browser.get(&format!("/queues/{hidden}")).await.status, StatusCode::NOT_FOUND);
        browser.open("/queues").await;
        let page = browser.post(&format!("/queues/{hidden}/delete"), &[("confirm", hidden)]).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{}", page.text);
    }
    assert_eq!((one.depth("only-one").await, other.depth("only-other").await), (0, 0), "both exist");
}

#[tokio::test]
async fn a_client_can_do_no_more_in_the_console_than_its_grants_allow() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.queue("secret").await;
    let admin = crate::harness::SharedStack::get().admin().await;
    let grants = pb::Grants { subscribe: vec!["jobs".into()], ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "reader", grants).await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    let page = browser.open("/queues").await;
    assert!(page.contains("/queues/jobs") && !page.contains("/queues/secret"), "{page}");
    for (path, fields) in [
        ("/queues", vec![("name", "another")]),
        ("/queues/jobs/delete", vec![("confirm", "jobs")]),
        ("/queues/secret/purge", vec![]),
        ("/exchanges", vec![("name", "another")]),
        ("/clients", vec![("tenant", tenant.id.as_str()), ("name", "another")]),
    ] {
        browser.open("/queues").await;
        let page = browser.post(path, &fields).await;
        assert!([StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&page.status), "{path}: {}", page.text);
    }
    let page = browser.post("/publish", &[("routing_key", "jobs"), ("body", "x")]).await;
    assert!(page.status == StatusCode::FORBIDDEN || page.text.contains(">DENIED</span>"), "{}", page.text);
}

#[tokio::test]
async fn long_lists_have_pages() {
    let tenant = Tenant::fresh().await;
    for at in 0..105 {
        tenant
            .queue_of(pb::Queue {
                name: format!("q{at:03}"),
                r#type: pb::QueueType::Classic.into(),
                ..Default::default()
            })
            .await;
    }
    let mut browser = signed_in(&tenant).await;
    let first = until("all queues", async || {
        let page = browser.open("/queues").await;
        page.contains("rel=\"next\"").then_some(page)
    })
    .await;
    assert!(first.contains(">q000<") && !first.contains(">q104<"));
    let next =
        first.split_once("rel=\"next\" href=\"").expect("a link").1.split('"').next().unwrap().replace("&amp;", "&");
    let second = browser.open(&next).await;
    assert!(second.contains(">q104<") && second.contains("First page"), "{second}");
    assert!(first.len() < 100 * 1024, "{}", first.len());
}

#[tokio::test]
async fn the_first_messages_of_a_queue_are_shown_escaped_and_stay_in_it() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish(hostile("jobs")).await;
    let mut browser = signed_in(&tenant).await;
    let page = browser.open("/queues/jobs").await;
    assert!(page.contains("Show the first messages"), "{page}");
    let page = browser.post("/queues/jobs/peek", &[]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text);
    assert!(!page.text.contains("<script>alert"), "{}", page.text);
    assert!(page.text.matches("&lt;script&gt;alert(1)").count() >= 5, "{}", page.text);
    until("it is in its queue", async || (tenant.depth("jobs").await == 1).then_some(())).await;
}

#[tokio::test]
async fn an_open_stream_is_listed_and_closed_by_a_tenants_administrator() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let admin = crate::harness::SharedStack::get().admin().await;
    let all = pb::Grants { administer: true, observe: true, ..pb::Grants::default() };
    let (id, secret) = Tenant::add_client(&admin, &tenant.id, "administrator", all).await;
    let mut subscription = crate::harness::raw::RawSubscribe::started(&tenant.client, "jobs").await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    let page = until("the stream", async || {
        let page = browser.open("/streams").await;
        page.contains("<td>subscribe</td>").then_some(page)
    })
    .await;
    assert!(page.contains(&tenant.client_id) && page.contains("<td>jobs</td>"), "{page}");
    // The page of its queue has it, too, and no other page.
    tenant.queue("other").await;
    let consumers = async |browser: &mut Browser, queue: &str| {
        let page = browser.open(&format!("/queues/{queue}")).await;
        page.split_once("Consumers on this gateway")
            .expect("consumers")
            .1
            .split("</section>")
            .next()
            .unwrap()
            .to_owned()
    };
    let mut own = signed_in(&tenant).await;
    let shown = consumers(&mut own, "jobs").await;
    assert!(shown.contains(&format!("<td>{}</td><td>127.0.0.1:", tenant.client_id)), "{shown}");
    assert!(consumers(&mut own, "other").await.contains("No client of this gateway consumes it."));
    let (reader, secret) =
        Tenant::add_client(&admin, &tenant.id, "reader", pb::Grants { observe: false, ..all_grants() }).await;
    let without = Browser::signed_in(&reader, &secret).await.open("/queues/jobs").await;
    assert!(!without.contains("Consumers on this gateway"), "it may not see streams: {without}");
    let stream = page.split_once("name=\"stream\" value=\"").expect("a form").1.split('"').next().unwrap().to_owned();
    let page = browser.post("/streams/close", &[("stream", &stream)]).await;
    assert!(page.text.contains("Closed."), "{}", page.text);
    let (status, _) = within("its end", subscription.end()).await;
    assert_eq!(status.code(), tonic::Code::Aborted);
}

#[tokio::test]
async fn a_client_that_observes_sees_its_usage_and_the_events_of_its_tenant_only() {
    let (own, other) = (Tenant::fresh().await, Tenant::fresh().await);
    let mut browser = signed_in(&own).await;
    let usage = browser.open("/usage").await;
    assert!(usage.contains("max_queues") && usage.contains("standard"), "{usage}");
    other.queue("hidden").await;
    let audit = until("the event of the sign-in", async || {
        let page = browser.open("/audit").await;
        page.contains("Auth/IssueToken").then_some(page)
    })
    .await;
    assert!(audit.contains(&own.client_id) && !audit.contains(&other.id), "{audit}");
    let page = browser.get(&format!("/audit?tenant={}", other.id)).await;
    assert!(!page.text.contains(&other.client_id), "{}", page.text);
    let admin = crate::harness::SharedStack::get().admin().await;
    let (id, secret) = Tenant::add_client(&admin, &own.id, "blind", pb::Grants::default()).await;
    let mut browser = Browser::signed_in(&id, &secret).await;
    let page = browser.get("/usage").await;
    assert_eq!(page.status, StatusCode::FORBIDDEN, "{}", page.text);
    assert!(!page.text.contains("href=\"/usage\""), "what would be refused is not offered");
}

#[tokio::test]
async fn live_figures_follow_a_queue_and_need_a_session() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let browser = signed_in(&tenant).await;
    let anonymous = Browser::new().request(reqwest::Method::GET, "/live").send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    let mut live = browser.request(reqwest::Method::GET, "/live?queue=jobs").send().await.unwrap();
    assert_eq!(
        (live.status(), live.headers()["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/event-stream")
    );
    tenant.publish_to("jobs", "one").await;
    let mut received = String::new();
    within("the message in the figures", async {
        while !received.contains("\"ready\":1") {
            let chunk = live.chunk().await.unwrap().expect("the stream goes on");
            received.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    })
    .await;
    let event = received.lines().rev().find_map(|line| line.strip_prefix("data: ")).expect("an event");
    let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
    assert_eq!(event["queues"][0]["name"], "jobs");
    // A live stream ends when its client is revoked.
    let admin = crate::harness::SharedStack::get().admin().await;
    admin.admin().revoke_client(pb::RevokeClientRequest { client_id: tenant.client_id.clone() }).await.unwrap();
    within("the end of the stream", async { while let Ok(Some(_)) = live.chunk().await {} }).await;
}

#[tokio::test]
async fn a_dead_letter_is_sent_again_with_another_body() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "broken").await;
    reject_all(&tenant, "jobs", 1, "cannot be read").await;
    let mut browser = signed_in(&tenant).await;
    let page = until("a dead letter", async || {
        let page = browser.open("/dead-letters").await;
        page.contains("name=\"id\"").then_some(page)
    })
    .await;
    let link =
        page.split("href=\"/dead-letters/letter?id=").nth(1).expect("a link").split('"').next().unwrap().to_owned();
    let page = browser.open(&format!("/dead-letters/letter?id={link}")).await;
    assert!(page.contains("cannot be read") && page.contains("<textarea name=\"body\""), "{page}");
    let fields = [("id", percent_decoded(&link)), ("body", "repaired\r\nin two lines".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let page = browser.post("/dead-letters/edited", &fields).await;
    assert!(page.text.contains("1 message was sent again"), "{}", page.text);
    let mut subscription = tenant.client.subscribe(warrengate::client::SubscribeOptions::queue("jobs")).await.unwrap();
    let delivery = within("it", subscription.next()).await.unwrap().expect("a delivery");
    assert_eq!(delivery.body().as_ref(), b"repaired\nin two lines");
}

/// The path of the page of the only dead letter, and its id.
async fn only_letter(browser: &mut Browser) -> (String, String) {
    let page = until("a dead letter", async || {
        let page = browser.open("/dead-letters").await;
        page.contains("name=\"id\"").then_some(page)
    })
    .await;
    let (_, rest) = page.split_once("href=\"/dead-letters/letter?id=").expect("a link");
    let id = rest.split('"').next().unwrap();
    (format!("/dead-letters/letter?id={id}"), percent_decoded(id))
}

#[tokio::test]
async fn a_body_as_large_as_the_command_allows_is_changed_in_a_form() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    // Each of these characters is the longest possible in a page or in a form.
    let large = "\"\n".repeat(500_000);
    tenant.publish_to("jobs", large.clone()).await;
    reject_all(&tenant, "jobs", 1, "cannot be read").await;
    let mut browser = signed_in(&tenant).await;
    let (path, id) = only_letter(&mut browser).await;
    let page = browser.open(&path).await;
    assert!(page.contains("<textarea name=\"body\"") && page.matches("&quot;\n").count() >= 500_000);
    let changed = large.replace('"', "+").replace('\n', "\r\n");
    let page = browser.post("/dead-letters/edited", &[("id", &id), ("body", &changed)]).await;
    assert!(page.text.contains("1 message was sent again"), "{}", page.text);
    let bodies = tenant.take("jobs", 1).await;
    assert_eq!((bodies[0].len(), bodies[0] == "+\n".repeat(500_000)), (1_000_000, true));
}

/// The number of messages that a page shows as sent so far.
fn sent_so_far(page: &str) -> Option<u64> {
    let (before, _) = page.rsplit_once(" sent again so far")?;
    before.rsplit('>').next()?.parse().ok()
}

#[tokio::test]
async fn a_redrive_shows_its_progress_while_it_runs_and_stops_when_its_page_is_left() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for _ in 0..2 {
        tenant.outcomes(vec![to_queue("jobs", "x"); 100]).await;
    }
    reject_all(&tenant, "jobs", 200, "not yet").await;
    tenant.has_dead_letters(200).await;
    let mut browser = signed_in(&tenant).await;
    browser.open("/dead-letters").await;
    let form = browser.form("/dead-letters/redrive", &[("which", "matching"), ("rate", "20")]);
    let mut page = form.header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let mut text = String::new();
    within("some progress", async {
        while sent_so_far(&text).is_none_or(|sent| sent == 0) {
            text.push_str(&String::from_utf8_lossy(&page.chunk().await.unwrap().expect("the page goes on")));
        }
    })
    .await;
    assert!(sent_so_far(&text).is_some_and(|sent| sent < 200) && !text.contains("</html>"), "{text}");
    drop(page);
    let redrives = async |browser: &mut Browser| browser.open("/streams").await.matches("<td>redrive</td>").count();
    until("the end of the redrive", async || (redrives(&mut browser).await == 0).then_some(())).await;
    assert!(!tenant.dead_letters().await.is_empty(), "it stopped");

    // At a rate at which the broker settles each before the next.
    browser.open("/dead-letters").await;
    let page = browser.post("/dead-letters/redrive", &[("which", "matching"), ("rate", "100")]).await;
    assert!(page.text.contains("messages were sent again and confirmed"), "{}", page.text);
    assert!(page.text.ends_with("</html>"), "{}", page.text);
    assert!(tenant.dead_letters().await.is_empty(), "all were sent");
}

#[tokio::test]
async fn a_redrive_ends_with_the_session_of_its_page() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.outcomes(vec![to_queue("jobs", "x"); 100]).await;
    reject_all(&tenant, "jobs", 100, "not yet").await;
    tenant.has_dead_letters(100).await;
    let mut browser = signed_in(&tenant).await;
    browser.open("/dead-letters").await;
    let form = browser.form("/dead-letters/redrive", &[("which", "matching"), ("rate", "2")]);
    let mut page = form.header("sec-fetch-site", "same-origin").send().await.unwrap();
    browser.post("/sign-out", &[]).await;
    let mut text = String::new();
    within("the end of the page", async {
        while let Some(chunk) = page.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    })
    .await;
    assert!(text.contains("It was stopped, because you signed out.") && text.ends_with("</html>"), "{text}");
    assert!(!tenant.dead_letters().await.is_empty());
}
