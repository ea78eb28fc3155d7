//! Grants as text that people enter: one pattern per line, `exchange routing-key` for publishing.

use maud::{Markup, html};

use crate::{
    console::{error::PageError, form::Form},
    pb,
};

/// The fields of a form.
pub(super) fn fields(grants: &pb::Grants) -> Markup {
    let publish: Vec<_> =
        grants.publish.iter().map(|grant| format!("{} {}", grant.exchange, grant.routing_key)).collect();
    html! {
        label { "Publish to" small { "one per line: exchange, space, routing key; the default exchange is amq.default; # matches everything" }
            textarea name="publish" rows="3" spellcheck="false" placeholder="amq.default #" { (publish.join("\n")) } }
        label { "Subscribe to queues" small { "one pattern per line" }
            textarea name="subscribe" rows="2" spellcheck="false" placeholder="orders.#" { (grants.subscribe.join("\n")) } }
        label { "Configure exchanges and queues" small { "one pattern per line" }
            textarea name="configure" rows="2" spellcheck="false" { (grants.configure.join("\n")) } }
        label.check { input type="checkbox" name="administer" value="yes" checked[grants.administer];
            "Administer: manage the clients of this tenant, and close streams" }
        label.check { input type="checkbox" name="observe" value="yes" checked[grants.observe];
            "Observe: read the usage, the audit events, live figures and the open streams of this tenant" }
    }
}

/// Parses the fields.
pub(super) fn from_form(form: &Form) -> Result<pb::Grants, PageError> {
    let grants = pb::Grants {
        publish: publish(form.text("publish"))?,
        subscribe: lines(form.text("subscribe")),
        configure: lines(form.text("configure")),
        ..pb::Grants::default()
    };
    Ok(pb::Grants { administer: form.has("administer"), observe: form.has("observe"), ..grants })
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn publish(text: &str) -> Result<Vec<pb::PublishGrant>, PageError> {
    let grant = |line: String| {
        let (exchange, routing_key) = line.split_once(char::is_whitespace).ok_or_else(|| {
            PageError::invalid(format!(
                "publish: {line:?} must be an exchange, a space and a routing key, such as \"orders #\""
            ))
        })?;
        Ok(pb::PublishGrant { exchange: exchange.to_owned(), routing_key: routing_key.trim().to_owned() })
    };
    lines(text).into_iter().map(grant).collect()
}

/// Grants in one cell of a table.
pub(super) fn summary(grants: Option<&pb::Grants>) -> Markup {
    let Some(grants) = grants else { return html! { span.quiet { "none" } } };
    let part = |name: &str, count: usize| (count > 0).then(|| format!("{name} {count}"));
    let words: Vec<_> = [
        part("publish", grants.publish.len()),
        part("subscribe", grants.subscribe.len()),
        part("configure", grants.configure.len()),
        grants.administer.then(|| "administer".to_owned()),
        grants.observe.then(|| "observe".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    html! { @if words.is_empty() { span.quiet { "none" } } @else { (words.join(", ")) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_grants_are_lines_of_exchange_and_key() {
        let grants = publish("amq.default #\n\n  orders  order.* \n").expect("grants");
        let pairs: Vec<_> = grants.iter().map(|grant| (grant.exchange.as_str(), grant.routing_key.as_str())).collect();
        assert_eq!(pairs, [("amq.default", "#"), ("orders", "order.*")]);
        assert!(publish("orders").is_err());
    }
}
