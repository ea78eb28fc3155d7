//! The stylesheet, the script and the icon, compiled into the program.
//!
//! Their addresses contain a hash of their content, so that browsers may keep them and never use an old one.

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

const CSS: &str = include_str!("assets/console.css");
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// FNV-1a is sufficient: the hash only has to differ between versions.
const fn hash(texts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut text = 0;
    while text < texts.len() {
        let bytes = texts[text].as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
            at += 1;
        }
        text += 1;
    }
    hash
}

const VERSION: u64 = hash(&[CSS, SCRIPT, ICON]);

/// The address of an asset.
pub(super) fn address(name: &str) -> String {
    format!("/assets/{VERSION:016x}/{name}")
}

pub(super) async fn serve(Path((_, name)): Path<(String, String)>) -> Response {
    let (kind, content) = match name.as_str() {
        "console.css" => ("text/css; charset=utf-8", CSS),
        "console.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, content).into_response()
}

/// Browsers request it before they have read the page that names the icon.
pub(super) async fn icon() -> Response {
    ([(header::CONTENT_TYPE, "image/svg+xml")], ICON).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stylesheet_and_the_script_are_small_and_load_nothing() {
        assert!(CSS.len() < 20 * 1024, "{}", CSS.len());
        assert!(SCRIPT.len() < 15 * 1024, "{}", SCRIPT.len());
        for text in [CSS, SCRIPT] {
            for forbidden in ["http:", "https:", "@import", "url(", "innerHTML", "eval("] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
        }
    }
}
