//! `net.ipv4.ip_local_reserved_ports` of the network namespace that the calling thread is in: carries out what
//! [`enforcer_core::reserved_ports`] plans.
//!
//! What is ours is remembered in a file, written before the kernel's list is touched. The memory counts for this boot and
//! this network namespace only: any other list of reserved ports never saw us. Every call takes a lock on the folder and
//! starts from what is on disk and in the kernel, so that two agents (an update, `enforcer cleanup`) do not get into
//! each other's way.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    ops::RangeInclusive,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use enforcer_core::reserved_ports::{PortSet, RememberedPorts, Step, plan};

use crate::host::netns;

/// Root of the sysctls, unless somebody says otherwise.
pub const PROC_SYS: &str = "/proc/sys";
/// Folder of the memory of what is ours, unless somebody says otherwise.
pub const DEFAULT_FOLDER: &str = "/run/port-enforcer";

const LIST: &str = "net/ipv4/ip_local_reserved_ports";
/// Path of the ephemeral ports. At its own place, wherever the list can be written to: what is only read is there for
/// everybody.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// Path of the boot's id, likewise at its own place.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MEMORY: &str = "reserved-ports.json";
/// Name of the file that becomes the memory once it is written.
const NEXT: &str = "reserved-ports.json.next";
/// Room for the longest list there is: every second port, six bytes each, is 192 KiB. The kernel gives a list in one
/// read or cuts it.
const BUFFER_BYTES: usize = 256 << 10;
/// Position anywhere but at the beginning: the kernel adds what is written there.
const NOT_AT_THE_BEGINNING: u64 = 1;
/// Number of times that the list may change under our hands before we give up.
const ATTEMPTS: u32 = 8;

/// Reason why the reserved ports are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// A file below `/proc/sys` cannot be read.
    #[error("cannot read {}: {source}; name the root of the node's sysctls with --proc-sys", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// A file below `/proc/sys` holds something else than the kernel writes there.
    #[error("{} does not hold what was expected: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Fault of the content.
        why: String,
    },
    /// The list cannot be written.
    #[error(
        "cannot write {}: {source}; run this as root and, in a container, mount the node's {PROC_SYS}/{LIST} where it can \
         be written to and name the root of that with --proc-sys, or turn this off with --manage-reserved-ports=false",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// The ports to be added cannot be remembered, so nothing was added.
    #[error(
        "cannot remember in {} which ports were reserved, so none is: {source}; make room there, or name another folder \
         with --state-dir",
        path.display()
    )]
    Memory {
        /// The file or its folder.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// Somebody else keeps changing the list.
    #[error("{} was changed by another program each of {ATTEMPTS} times; it is tried again with the next change", .0.display())]
    Busy(PathBuf),
}

/// Result of a change to the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Ports reserved because of us.
    pub ours: u32,
    /// Number of those that are new.
    pub added: u32,
    /// Number of ports that are not reserved by us any more.
    pub removed: u32,
    /// Ports that are not reserved, because half of the ephemeral ports that others left free are.
    pub left_out: PortSet,
    /// The memory could not be read, and why: what an earlier agent reserved stays until the node reboots.
    pub forgotten: Option<String>,
}

/// The list, and the memory of what in it is ours.
#[derive(Clone, Debug)]
pub struct ReservedPorts {
    proc_sys: PathBuf,
    folder: PathBuf,
}

/// The file in the folder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    boot_id: String,
    netns_cookie: Option<u64>,
    ours: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    others: Option<String>,
}

impl ReservedPorts {
    /// Takes the root of the sysctls ([`PROC_SYS`]; of what is below it, only the list is used) and the folder for the
    /// memory, which is made when there is something to remember. The folder should be gone after a reboot (below
    /// `/run`) or may stay.
    #[must_use]
    pub fn new(proc_sys: &Path, folder: &Path) -> Self {
        Self { proc_sys: proc_sys.to_owned(), folder: folder.to_owned() }
    }

