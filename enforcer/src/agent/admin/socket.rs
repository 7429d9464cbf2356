//! The file of a unix socket that only its owner can open, at any time.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::UnixListener;

/// Error of making the socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// Another process listens there.
    #[error("another process, an agent presumably, listens there")]
    Taken,
    /// Another file has the path and is left alone.
    #[error("there is something that is no socket")]
    NoSocket,
    /// The system refused something.
    #[error("cannot {0}: {1}")]
    Refused(&'static str, io::Error),
}

/// The file. It is removed when this is dropped, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at the path. Replaces the socket of a process that has ended.
    ///
    /// The socket is made in a folder that is the owner's alone and moved to its place when it has its mode: `bind`
    /// makes it with the mode that the process's umask leaves, and to change that for a moment would change it for
    /// every thread.
    pub(super) fn listen(path: &Path) -> Result<(UnixListener, Self), SocketError> {
        let refused = |what| move |error| SocketError::Refused(what, error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(refused("make its folder"))?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NoSocket),
            Ok(_) if is_alive(path).map_err(refused("try to connect"))? => return Err(SocketError::Taken),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SocketError::Refused("read its metadata", error));
            }
            _ => {}
        }
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", process::id()));
        let private = Private::new(folder.join(name)).map_err(refused("make a private folder beside it"))?;
        let new = private.0.join("s");
        let listener = UnixListener::bind(&new).map_err(refused("bind it"))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(refused("set its mode"))?;
        let identity = identity(&new).map_err(refused("read its metadata"))?;
        fs::rename(&new, path).map_err(refused("move it to its place"))?;
        Ok((listener, Self { path: path.to_owned(), identity }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).ok() == Some(self.identity) {
            // If it cannot be removed, the next agent replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Checks whether a process listens at the socket. Does not wait for it.
fn is_alive(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        // Its queue is full, so a process listens.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A folder of mode 0700 that is removed again.
struct Private(PathBuf);

impl Private {
    fn new(path: PathBuf) -> io::Result<Self> {
        // An agent with the same process id may have been killed half-way, as in a container where it is always 1.
        drop(Self(path.clone()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}
