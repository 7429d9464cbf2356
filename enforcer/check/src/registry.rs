//! Files with a registry: a table of ports and their users.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use enforcer_core::{
    check::registry::PortRegistry,
    manifests::{shown, text_of},
};

/// Largest registry that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// Reads a registry.
///
/// # Errors
///
/// The reason why there is none, safe to show.
pub(crate) fn read_registry(path: &Path) -> Result<PortRegistry, String> {
    let name = shown(path);
    let text = read_text(path).map_err(|error| {
        format!("cannot read the registry {name}: {error}; name one, or make one with --write-registry FILE")
    })?;
    PortRegistry::read(&text, &name.as_str().into()).map_err(|reason| {
        format!("{name} is no registry: {reason}; its form is in docs/check.md, and --write-registry FILE makes one")
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    text_of(bytes).map_err(io::Error::other)
}

/// Writes a new file at once: whoever reads it sees all of it or none. A file that is there stays as it is.
///
/// # Errors
///
/// If it is there, or cannot be written.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let temporary = temporary(path);
    let written = write(&temporary, path, text);
    // With the name that people know, or after a failure, the other name is of no use.
    let _ = fs::remove_file(&temporary);
    written
}

fn write(temporary: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            // A file system without links.
            fs::rename(temporary, path)
        }
        linked => linked,
    }
}

/// Returns a name beside the file that nobody else has.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.yaml");
        write_new(&path, "first").unwrap();
        let error = write_new(&path, "second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other name is left");
        assert!(write_new(&folder.path().join("missing/registry.yaml"), "x").is_err());
    }
}
