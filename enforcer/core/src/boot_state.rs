//! Boot state: what was in force on a node, as bytes that outlive a reboot.
//!
//! The agent writes them to the disk, and `enforcer restore` reads them before the kubelet has started anything. The
//! bytes are one line that says what follows, then JSON in the form of `boot_state/file.rs`:
//!
//! ```text
//! port-enforcer boot-state 1 <digest of the rest, 32 hex digits> <length of the rest in bytes>
//! ```
//!
//! Times of day are kept, never times since boot: those of the last boot mean nothing in this one.

mod file;
#[cfg(test)]
mod tests;

use std::time::Duration;

use enforcer_ebpf::wire::{MAX_OWNERS, Policy, Undeclared};

use crate::{
    index::Settings,
    model::{digest::Digest, now::Now, port_spec::PortSpec, text::escape},
    plan::recover::RecoveredOwner,
};

/// Version of the form that this agent writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// Most bytes of a boot state. A node with 5,000 pods has 1.4 MB.
pub const MAX_BYTES: usize = 16 << 20;
/// First words of the first line.
const MAGIC: &str = "port-enforcer boot-state ";
/// Most bytes of the first line.
const MAX_HEADER: usize = 96;
/// Time by which the clock of a node may be behind the state's: without a clock that a battery keeps running, a node
/// begins with the time that was saved last.
const CLOCK_TOLERANCE: Duration = Duration::from_mins(5);

/// What was in force on a node.
#[derive(Clone, Debug)]
pub struct BootState {
    /// Node and boot that it is of.
    pub origin: Origin,
    /// Time of day at which it was written, in microseconds since 1970: until then an agent vouched for it.
    pub written: i64,
    /// Time for which it denies after that; `None` for ever.
    pub lease: Option<Duration>,
    /// Path of the attached cgroup below the root of the hierarchy; empty for the root itself.
    pub cgroup: String,
    /// Policy of the programs.
    pub policy: Policy,
    /// Ports that any process may share.
    pub shared_ports: Vec<PortSpec>,
    /// Claimed ports are kept from outgoing connections.
    pub reserves_ports: bool,
    /// Rules for claims: those on which [`Index::restore`](crate::index::Index::restore) depends. Others are the
    /// defaults when they are read.
    pub settings: Settings,
    /// Owners with their claims in force. Without cgroups: those of the last boot are gone.
    pub owners: Vec<RecoveredOwner>,
}

/// Node and boot of a boot state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name of the node, for people.
    pub node: String,
    /// Id of the machine (`/etc/machine-id`); `None` where there is none.
    pub machine: Option<String>,
    /// Id of the boot (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

/// Reason why bytes are no boot state. Each completes the sentence that begins with the name of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootStateError {
    /// Something else wrote it.
    #[error("is no boot state of port-enforcer")]
    Foreign,
    /// It is of another version of the agent.
    #[error("has the form of version {0}, and this program reads version {VERSION}")]
    Version(u64),
    /// It is larger than any that an agent writes.
    #[error("is larger than {MAX_BYTES} bytes, which no agent writes")]
    TooLarge,
    /// A part is missing, or there is more than there should be.
    #[error("is damaged: it should have {expected} bytes after its first line, and has {found}")]
    Length {
        /// Bytes that the first line tells.
        expected: u64,
        /// Bytes that are there.
        found: usize,
    },
    /// A byte is not as it was written.
    #[error("is damaged: its checksum is wrong")]
    Checksum,
    /// A field is not as an agent writes it. The text is safe to show.
    #[error("has content that no agent writes: {0}")]
    Content(String),
}

/// Reason why a boot state is not to be restored, although it is whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It was written since the node started: what was in force then ended by other means than a reboot.
    #[error("was written since this node started")]
    SameBoot,
    /// It is of another machine, as after a disk was copied.
    #[error("is of another machine: node {node}")]
    OtherMachine {
        /// Name of that node, safe to show.
        node: String,
    },
    /// No agent has vouched for it for longer than its lease.
    #[error("is stale: it was written {} ago, and its lease was {}", seconds(.age), seconds(.lease))]
    Stale {
        /// Time since it was written.
        age: Duration,
        /// Its lease.
        lease: Duration,
    },
    /// The node's clock shows a time before it was written, so that its age is unknown.
    #[error("is of unknown age: the clock of this node is {} behind its time", seconds(.0))]
    Future(Duration),
}

