//! Elements that pages share: numbers, times, meters, lists, and forms with a confirmation.

use std::{borrow::Cow, collections::HashMap};

use axum::response::{IntoResponse, Response};
use http::header;
use maud::{Markup, PreEscaped, html};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{error::PageError, user::User};

/// A complete page.
pub(super) struct Html(pub(super) Markup);

impl IntoResponse for Html {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.0.into_string()).into_response()
    }
}

/// The result of a page's handler.
pub(super) type PageResult = Result<Html, PageError>;

/// The query of an address.
pub(super) type Query = axum::extract::Query<HashMap<String, String>>;

/// A parameter of the query; empty if it is missing.
pub(super) fn param<'a>(query: &'a HashMap<String, String>, name: &str) -> &'a str {
    query.get(name).map_or("", |value| value.trim())
}

/// A time in UTC, which the script shows in the reader's zone.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Markup {
    let Some(text) = time.and_then(rfc3339) else { return html! { span.quiet { "–" } } };
    html! { time datetime=(text) { (text.replace('T', " ").trim_end_matches('Z')) " UTC" } }
}

/// A time as in RFC 3339, to the second.
pub(super) fn rfc3339(time: &prost_types::Timestamp) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(time.seconds).ok()?.format(&Rfc3339).ok()
}

/// A number with its thousands separated.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A noun in the singular or plural.
pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A size in the largest unit in which it is at least one, rounded down to a tenth.
pub(super) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let (whole, tenth) = (bytes >> shift, ((bytes & ((1 << shift) - 1)) * 10) >> shift);
    let tenth = if tenth == 0 { String::new() } else { format!(".{tenth}") };
    format!("{}{tenth} {unit}", count(whole))
}

/// A limit's value in its unit.
pub(super) fn amount(limit: &str, value: u64) -> String {
    match limit.contains("bytes") {
        true => size(value),
        false => count(value),
    }
}

/// How much of a limit is used.
pub(super) fn meter(label: &str, limit: &str, used: u64, allowed: u64) -> Markup {
    let text = match allowed {
        0 => format!("{} of unlimited", amount(limit, used)),
        _ => format!("{} of {}", amount(limit, used), amount(limit, allowed)),
    };
    html! {
        @if allowed > 0 {
            meter aria-label=(label) min="0" max=(allowed) high=(allowed / 10 * 8) optimum="0" value=(used.min(allowed)) { (text) }
        }
        span.amount { (text) }
    }
}

/// A chart of a live figure, which the script draws while the page is open.
pub(super) fn chart(label: &str, figure: &str) -> Markup {
    html! {
        figure hidden {
            figcaption { (label) ", the last 10 minutes: at most " span data-most=(figure) { "0" } }
            svg.chart viewBox="0 0 120 40" preserveAspectRatio="none" aria-hidden="true" {
                line x1="0" y1="39.5" x2="120" y2="39.5" {}
                polygon points="" {}
                polyline data-chart=(figure) points="" {}
            }
        }
    }
}

/// The live figures of all queues of a tenant, from this address.
pub(super) fn traffic(address: &str) -> Markup {
    html! {
        section data-live=(address) {
            h2 { "All queues of this tenant" }
            dl.figures {
                div { dt { "Queues" } dd data-figure="queues" { "–" } }
                div { dt { "Ready" } dd data-figure="ready" { "–" } }
                div { dt { "Unsettled" } dd data-figure="unsettled" { "–" } }
                div { dt { "Consumers" } dd data-figure="consumers" { "–" } }
                div { dt { "In / s" } dd data-figure="in" { "–" } }
                div { dt { "Out / s" } dd data-figure="out" { "–" } }
                div { dt { "Oldest message" } dd data-figure="age" { "–" } }
                div { dt { "Dead letters" } dd data-figure="dead" { "–" } }
            }
            div.grid { (chart("Messages in per second", "in")) (chart("Messages ready", "ready")) }
            p.live data-status="" role="status" { "Live figures need the page's script." }
        }
    }
}

/// Text that did not have to pass the gateway's checks, such as names that were created at the broker directly:
/// characters that a page would not show, or that change the order of others, are replaced.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    let picture = |c: char| match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{7f}' => Some('\u{2421}'),
        '\u{80}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some(char::REPLACEMENT_CHARACTER)
        }
        _ => None,
    };
    match text.chars().any(|c| picture(c).is_some()) {
        true => text.chars().map(|c| picture(c).unwrap_or(c)).collect::<String>().into(),
        false => text.into(),
    }
}

