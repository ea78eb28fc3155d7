//! The provisioner's account at the broker: a password file, and a definitions file that RabbitMQ loads when it starts.
//!
//! Invariant: the two files are consistent, and the definitions contain only a salted hash of the password.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::Rng as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Error, PROVISIONER, write_secret};

/// The password's file in the certificate folder.
pub const PASSWORD_FILE: &str = "provisioner.password";
/// The definitions' file in the certificate folder; `rabbitmq.conf` loads it.
pub const DEFINITIONS_FILE: &str = "definitions.json";

const ALGORITHM: &str = "rabbit_password_hashing_sha256";

/// The provisioner's account: an administrator in the management API, without permissions on the data plane.
pub struct Account {
    password: SecretString,
    definitions: PathBuf,
}

impl Account {
    /// Reads the account of a certificate folder, and creates or repairs what is missing. The broker applies the
    /// definitions at its next start and keeps all its other objects.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn ensure(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(PASSWORD_FILE);
        let password = match fs::read_to_string(&path) {
            // While the password is being changed, the previous one is in the second line.
            Ok(text) => match text.lines().find(|line| !line.trim().is_empty()) {
                Some(line) => SecretString::from(line.trim().to_owned()),
                None => Self::create(&path)?,
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(&path)?,
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        let definitions = folder.join(DEFINITIONS_FILE);
        if !fs::read(&definitions).is_ok_and(|text| contains(&text, &password)) {
            write_secret(&definitions, &format!("{:#}\n", account(&password)))?;
        }
        Ok(Self { password, definitions })
    }

    fn create(path: &Path) -> Result<SecretString, Error> {
        let password = new_password();
        write_secret(path, &format!("{password}\n"))?;
        Ok(password.into())
    }

    /// Starts a password change: the new password is added to the file before the current one, and the definitions get
    /// the hash of the new one. Readers of the file try both. Calling it again continues the same change.
    ///
    /// # Errors
    /// When the folder has no account, or cannot be written.
    pub fn offer(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(PASSWORD_FILE);
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(Error::file("read", &path))?);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if let [last] = lines[..] {
            let next = Zeroizing::new(new_password());
            write_secret(&path, &Zeroizing::new(format!("{}\n{last}\n", *next)))?;
        }
        Self::ensure(folder)
    }

    /// Completes the change: only the new password remains in the file.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn settle(&self) -> Result<(), Error> {
        let path = self.definitions.with_file_name(PASSWORD_FILE);
        write_secret(&path, &Zeroizing::new(format!("{}\n", self.password.expose_secret())))
    }

    /// The password's salted hash in the definitions.
    ///
    /// # Errors
    /// When the definitions cannot be read.
    pub fn hash(&self) -> Result<String, Error> {
        let text = fs::read(&self.definitions).map_err(Error::file("read", &self.definitions))?;
        let found: Value = serde_json::from_slice(&text).unwrap_or_default();
        Ok(found["users"][0]["password_hash"].as_str().unwrap_or_default().to_owned())
    }

    /// The password for the management HTTP API.
    pub fn password(&self) -> &SecretString {
        &self.password
    }

    /// The definitions' file.
    pub fn definitions(&self) -> &Path {
        &self.definitions
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("definitions", &self.definitions).finish_non_exhaustive()
    }
}

fn new_password() -> String {
    URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>())
}

fn account(password: &SecretString) -> Value {
    json!({
        "users": [{
            "name": PROVISIONER,
            "password_hash": hash(rand::rng().random(), password),
            "hashing_algorithm": ALGORITHM,
            "tags": ["administrator"],
            "limits": {},
        }],
        "vhosts": [],
        "permissions": [],
    })
}

/// RabbitMQ's format: base64 of four bytes of salt and the SHA-256 of salt and password. The password has 256 random
/// bits, so that a slow hash is not needed.
fn hash(salt: [u8; 4], password: &SecretString) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(password.expose_secret()).finalize();
    STANDARD.encode([&salt[..], &digest[..]].concat())
}

fn contains(definitions: &[u8], password: &SecretString) -> bool {
    let Ok(found) = serde_json::from_slice::<Value>(definitions) else { return false };
    let user = &found["users"][0];
    let Some(stored) = user["password_hash"].as_str() else { return false };
    let salt = STANDARD.decode(stored).ok().and_then(|bytes| bytes.first_chunk::<4>().copied());
    user["name"] == PROVISIONER && salt.is_some_and(|salt| hash(salt, password) == stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_kept_and_its_definitions_match_its_password() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Account::ensure(folder.path()).expect("made");
        let written = fs::read_to_string(first.definitions()).expect("read");
        assert!(!written.contains(first.password().expose_secret()), "a hash only");
        let second = Account::ensure(folder.path()).expect("kept");
        assert_eq!(first.password().expose_secret(), second.password().expose_secret());
        assert_eq!(fs::read_to_string(second.definitions()).expect("read"), written);

        fs::write(folder.path().join(PASSWORD_FILE), "another\n").expect("written");
        let third = Account::ensure(folder.path()).expect("repaired");
        assert!(contains(&fs::read(third.definitions()).expect("read"), third.password()));
        assert!(!contains(&fs::read(third.definitions()).expect("read"), first.password()));
    }

    #[test]
    fn during_a_password_change_the_file_has_both_passwords_and_the_definitions_the_new_hash() {
        let folder = tempfile::tempdir().expect("folder");
        let old = Account::ensure(folder.path()).expect("made");
        let text = || fs::read_to_string(folder.path().join(PASSWORD_FILE)).expect("read");
        let new = Account::offer(folder.path()).expect("offered");
        let again = Account::offer(folder.path()).expect("the change continues");
        let (old, new_password) = (old.password().expose_secret(), new.password().expose_secret());
        assert!(old != new_password && new_password == again.password().expose_secret());
        assert_eq!(text(), format!("{new_password}\n{old}\n"));
        assert!(contains(&fs::read(new.definitions()).expect("read"), new.password()));
        assert!(!new.hash().expect("read").is_empty());
        new.settle().expect("settled");
        assert_eq!(text(), format!("{new_password}\n"));
        assert_eq!(Account::ensure(folder.path()).expect("kept").password().expose_secret(), new_password);
    }

    #[test]
    fn the_hash_has_the_format_that_rabbitmq_documents() {
        // https://www.rabbitmq.com/docs/passwords#computing-password-hash
        let hash = hash([0x90, 0x8d, 0xc6, 0x0a], &"test12".to_owned().into());
        assert_eq!(hash, "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    }
}
