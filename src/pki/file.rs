//! Atomic writing of files with certificates and keys.
//!
//! Invariant: a file has either its old or its new content, and a secret is never readable by others, not even while it
//! is written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rand::Rng as _;

use super::Error;

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Writes a secret atomically (a new file in the same folder, then a rename), with mode 0600 from the beginning.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, SECRET).map_err(Error::file("write", path))
}

/// The same for a file that everybody may read.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, PUBLIC).map_err(Error::file("write", path))
}

pub(super) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

/// Creates the folder, if necessary, for its owner only.
pub(super) fn make_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file("create", path))
}

/// Whether others than the owner may read the file.
pub(super) fn open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let temporary = folder.join(format!(".{}.{:016x}.tmp", name.to_string_lossy(), rand::rng().random::<u64>()));
    let written = fill(&temporary, text, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    // The rename must survive a power failure as well.
    File::open(folder)?.sync_all()
}

fn fill(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_readable_by_its_owner_only_even_if_the_file_was_open_before() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.key");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("opened");
        write_secret(&path, "new").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "no temporary file is left");
    }
}