    /// Reserves these ports, in order of preference, and lets go of what was reserved earlier and is not among them.
    /// Entries of others stay as they are.
    ///
    /// # Errors
    ///
    /// If something cannot be read or written; what was done until then is remembered, and the next call goes on.
    pub fn sync(&self, wanted: &[u16]) -> Result<Synced, SysctlError> {
        if wanted.is_empty() && !self.remembers() {
            return Ok(Synced::default());
        }
        let _lock = self.lock()?;
        self.run(wanted, false)
    }

    /// Reserves these ports too, in order of preference, and lets go of none.
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub fn add(&self, wanted: &[u16]) -> Result<Synced, SysctlError> {
        if wanted.is_empty() && !self.remembers() {
            return Ok(Synced::default());
        }
        let _lock = self.lock()?;
        self.run(wanted, true)
    }

    /// Takes everything of ours out of the list, and removes the memory.
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub fn cleanup(&self) -> Result<Synced, SysctlError> {
        if !self.remembers() {
            return Ok(Synced::default());
        }
        let _lock = self.lock()?;
        let done = self.run(&[], false)?;
        for path in self.files() {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SysctlError::Memory { path, source });
                }
                _ => {}
            }
        }
        Ok(done)
    }

    fn files(&self) -> [PathBuf; 2] {
        [MEMORY, NEXT].map(|name| self.folder.join(name))
    }

    /// Checks whether there is anything that could be ours. Where there is not, nothing is locked, read or made.
    fn remembers(&self) -> bool {
        self.files().iter().any(|path| path.exists())
    }

    /// Tries until the list does not change meanwhile. To be called with the lock. `keep`: what is ours stays so.
    fn run(&self, wanted: &[u16], keep: bool) -> Result<Synced, SysctlError> {
        let mut total = Synced::default();
        for _ in 0..ATTEMPTS {
            if self.attempt(wanted, keep, &mut total)? {
                return Ok(total);
            }
        }
        Err(SysctlError::Busy(self.proc_sys.join(LIST)))
    }

    /// Tries once; `false` if the list changed meanwhile.
    fn attempt(&self, wanted: &[u16], keep: bool, total: &mut Synced) -> Result<bool, SysctlError> {
        let identity = self.identity()?;
        let memory = self.recall(&identity, &mut total.forgotten)?;
        let mut expected = self.list()?;
        let mut wanted = wanted.to_vec();
        if keep {
            wanted.extend(memory.ours.iter());
        }
        let plan = plan(&expected, &memory, &wanted, &self.ephemeral()?);
        total.ours = plan.ours.len();
        total.left_out = plan.left_out;
        for step in plan.steps {
            match step {
                Step::Remember(memory) => self.remember(&identity, &memory)?,
                Step::Add(text) => {
                    self.write(&text, NOT_AT_THE_BEGINNING)?;
                    expected = expected.or(&self.parse(&text)?);
                }
                Step::Replace(text) => {
                    // Between the look and the write, an edit by somebody else would be lost: keep them close.
                    if self.list()? != expected {
                        return Ok(false);
                    }
                    self.write(&text, 0)?;
                    expected = self.parse(&text)?;
                }
            }
        }
        let missing = plan.after.without(&self.list()?);
        if missing.is_empty() {
            total.added += plan.added.len();
            total.removed += plan.removed.len();
        }
        Ok(missing.is_empty())
    }

    fn lock(&self) -> Result<File, SysctlError> {
        let failed = |source| SysctlError::Memory { path: self.folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed)?;
        let folder = File::open(&self.folder).map_err(failed)?;
        flock(&folder, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        Ok(folder)
    }

    fn read(&self, name: &str) -> Result<String, SysctlError> {
        let path = self.proc_sys.join(name);
        let failed = |source| SysctlError::Read { path: path.clone(), source };
        let mut text = vec![0; BUFFER_BYTES];
        // One read, see ROOM.
        let length = File::open(&path).and_then(|mut file| file.read(&mut text)).map_err(failed)?;
        text.truncate(length);
        let whole = |text: &String| text.ends_with('\n');
        String::from_utf8(text)
            .ok()
            .filter(whole)
            .ok_or_else(|| SysctlError::Content { path: path.clone(), why: "it does not end with a line".to_owned() })
    }

    fn list(&self) -> Result<PortSet, SysctlError> {
        self.parse(&self.read(LIST)?)
    }

    fn parse(&self, text: &str) -> Result<PortSet, SysctlError> {
        PortSet::parse(text)
            .map_err(|error| SysctlError::Content { path: self.proc_sys.join(LIST), why: error.to_string() })
    }

    /// Reads the ports from which the kernel takes one for `bind` to port 0 and for `connect`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or holds something else.
    pub fn ephemeral(&self) -> Result<RangeInclusive<u16>, SysctlError> {
        let text = self.read(EPHEMERAL)?;
        let mut numbers = text.split_ascii_whitespace().map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last)), None) => Ok(first..=last),
            _ => Err(SysctlError::Content {
                path: self.proc_sys.join(EPHEMERAL),
                why: "two port numbers are expected".to_owned(),
            }),
        }
    }

    /// Writes as one `write`, which must take everything.
    fn write(&self, text: &str, position: u64) -> Result<(), SysctlError> {
        let path = self.proc_sys.join(LIST);
        let file = OpenOptions::new().write(true).open(&path);
        let taken = file.and_then(|file| file.write_at(text.as_bytes(), position));
        match taken {
            Ok(length) if length == text.len() => Ok(()),
            Ok(length) => {
                let source = io::Error::other(format!("the kernel took {length} of {} bytes", text.len()));
                Err(SysctlError::Write { path, source })
            }
            Err(source) => Err(SysctlError::Write { path, source }),
        }
    }

    /// Identifies the list that the memory is of: returns an empty memory without a port.
    fn identity(&self) -> Result<Stored, SysctlError> {
        let netns_cookie = netns::cookie()
            .map_err(|source| SysctlError::Read { path: PathBuf::from("/proc/thread-self/ns/net"), source })?;
        let boot_id = self.read(BOOT_ID)?.trim().to_owned();
        Ok(Stored { boot_id, netns_cookie, ours: String::new(), others: None })
    }

    fn recall(&self, identity: &Stored, forgotten: &mut Option<String>) -> Result<RememberedPorts, SysctlError> {
        let path = self.folder.join(MEMORY);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RememberedPorts::default()),
            Err(source) => return Err(SysctlError::Memory { path, source }),
        };
        let memory = serde_json::from_str::<Stored>(&text).map_err(|error| error.to_string()).and_then(|stored| {
            if (&stored.boot_id, stored.netns_cookie) != (&identity.boot_id, identity.netns_cookie) {
                return Ok(RememberedPorts::default());
            }
            let parse = |text: &str| PortSet::parse(text).map_err(|error| error.to_string());
            Ok(RememberedPorts { ours: parse(&stored.ours)?, others: stored.others.as_deref().map(parse).transpose()? })
        });
        Ok(memory.unwrap_or_else(|why| {
            *forgotten = Some(format!("{} is damaged ({why})", path.display()));
            RememberedPorts::default()
        }))
    }

    /// Writes the memory: either the old or the new one is there after a crash, and the new one once this returned.
    fn remember(&self, identity: &Stored, memory: &RememberedPorts) -> Result<(), SysctlError> {
        let path = self.folder.join(MEMORY);
        let stored = Stored {
            boot_id: identity.boot_id.clone(),
            netns_cookie: identity.netns_cookie,
            ours: memory.ours.to_string(),
            others: memory.others.as_ref().map(PortSet::to_string),
        };
        let write = || {
            let next = self.folder.join(NEXT);
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&next)?;
            file.write_all(serde_json::to_string(&stored)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source: io::Error| SysctlError::Memory { path: path.clone(), source })
    }
}
