//! Paging of lists. A page token is the last key of the previous page in base64. It only determines where the next
//! page starts and grants no access.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::Failure;

const DEFAULT: u32 = 100;
const MAX: u32 = 1_000;

/// A requested page: its size, and the key after which it starts.
pub(super) struct Page<K> {
    size: u32,
    pub(super) after: Option<K>,
}

impl<K> Page<K> {
    /// # Errors
    /// When the size is out of range or the token does not belong to this list.
    pub(super) fn parse<E>(size: i32, token: &str, parse: impl FnOnce(&str) -> Result<K, E>) -> Result<Self, Failure> {
        let size = match u32::try_from(size) {
            Ok(0) => DEFAULT,
            Ok(size) if size <= MAX => size,
            _ => return Err(Failure::invalid("page_size", "must be 1 to 1,000, or 0 for 100")),
        };
        if token.is_empty() {
            return Ok(Self { size, after: None });
        }
        let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|key| String::from_utf8(key).ok());
        let after = key.and_then(|key| parse(&key).ok());
        let after =
            after.ok_or_else(|| Failure::invalid("page_token", "must be the next_page_token of the previous page"))?;
        Ok(Self { size, after: Some(after) })
    }

    /// The number of entries to read: one more than the page has, to detect whether there is a next page.
    pub(super) const fn limit(&self) -> u32 {
        self.size + 1
    }

    /// The page's size.
    pub(super) const fn size(&self) -> usize {
        self.size as usize
    }

    /// The token of the page that starts after this key.
    pub(super) fn token(key: String) -> String {
        URL_SAFE_NO_PAD.encode(key)
    }

    /// Truncates the entries to the page; returns the token of the next one, empty if there is none.
    pub(super) fn cut<T>(&self, entries: &mut Vec<T>, key: impl FnOnce(&T) -> String) -> String {
        let size = self.size as usize;
        if entries.len() <= size {
            return String::new();
        }
        entries.truncate(size);
        entries.last().map(|last| URL_SAFE_NO_PAD.encode(key(last))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TenantId;

    #[test]
    fn pages_follow_each_other_and_a_forged_token_is_refused() {
        let page = |size, token: &str| Page::parse(size, token, TenantId::parse);
        let first = page(2, "").expect("a page");
        let mut rows = vec!["aa".to_owned(), "bb".to_owned(), "cc".to_owned()];
        assert_eq!(first.limit(), 3);
        let token = first.cut(&mut rows, Clone::clone);
        assert_eq!(rows, ["aa", "bb"]);
        let second = page(2, &token).expect("a page");
        assert_eq!(second.after.as_ref().map(TenantId::as_str), Some("bb"));
        assert_eq!(second.cut(&mut vec!["cc".to_owned()], Clone::clone), "");
        for forged in ["!", "YQ", "AAAA", "YScgT1IgMT0x"] {
            let failure = page(2, forged).err().expect(forged);
            assert_eq!(failure.field.as_deref(), Some("page_token"), "{forged}");
        }
        for size in [-1, 1001, i32::MIN] {
            assert!(page(size, "").is_err(), "{size}");
        }
    }
}
