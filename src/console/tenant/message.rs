//! A message on a page: properties, headers, and the body as JSON, text or bytes.

use std::fmt::Write as _;

use maud::{Markup, html};

use crate::{
    console::parts,
    pb::{self, value::Kind},
};

/// The number of bytes of a body that are shown in hexadecimal.
const MAX_HEX: usize = 4096;
/// The number of bytes of a body that are shown as text.
const MAX_TEXT: usize = 64 * 1024;
/// The nesting of a header's value that is shown.
const MAX_DEPTH: usize = 8;

/// A body in a form that people can read.
#[derive(Debug, PartialEq, Eq)]
enum Readable {
    Empty,
    Json(String),
    Text(String),
    /// Not text.
    Bytes,
}

fn readable(body: &[u8]) -> Readable {
    if body.is_empty() {
        return Readable::Empty;
    }
    let Ok(text) = std::str::from_utf8(body) else { return Readable::Bytes };
    // Numbers must be shown exactly, not as the nearest value that a parser supports, so the text is only indented.
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) if text.trim_start().starts_with(['{', '[']) => Readable::Json(indented(text)),
        _ if text.chars().any(|c| c.is_control() && !c.is_whitespace()) => Readable::Bytes,
        _ => Readable::Text(text.to_owned()),
    }
}

/// JSON with line breaks; strings and numbers are unchanged. Ends where [`MAX_TEXT`] cuts it at the latest: an
/// indented body can be 30 times as large.
fn indented(json: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        // A character has at most four bytes.
        if out.len() > 4 * MAX_TEXT {
            break;
        }
        if in_string {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            // Indentation must not make a small, deeply nested body large.
            out.extend(std::iter::repeat_n("  ", depth.min(32)));
        };
        match c {
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.peek().is_some_and(|c| c.is_whitespace()) {
                    chars.next();
                }
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(close) => out.push(close),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

/// Offsets, bytes and printable characters.
fn hex(body: &[u8]) -> String {
    let mut text = String::new();
    for (line, bytes) in body.chunks(16).enumerate() {
        let _ = write!(text, "{:06x} ", line * 16);
        for at in 0..16 {
            let _ = match bytes.get(at) {
                Some(byte) => write!(text, " {byte:02x}"),
                None => write!(text, "   "),
            };
        }
        text.push_str("  ");
        text.extend(bytes.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }));
        text.push('\n');
    }
    text
}

/// The body; `whole` is its full size if only a part is shown.
pub(super) fn body(body: &[u8], whole: u64) -> Markup {
    let cut = |text: &str| match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    let size = whole.max(body.len() as u64);
    html! {
        p.quiet {
            "Body: " (parts::plural(size, "byte", "bytes"))
            @if size > body.len() as u64 { ", of which " (parts::count(body.len() as u64)) " are shown" }
        }
        @match readable(body) {
            Readable::Empty => {}
            Readable::Json(json) => { pre tabindex="0" { (cut(&json)) } }
            Readable::Text(text) => { pre tabindex="0" { (cut(&text)) } }
            Readable::Bytes => { p.quiet { "It is not text." } }
        }
        @if !body.is_empty() {
            details {
                summary { "Bytes" @if body.len() > MAX_HEX { " (the first " (MAX_HEX) ")" } }
                pre tabindex="0" { (hex(&body[..body.len().min(MAX_HEX)])) }
            }
        }
    }
}

