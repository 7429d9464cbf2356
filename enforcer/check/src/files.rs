//! Files that are read whole and written at once: whoever reads one sees all of it or none.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use enforcer_core::manifests::text_of;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 8 << 20;

/// Reads a file.
///
/// # Errors
///
/// If it cannot be read, is too large, or is no text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_BYTES} bytes")));
    }
    text_of(bytes).map_err(io::Error::other)
}

/// Writes a new file. A file that is there stays as it is.
///
/// # Errors
///
/// If it is there, or cannot be written.
pub(crate) fn write_new(path: &Path, text: &str) -> io::Result<()> {
    write_beside(path, text, |temporary| match fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            // A file system without links.
            fs::rename(temporary, path)
        }
        linked => linked,
    })
}

/// Writes a file, or another one in its place.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Behind a link is the file that is meant.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    write_beside(&path, text, |temporary| fs::rename(temporary, &path))
}

/// Writes a file with another name in the same folder, and gives it its name.
fn write_beside(path: &Path, text: &str, name: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    // A program that was killed may have left one.
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        name(&temporary)
    };
    let written = write();
    // With the name that people know, or after a failure, the other name is of no use.
    let _ = fs::remove_file(&temporary);
    written
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

    #[test]
    fn file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baseline.yaml");
        for text in ["first and long", "second"] {
            replace(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no other name is left");
        assert!(replace(&folder.path().join("missing/baseline.yaml"), "x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let [path, link] = ["file.yaml", "link.yaml"].map(|name| folder.path().join(name));
        fs::write(&path, "first").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "second").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    }
}
