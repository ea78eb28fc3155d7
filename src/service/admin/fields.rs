//! Validation of the parts that requests have in common: masks, request ids and texts. An error names the field and
//! what is wrong with it.

use prost_types::{FieldMask, Timestamp};

use super::error::{Error, invalid};

const MAX_TEXT: usize = 200;
const MAX_REQUEST_ID: usize = 64;

/// The paths of an update mask, each of which must be allowed.
pub(super) fn mask<'a>(mask: Option<&'a FieldMask>, allowed: &[&str]) -> Result<Vec<&'a str>, Error> {
    let paths: Vec<_> = mask.into_iter().flat_map(|mask| &mask.paths).map(String::as_str).collect();
    if paths.is_empty() {
        return Err(invalid("update_mask", format!("must name the fields to change: {}", allowed.join(", "))));
    }
    match paths.iter().position(|path| !allowed.contains(path)) {
        // The path itself is the caller's text; its index identifies it.
        Some(index) => Err(invalid(
            format!("update_mask.paths[{index}]"),
            format!("\"{}\" cannot be changed; allowed: {}", display_text(paths[index]), allowed.join(", ")),
        )),
        None => Ok(paths),
    }
}

/// A short and sanitised form of the caller's text, for error messages.
fn display_text(text: &str) -> String {
    text.chars().take(50).flat_map(char::escape_default).collect()
}

/// A display name; the id if it is empty.
pub(super) fn display_name(field: &'static str, text: &str, id: &str) -> Result<String, Error> {
    if text.len() > MAX_TEXT {
        return Err(invalid(field, format!("has {} bytes; at most {MAX_TEXT} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "must not contain control characters"));
    }
    Ok(if text.is_empty() { id } else { text }.to_owned())
}

/// A request id; `None` if it is empty.
pub(super) fn request_id(text: &str) -> Result<Option<&str>, Error> {
    if text.len() > MAX_REQUEST_ID {
        return Err(invalid("request_id", format!("has {} bytes; at most {MAX_REQUEST_ID} are allowed", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("request_id", "must not contain control characters"));
    }
    Ok((!text.is_empty()).then_some(text))
}

pub(super) fn timestamp(time: std::time::SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Classify as _;

    #[test]
    fn an_unknown_mask_path_is_reported() {
        let given = FieldMask { paths: vec!["plan".into(), "state\n".into()] };
        let error = mask(Some(&given), &["display_name", "plan"]).expect_err("refused");
        assert_eq!(error.field().as_deref(), Some("update_mask.paths[1]"));
        assert!(error.message().contains("state\\n"));
        assert!(mask(None, &["plan"]).is_err());
        assert_eq!(mask(Some(&FieldMask { paths: vec!["plan".into()] }), &["plan"]).expect("a mask"), ["plan"]);
    }
}
