//! `.warrengate/dev.env`, which `warrengate dev` writes: lines of `KEY=VALUE`.
//!
//! Only endpoints on this machine are accepted, so that a file in someone else's folder cannot send secrets elsewhere.

use std::{collections::HashMap, net::IpAddr, path::Path};

use super::Error;
use crate::pki;

/// Its path, relative to the working directory.
pub(super) const PATH: &str = ".warrengate/dev.env";
/// Its name.
#[cfg(feature = "dev")]
pub(super) const NAME: &str = "dev.env";

/// The settings of the development gateway.
#[derive(Clone, Default)]
pub(super) struct DevEnv(HashMap<String, String>);

impl DevEnv {
    /// The file's settings; `None` if it does not exist.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|why| Error::Usage(format!("{}: {why}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(format!("cannot read {}", path.display()))(error)),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut values = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| format!("line {} is not KEY=VALUE", number + 1))?;
            let value = value.trim();
            let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            values.insert(name.trim().to_owned(), quoted.unwrap_or(value).to_owned());
        }
        if let Some(endpoint) = values.get("WARRENGATE_ENDPOINT")
            && !is_loopback(endpoint)
        {
            return Err(format!("{endpoint} is not on this machine; the development gateway only runs locally"));
        }
        Ok(Self(values))
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Its identities, as `--as` names them.
    pub(super) fn identities(&self) -> Vec<String> {
        let name = |key: &String| Some(key.strip_prefix("WARRENGATE_")?.strip_suffix("_CLIENT_ID")?.to_lowercase());
        let mut names: Vec<String> = self.0.keys().filter_map(name).collect();
        names.sort();
        names
    }
}

/// Replaces a client's secret in the file of the working directory, if the file is this gateway's and has the client.
/// Returns whether it did.
pub(super) fn replace_secret(endpoint: &str, client_id: &str, secret: &str) -> Result<bool, Error> {
    replace_secret_in(Path::new(PATH), endpoint, client_id, secret)
}

fn replace_secret_in(path: &Path, endpoint: &str, client_id: &str, secret: &str) -> Result<bool, Error> {
    let Some(file) = DevEnv::read(path)? else { return Ok(false) };
    let has = |name: &String| {
        file.get(&format!("WARRENGATE_{}_CLIENT_ID", name.to_uppercase())).as_deref() == Some(client_id)
    };
    let name = file.identities().into_iter().find(has).map(|name| name.to_uppercase());
    let Some(name) = name.filter(|_| file.get("WARRENGATE_ENDPOINT").as_deref() == Some(endpoint)) else {
        return Ok(false);
    };
    let start = format!("WARRENGATE_{name}_CLIENT_SECRET=");
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("cannot read {}", path.display())))?;
    let line = |line: &str| if line.starts_with(&start) { format!("{start}{secret}\n") } else { format!("{line}\n") };
    let text: String = text.lines().map(line).collect();
    pki::write_secret(path, &text).map_err(|error| Error::Other(error.into()))?;
    Ok(true)
}

fn is_loopback(endpoint: &str) -> bool {
    let uri: Option<http::Uri> = endpoint.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).map(|host| host.trim_matches(['[', ']']));
    host.is_some_and(|host| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_comments_quotes_and_exports() {
        let text = "# made by warrengate dev\n\nexport WARRENGATE_ENDPOINT=https://127.0.0.1:8443\nWARRENGATE_CA=\"a b.pem\"\n\
                    WARRENGATE_ACME_CLIENT_ID=acme.app\nWARRENGATE_GLOBEX_CLIENT_ID='globex.app'\nEMPTY=\nX=a=b\n";
        let env = DevEnv::parse(text).expect("valid");
        assert_eq!(env.get("WARRENGATE_ENDPOINT").as_deref(), Some("https://127.0.0.1:8443"));
        assert_eq!(env.get("WARRENGATE_CA").as_deref(), Some("a b.pem"));
        assert_eq!((env.get("EMPTY"), env.get("X").as_deref()), (None, Some("a=b")));
        assert_eq!(env.identities(), ["acme", "globex"]);
        assert!(DevEnv::parse("nonsense").is_err());
    }

    #[test]
    fn a_file_with_a_remote_endpoint_is_refused() {
        for elsewhere in ["https://evil.example:8443", "https://10.0.0.1", "https://127.0.0.1@evil.example", "evil"] {
            assert!(DevEnv::parse(&format!("WARRENGATE_ENDPOINT={elsewhere}")).is_err(), "{elsewhere}");
        }
        for here in ["https://localhost:1", "https://[::1]:8443"] {
            assert!(DevEnv::parse(&format!("WARRENGATE_ENDPOINT={here}")).is_ok(), "{here}");
        }
    }
}