fn seconds(time: &Duration) -> String {
    format!("{} s", time.as_secs())
}

impl BootState {
    /// Returns the bytes; `None` if there are more than [`MAX_BYTES`].
    #[must_use]
    pub fn encode(&self, now: Now) -> Option<Vec<u8>> {
        let content = file::Content::of(self, now);
        let json = serde_json::to_vec(&content).ok()?;
        let mut bytes = format!("{MAGIC}{VERSION} {:?} {}\n", Digest::of_bytes(&json), json.len()).into_bytes();
        bytes.extend_from_slice(&json);
        (bytes.len() <= MAX_BYTES).then_some(bytes)
    }

    /// Reads bytes. `now` is when the state is to be in force again.
    ///
    /// # Errors
    ///
    /// If an agent of this version does not write such bytes.
    pub fn decode(bytes: &[u8], now: Now) -> Result<Self, BootStateError> {
        if bytes.len() > MAX_BYTES {
            return Err(BootStateError::TooLarge);
        }
        let head = &bytes[..bytes.len().min(MAX_HEADER)];
        let end = head.iter().position(|byte| *byte == b'\n').ok_or(BootStateError::Foreign)?;
        let line = std::str::from_utf8(&head[..end]).ok().and_then(|line| line.strip_prefix(MAGIC));
        let mut words = line.ok_or(BootStateError::Foreign)?.split(' ');
        let version: u64 = words.next().and_then(|word| word.parse().ok()).ok_or(BootStateError::Foreign)?;
        if version != u64::from(VERSION) {
            return Err(BootStateError::Version(version));
        }
        let (Some(digest), Some(length), None) = (words.next(), words.next(), words.next()) else {
            return Err(BootStateError::Checksum);
        };
        let expected: u64 = length.parse().map_err(|_| BootStateError::Checksum)?;
        let json = &bytes[end + 1..];
        if expected != json.len() as u64 {
            return Err(BootStateError::Length { expected, found: json.len() });
        }
        if digest != format!("{:?}", Digest::of_bytes(json)) {
            return Err(BootStateError::Checksum);
        }
        let content: file::Content =
            serde_json::from_slice(json).map_err(|error| BootStateError::Content(escape(&error.to_string())))?;
        if content.owners.len() > MAX_OWNERS as usize {
            return Err(BootStateError::Content("too many owners".to_owned()));
        }
        content.state(now).map_err(|field| BootStateError::Content(format!("its {field}")))
    }

    /// Checks whether it may be in force again on this machine, in this boot, at this time.
    ///
    /// # Errors
    ///
    /// If it may not. Nothing of it should be in force then.
    pub fn check(&self, machine: Option<&str>, boot: &str, now: Now) -> Result<(), Unfit> {
        if self.origin.machine.as_deref().zip(machine).is_some_and(|(own, this)| own != this) {
            return Err(Unfit::OtherMachine { node: escape(&self.origin.node) });
        }
        if self.origin.boot == boot {
            return Err(Unfit::SameBoot);
        }
        let between = |from: i64, to: i64| Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
        let (age, behind) = (between(self.written, now.wall), between(now.wall, self.written));
        if behind > CLOCK_TOLERANCE {
            return Err(Unfit::Future(behind));
        }
        match self.lease {
            Some(lease) if age >= lease => Err(Unfit::Stale { age, lease }),
            _ => Ok(()),
        }
    }

    /// Returns what is left of the lease; `None` is for ever. To be asked after [`Self::check`].
    #[must_use]
    pub fn remaining_lease(&self, now: Now) -> Option<Duration> {
        let age = Duration::from_micros(u64::try_from(now.wall.saturating_sub(self.written)).unwrap_or(0));
        self.lease.map(|lease| lease.saturating_sub(age))
    }

    /// Returns the policy until an agent comes. A pod that is new since then may have declared what it binds, so that
    /// no bind is denied because nobody declared it.
    #[must_use]
    pub fn policy_at_boot(&self) -> Policy {
        let undeclared = match self.policy.undeclared {
            Undeclared::Deny | Undeclared::Adopt => Undeclared::Adopt,
            Undeclared::Allow => Undeclared::Allow,
        };
        Policy { undeclared, report_attempts: false, ..self.policy }
    }
}
