//! Tests of the conversion of flags to a publication, and of outcomes to a summary.

use clap::Parser as _;

use super::*;

#[derive(Debug, clap::Parser)]
struct Flags {
    #[command(flatten)]
    args: Args,
}

fn parse(flags: &[&str]) -> Result<pb::Publication, clap::Error> {
    Flags::try_parse_from(std::iter::once(&"x").chain(flags)).map(|flags| flags.args.template())
}

#[test]
fn every_property_has_its_flag() {
    let flags = "--exchange e -k key --header n:int=3 --message-id m --correlation-id c --reply-to r --content-type t \
                 --content-encoding gzip --type order.created --app-id a --ttl 5m --priority 7 --transient \
                 --allow-unroutable body";
    let publication = parse(&flags.split_whitespace().collect::<Vec<_>>()).expect("valid");
    assert_eq!((publication.exchange.as_str(), publication.routing_key.as_str()), ("e", "key"));
    assert!(publication.allow_unroutable);
    let message = publication.message.expect("a message");
    let headers = [("n".to_owned(), values::header("n:int=3").expect("valid").1)].into();
    let expected = pb::Message {
        body: Bytes::new(),
        message_id: "m".into(),
        correlation_id: "c".into(),
        reply_to: "r".into(),
        content_type: "t".into(),
        content_encoding: "gzip".into(),
        r#type: "order.created".into(),
        publish_time: None,
        ttl: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
        priority: 7,
        durability: pb::Durability::Transient.into(),
        headers,
        app_id: "a".into(),
    };
    assert_eq!(message, expected);
}

#[test]
fn a_queue_is_the_default_exchange() {
    let publication = parse(&["--queue", "orders", "body"]).expect("valid");
    assert_eq!((publication.exchange.as_str(), publication.routing_key.as_str()), ("", "orders"));
}

#[test]
fn a_destination_and_exactly_one_body_are_required() {
    for bad in [
        &["body"][..],
        &["--queue", "q"],
        &["--queue", "q", "--lines", "body"],
        &["--queue", "q", "--exchange", "e", "body"],
        &["--queue", "q", "--lines", "--message-id", "m"],
        &["--queue", "q", "--priority", "256", "body"],
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_summary_counts_all_and_shows_the_first_problems() {
    let mut tally = Tally::default();
    for line in 1..=40 {
        let outcome = if line <= 10 { Outcome::Confirmed } else { Outcome::Unroutable };
        tally.count(
            line,
            pb::PublishResult { outcome: outcome.into(), reason: "NO_ROUTE: x".into(), ..Default::default() },
        );
    }
    let text = tally.text();
    assert!(text.starts_with("10 confirmed, 30 unroutable"), "{text}");
    assert!(text.contains("line 11: unroutable") && text.ends_with("and 10 more"), "{text}");
    let json = tally.json();
    assert_eq!((&json["messages"], &json["outcomes"]["unroutable"]), (&json!(40), &json!(30)));
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(PROBLEMS));
    assert!(tally.result().is_err());
    assert!(Tally::default().result().is_ok());
}