/// The link to a trace, or its id.
pub(super) fn trace(user: Option<&User>, trace_id: &str) -> Markup {
    let url = user.and_then(|user| user.trace_url(trace_id));
    html! {
        @if let Some(url) = url { a.trace href=(url) rel="noreferrer" title="Show the trace" { (trace_id) } }
        @else { code.trace { (trace_id) } }
    }
}

/// The text shown instead of an empty list, with the next step.
pub(super) fn empty(text: &str, next: Markup) -> Markup {
    html! { div.empty { p { (text) } (next) } }
}

/// The link to the next page of a list.
pub(super) fn next_page(path: &str, query: &HashMap<String, String>, token: &str) -> Markup {
    let kept = query.iter().filter(|(name, _)| *name != "page" && *name != "done");
    let mut kept: Vec<_> = kept.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    kept.sort_unstable();
    let is_first = !query.contains_key("page");
    html! {
        @if !token.is_empty() || !is_first {
            nav.pages aria-label="Pages" {
                @if !is_first { a href=(address(path, &kept)) { "First page" } }
                @if !token.is_empty() {
                    a rel="next" href=(address(path, &[kept.as_slice(), &[("page", token)]].concat())) { "Next page" }
                }
            }
        }
    }
}

/// An address with a query.
pub(super) fn address(path: &str, query: &[(&str, &str)]) -> String {
    let encode =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// A name as a segment of a path.
pub(super) fn segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A form that is sent without a confirmation.
pub(super) fn action_form(user: &User, action: &str, label: &str, fields: &[(&str, &str)]) -> Markup {
    html! {
        form.inline method="post" action=(action) {
            (user.csrf())
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button { (label) }
        }
    }
}

/// A form with a confirmation; with `typed`, this name has to be typed.
pub(super) fn confirmed_form(
    user: &User,
    action: &str,
    label: &str,
    question: Markup,
    typed: Option<&str>,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        details.ask {
            summary { (label) "…" }
            form method="post" action=(action) {
                (user.csrf())
                @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
                (question)
                @if let Some(name) = typed {
                    label { "Type " b { (name) } " to confirm"
                        input name="confirm" autocomplete="off" spellcheck="false" required pattern=(pattern(name)); }
                }
                button.danger { (label) }
            }
        }
    }
}

/// A regular expression that only this name matches. Names contain no other special character.
fn pattern(name: &str) -> String {
    name.replace('.', "\\.")
}

/// The result of the form that led to a page. The text is chosen here, and is never taken from the address.
pub(super) fn notice(query: &HashMap<String, String>) -> Markup {
    let text = match param(query, "done") {
        "created" => "Created.",
        "changed" => "Changed.",
        "suspended" => "Suspended. Its open streams end within a second.",
        "resumed" => "Resumed.",
        "deleted" => "Deleted.",
        "revoked" => "Revoked. Its tokens are refused and its open streams end within a second.",
        "purged" => "Purged.",
        "bound" => "Bound.",
        "unbound" => "The binding was removed.",
        "closed" => "Closed.",
        _ => return PreEscaped(String::new()),
    };
    html! { p.notice role="status" { (text) } }
}

/// A state as a coloured word.
pub(super) fn badge(class: &str, text: &str) -> Markup {
    html! { span.badge.(class) { (text) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let shown = [0, 7, 999, 1_000, 12_345, 1_234_567].map(count);
        assert_eq!(shown, ["0", "7", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!((plural(1, "queue", "queues"), plural(0, "queue", "queues")), ("1 queue".into(), "0 queues".into()));
    }

    #[test]
    fn sizes_are_rounded_to_a_unit() {
        let shown = [0, 1_023, 1_024, 1_536, 64 << 20, 1_000_000_000, 10_110_604_083, u64::MAX].map(size);
        let expected = ["0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "953.6 MiB", "9.4 GiB", "17,179,869,183.9 GiB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn text_of_others_is_escaped_in_content_attributes_and_addresses() {
        let bad = "\"><script>alert(1)</script>";
        let shown = html! { a href=(address("/x", &[("q", bad)])) title=(bad) { (bad) } }.into_string();
        assert!(!shown.contains("<script") && !shown.contains("\"><"), "{shown}");
        assert_eq!(segment("a/../b"), "a%2F%2E%2E%2Fb");
    }

    #[test]
    fn characters_that_a_page_would_not_show_are_replaced() {
        assert_eq!(visible("a\0\u{1b}[31m\n\u{7f}"), "a\u{2400}\u{241b}[31m\u{240a}\u{2421}");
        assert_eq!(visible("\u{202e}gnp.exe\u{85}"), "\u{fffd}gnp.exe\u{fffd}");
        assert!(matches!(visible("größer <b>"), Cow::Borrowed(_)));
    }
}