/// The properties and headers that are set.
pub(super) fn properties(message: &pb::Message) -> Markup {
    let texts = [
        ("Message id", &message.message_id),
        ("Correlation id", &message.correlation_id),
        ("Reply to", &message.reply_to),
        ("Content type", &message.content_type),
        ("Content encoding", &message.content_encoding),
        ("Type", &message.r#type),
        ("Application", &message.app_id),
    ];
    let mut headers: Vec<_> = message.headers.iter().collect();
    headers.sort_unstable_by_key(|(name, _)| name.as_str());
    html! {
        table.facts {
            @for (name, text) in texts { @if !text.is_empty() { tr { th { (name) } td { (parts::visible(text)) } } } }
            @if message.publish_time.is_some() { tr { th { "Published" } td { (parts::time(message.publish_time.as_ref())) } } }
            @if message.priority > 0 { tr { th { "Priority" } td { (message.priority) } } }
        }
        @if !headers.is_empty() {
            h3 { "Headers" }
            table.facts { @for (name, value) in headers { tr { th { (parts::visible(name)) } td { code { (shown(value, 0)) } } } } }
        }
    }
}

/// The trace of a message's `traceparent` header.
pub(super) fn trace_of(message: &pb::Message) -> Option<String> {
    let Some(Kind::StringValue(text)) = message.headers.get("traceparent").and_then(|value| value.kind.as_ref()) else {
        return None;
    };
    text.split('-').nth(1).filter(|id| id.len() == 32).map(str::to_owned)
}

/// A header's value, similar to JSON.
fn shown(value: &pb::Value, depth: usize) -> String {
    if depth > MAX_DEPTH {
        return "…".to_owned();
    }
    match &value.kind {
        None | Some(Kind::NullValue(_)) => "null".to_owned(),
        Some(Kind::StringValue(text)) => format!("{text:?}"),
        Some(Kind::IntValue(number)) => number.to_string(),
        Some(Kind::DoubleValue(number)) => format!("{number:?}"),
        Some(Kind::BoolValue(flag)) => flag.to_string(),
        Some(Kind::BytesValue(bytes)) => {
            let hex: String = bytes.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
            format!("bytes {hex}{}", if bytes.len() > 64 { "…" } else { "" })
        }
        Some(Kind::TimestampValue(time)) => parts::rfc3339(time).unwrap_or_default(),
        Some(Kind::ListValue(list)) => {
            format!("[{}]", list.values.iter().map(|value| shown(value, depth + 1)).collect::<Vec<_>>().join(", "))
        }
        Some(Kind::TableValue(table)) => {
            let mut entries: Vec<_> = table.entries.iter().collect();
            entries.sort_unstable_by_key(|(name, _)| name.as_str());
            let entries: Vec<_> =
                entries.iter().map(|(name, value)| format!("{name:?}: {}", shown(value, depth + 1))).collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_as_json_text_or_bytes_without_a_change_of_its_values() {
        let Readable::Json(json) = readable(br#"{"a":[1,2.50],"b":"x, {y}","c":{},"n":12345678901234567890123}"#)
        else {
            panic!("JSON")
        };
        let expected = "{\n  \"a\": [\n    1,\n    2.50\n  ],\n  \"b\": \"x, {y}\",\n  \"c\": {},\n  \"n\": 12345678901234567890123\n}";
        assert_eq!(json, expected);
        assert_eq!(readable(b"two\nlines"), Readable::Text("two\nlines".into()));
        assert_eq!(readable(b"42"), Readable::Text("42".into()));
        assert_eq!(readable(b"{broken"), Readable::Text("{broken".into()));
        assert_eq!(readable(&[0xff, 0]), Readable::Bytes);
        assert_eq!(readable(b"a\0b"), Readable::Bytes);
        assert_eq!(readable(b""), Readable::Empty);
    }

    #[test]
    fn bytes_are_shown_with_offsets() {
        let text = hex(b"0123456789abcdef\xff<b>");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef");
        assert!(lines[1].starts_with("000010  ff 3c 62 3e") && lines[1].ends_with("  .<b>"), "{}", lines[1]);
    }

    #[test]
    fn a_deep_body_does_not_become_many_times_larger() {
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(indented(&deep).len() < 200 * 70);
        let wide = format!("{}{}{}", "[".repeat(100), "1,".repeat(MAX_TEXT), "]".repeat(100));
        let indented = indented(&wide);
        assert!(indented.len() < 5 * MAX_TEXT && indented.chars().count() > MAX_TEXT, "{}", indented.len());
    }

    #[test]
    fn text_in_a_message_is_escaped() {
        let bad = "<img src=x>".to_owned();
        let header = pb::Value { kind: Some(Kind::StringValue(bad.clone())) };
        let message = pb::Message {
            message_id: bad.clone(),
            headers: [(bad.clone(), header)].into_iter().collect(),
            ..pb::Message::default()
        };
        let shown = html! { (properties(&message)) (body(bad.as_bytes(), 0)) }.into_string();
        assert!(!shown.contains("<img") && shown.matches("&lt;img").count() >= 4, "{shown}");
    }
}
