//! Finds RabbitMQ and epmd on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::Error;

/// Where distributions and package managers install it.
const STANDARD_LOCATIONS: [&str; 5] =
    ["/usr/lib/rabbitmq", "/opt/homebrew/opt/rabbitmq", "/usr/local/opt/rabbitmq", "/opt/rabbitmq", "/usr/local"];
const EPMD: [&str; 5] = [
    "/usr/bin/epmd",
    "/usr/local/bin/epmd",
    "/opt/homebrew/bin/epmd",
    "/usr/lib/erlang/bin/epmd",
    "/usr/local/lib/erlang/bin/epmd",
];

/// A RabbitMQ on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    server: PathBuf,
    epmd: PathBuf,
}

impl Installation {
    /// Finds it at the given path (the folder that contains `sbin/` or `bin/`, the start script, or a script that ends
    /// in `exec … rabbitmq-server`), else where distributions install it, else in `PATH`.
    ///
    /// # Errors
    /// When it is not installed; the error explains how to install it.
    pub fn find(given: Option<&Path>) -> Result<Self, Error> {
        let server = match given {
            Some(path) => at(path).ok_or_else(|| Error::NoSuchInstallation(path.to_owned()))?,
            None => STANDARD_LOCATIONS
                .iter()
                .find_map(|path| at(Path::new(path)))
                .or_else(|| in_path("rabbitmq-server").as_deref().and_then(at))
                .ok_or(Error::NotInstalled)?,
        };
        Ok(Self { server, epmd: epmd().ok_or(Error::NoEpmd)? })
    }

    /// The script that starts the broker.
    pub fn server(&self) -> &Path {
        &self.server
    }

    /// The path of `rabbitmqctl`.
    pub(super) fn control(&self) -> PathBuf {
        self.server.with_file_name("rabbitmqctl")
    }

    /// Erlang's port mapper.
    pub(super) fn epmd(&self) -> &Path {
        &self.epmd
    }
}

fn at(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        let inside = ["sbin/rabbitmq-server", "bin/rabbitmq-server", "rabbitmq-server"];
        return inside.iter().map(|script| path.join(script)).find_map(|script| at(&script));
    }
    if !path.is_file() {
        return None;
    }
    // Debian's and Fedora's /usr/sbin/rabbitmq-server switches to the user rabbitmq and the system's paths, and refuses
    // other users. The original script is in the folder of the link's target.
    let real = fs::canonicalize(path).ok()?;
    if real.file_name()? == "rabbitmq-script-wrapper" {
        at(&real.with_file_name("rabbitmq-server"))
    } else {
        Some(real)
    }
}

fn epmd() -> Option<PathBuf> {
    let bundled = in_path("erl").and_then(|erl| fs::canonicalize(erl).ok()).map(|erl| erl.with_file_name("epmd"));
    in_path("epmd").into_iter().chain(bundled).chain(EPMD.iter().map(PathBuf::from)).find(|path| path.is_file())
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_installation_is_found_by_its_folder_its_script_or_a_distribution_wrapper() {
        let folder = tempfile::tempdir().expect("folder");
        let root = fs::canonicalize(folder.path()).expect("real");
        for inside in ["sbin", "lib/bin"] {
            fs::create_dir_all(root.join(inside)).expect("made");
        }
        let script = root.join("lib/bin/rabbitmq-server");
        fs::write(&script, "").expect("written");
        fs::write(script.with_file_name("rabbitmq-script-wrapper"), "").expect("written");
        symlink("../lib/bin/rabbitmq-script-wrapper", root.join("sbin/rabbitmq-server")).expect("linked");
        for given in [&root, &root.join("lib"), &script, &root.join("sbin/rabbitmq-server")] {
            assert_eq!(at(given).as_ref(), Some(&script), "{given:?}");
        }
        assert_eq!(at(&root.join("nowhere")), None);
    }

    #[test]
    fn a_wrong_path_is_named() {
        let error = Installation::find(Some(Path::new("/nowhere/at/all"))).expect_err("none");
        assert!(error.to_string().contains("/nowhere/at/all is not a RabbitMQ installation"));
    }
}
