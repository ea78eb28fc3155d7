//! Tokens that commands keep in the user's cache folder, so that not every command makes the gateway check a secret,
//! which takes about 30 ms of a processor core.
//!
//! A file is readable by its owner only. Its name is a digest of the endpoint, the authority and the credentials, so a
//! token is used only by a command that has its secret. Secrets, and tokens that may administer, are never kept.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::pki;

/// A token that expires earlier is not used.
const MARGIN: Duration = Duration::from_secs(60);
/// Files that are older are deleted; no token of the gateway is valid for that long.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The file of the token that this command uses.
static IN_USE: OnceLock<PathBuf> = OnceLock::new();

/// The place of one client's token.
#[derive(Debug, Clone)]
pub(super) struct TokenCache {
    file: PathBuf,
}

impl TokenCache {
    /// `None` without a folder of the user, and for platform administrators.
    pub(super) fn of(endpoint: &str, ca: Option<&str>, client_id: &str, secret: &SecretString) -> Option<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Self::within(&folder, endpoint, ca, client_id, secret)
    }

    fn within(folder: &Path, endpoint: &str, ca: Option<&str>, client_id: &str, secret: &SecretString) -> Option<Self> {
        if !folder.is_absolute() || !client_id.contains('.') {
            return None;
        }
        let mut digest = Sha256::new();
        for part in [endpoint, ca.unwrap_or_default(), client_id, secret.expose_secret()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let name = URL_SAFE_NO_PAD.encode(digest.finalize());
        Some(Self { file: folder.join("warrengate/tokens").join(name) })
    }

    /// The token and its expiry, if it is valid for some time.
    pub(super) fn load(&self) -> Option<(SecretString, SystemTime)> {
        // A file or folder that others can change was not written by a command.
        for path in [self.file.as_path(), self.file.parent()?] {
            if fs::symlink_metadata(path).ok()?.permissions().mode() & 0o077 != 0 {
                return None;
            }
        }
        if !fs::symlink_metadata(&self.file).ok()?.is_file() {
            return None;
        }
        let token = fs::read_to_string(&self.file).ok()?;
        let expires = expiry(&claims(&token)?)?;
        if expires < SystemTime::now() + MARGIN {
            return None;
        }
        let _ = IN_USE.set(self.file.clone());
        Some((token.into(), expires))
    }

    /// Keeps a token, unless it may administer. Failures only cost time, so they are ignored.
    pub(super) fn store(&self, token: &SecretString) {
        let token = token.expose_secret();
        let Some(claims) = claims(token) else { return };
        // Unknown grants are treated like those that should not be kept.
        let administers = claims["wg_grants"]["a"].as_bool();
        let is_plain = claims["wg_grants"].is_object() && !administers.unwrap_or_default();
        let Some(folder) = self.file.parent().filter(|_| is_plain && expiry(&claims).is_some()) else { return };
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        if created.is_ok() && pki::write_secret(&self.file, token).is_ok() {
            remove_old(folder);
        }
    }

    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Removes the cached token that this command used. A command that failed may have failed because of it, for example
/// because grants were added since.
pub(super) fn forget() {
    if let Some(file) = IN_USE.get() {
        let _ = fs::remove_file(file);
    }
}

fn remove_old(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > MAX_AGE)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn claims(token: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn expiry(claims: &Value) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(claims["exp"].as_u64()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(claims: &Value) -> SecretString {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string())).into()
    }

    fn seconds_from_now(seconds: u64) -> u64 {
        (SystemTime::now() + Duration::from_secs(seconds)).duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
    }

    #[test]
    fn a_token_is_found_with_the_same_credentials_only_and_until_it_expires() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = |endpoint: &str, client: &str, secret: &str| {
            TokenCache::within(folder.path(), endpoint, Some("pem"), client, &secret.to_owned().into())
        };
        let own = cache("https://a", "acme.app", "s").expect("a place");
        assert!(own.load().is_none());
        own.store(&token(&json!({"exp": seconds_from_now(600), "wg_grants": {"s": ["#"]}})));
        assert!(own.load().is_some());
        for (endpoint, client, secret) in
            [("https://b", "acme.app", "s"), ("https://a", "acme.ap", "ps"), ("https://a", "acme.app", "t")]
        {
            assert!(cache(endpoint, client, secret).expect("a place").load().is_none(), "{endpoint} {client}");
        }
        own.store(&token(&json!({"exp": seconds_from_now(30), "wg_grants": {"s": ["#"]}})));
        assert!(own.load().is_none(), "it expires soon");
        assert!(cache("https://a", "admin", "s").is_none(), "a platform administrator");
    }

    #[test]
    fn tokens_that_administer_are_not_kept_and_files_that_others_can_read_are_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = "s".to_owned().into();
        let cache = TokenCache::within(folder.path(), "https://a", None, "acme.app", &secret).expect("a place");
        let exp = seconds_from_now(600);
        for refused in [
            json!({"exp": exp, "wg_grants": {"a": true}}),
            json!({"exp": exp}),
            json!({"exp": "soon", "wg_grants": {}}),
        ] {
            cache.store(&token(&refused));
            assert!(!cache.file.exists(), "{refused}");
        }
        cache.store(&token(&json!({"exp": exp, "wg_grants": {}})));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let parent = cache.file.parent().expect("a folder");
        assert_eq!((mode(&cache.file), mode(parent)), (0o600, 0o700));
        assert!(cache.load().is_some());
        fs::set_permissions(&cache.file, fs::Permissions::from_mode(0o640)).expect("changed");
        assert!(cache.load().is_none());
        fs::set_permissions(&cache.file, fs::Permissions::from_mode(0o600)).expect("changed");
        fs::set_permissions(parent, fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(cache.load().is_none());
    }
}
