//! What the next agent must know of an owner beyond what the kernel's maps say, as one element of `RECORDS`.
//!
//! All integers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0–1 | version, [`VERSION`] |
//! | 2 | 1 the node, 2 a pod, 3 what is left of a pod |
//! | 3 | class: 1 node, 2 static, 3 system, 4 tenant |
//! | 4 | mode of the namespace where it overrides the node's: 0 none, 1 audit, 2 enforce |
//! | 5 | bits: 0 terminating, 1 terminal, 2 ended, 3 mirror, 4 has a group, 5 has a workload |
//! | 6 | the UID's form as its discriminant, 0 without a UID |
//! | 7 | zero |
//! | 8–15 | [`Record::since`] |
//! | 16–23 | end of the grace in nanoseconds since boot, 0 if it is none that is left |
//! | 24–39 | the UID |
//! | 40–55 | digest of the claims |
//! | 56–71 | digest of the share group |
//! | 72–87 | digest of the workload |
//! | 88–93 | lengths in bytes of namespace, name, and UID as text |
//! | 94–503 | these three, one after the other; the rest is zero |
//! | 504–511 | the first 64 bits of a SHA-256 of bytes 0–503 |

use std::time::Duration;

use enforcer_ebpf::wire::{OWNER_RECORD_BYTES, UidForm, UidKey};

use crate::model::{digest::Digest, mode::Mode, name::Name, owner::OwnerClass};

/// The version of the layout that is written and read here.
pub const VERSION: u16 = 1;
/// Where the checksum begins.
const CHECKSUM: usize = OWNER_RECORD_BYTES - 8;

const TERMINATING: u8 = 1;
const TERMINAL: u8 = 1 << 1;
const ENDED: u8 = 1 << 2;
const MIRROR: u8 = 1 << 3;
const HAS_GROUP: u8 = 1 << 4;
const HAS_WORKLOAD: u8 = 1 << 5;

/// The bytes of a record.
pub type RecordBytes = Box<[u8; OWNER_RECORD_BYTES]>;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRecord {
    /// What the owner is.
    pub subject: RecordedOwner,
    /// Its rank.
    pub class: OwnerClass,
    /// What it is called; all empty for the node.
    pub name: Name,
    /// Its share group.
    pub group: Option<Digest>,
    /// Its workload.
    pub workload: Option<Digest>,
    /// It is going.
    pub terminating: bool,
    /// Its namespace's mode, where that overrides the node's.
    pub mode: Option<Mode>,
    /// When the youngest of its claims arrived, in microseconds since 1970. It is the place in the queue of all its
    /// claims that are not in force: what is in force needs none, and no edit must win a better one by a restart.
    pub since: i64,
}

/// What an owner is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOwner {
    /// The node.
    Node,
    /// A pod.
    Pod {
        /// What ties it to its cgroup.
        key: UidKey,
        /// What it claims, in force or not.
        claims: Digest,
        /// `Succeeded` or `Failed`.
        terminal: bool,
        /// Its cgroup was there and went.
        ended: bool,
        /// It is a mirror pod that was accepted as a static pod, so that `key` is not its own UID.
        mirror: bool,
    },
    /// What is left of a pod that went.
    HandoverReservation {
        /// When it ends, on the clock that counts from boot.
        until: Duration,
    },
}

impl RecordedOwner {
    /// What the annotation `config.mirror` of a mirror pod says that was accepted: the UID of its static pod.
    fn mirrored(&self) -> Option<String> {
        match self {
            Self::Pod { key, mirror: true, .. } => Some(format!("{:032x}", u128::from_be_bytes(key.uid))),
            _ => None,
        }
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerRecordError {
    /// Another layout.
    #[error("it is of version {0}, and this agent reads version {VERSION}")]
    Version(u16),
    /// It was damaged, or written by something else.
    #[error("its checksum is wrong")]
    Checksum,
    /// A field has a value that is never written.
    #[error("its {0} is none that this agent writes")]
    Field(&'static str),
}

impl OwnerRecord {
    /// The bytes. `None` if the names have more than 410 bytes together: then the owner is not remembered.
    ///
    /// Kubernetes allows 352. A manifest in a folder may say more, and a name that was cut would be nobody's: nothing
    /// that the source says later would be equal to it. Such a pod is known again as soon as the folder was read, which
    /// needs no API server.
    #[must_use]
    pub fn encode(&self) -> Option<RecordBytes> {
        let mut writer = Writer { bytes: Box::new([0; OWNER_RECORD_BYTES]), at: 0 };
        let Self { subject, class, name, group, workload, terminating, mode, since } = self;
        let nothing = Digest::default();
        let (kind, key, claims, until, mut flags) = match subject {
            RecordedOwner::Node => (1, None, nothing, Duration::ZERO, 0),
            RecordedOwner::Pod { key, claims, terminal, ended, mirror } => {
                let flags = bit(*terminal, TERMINAL) | bit(*ended, ENDED) | bit(*mirror, MIRROR);
                (2, Some(key), *claims, Duration::ZERO, flags)
            }
            RecordedOwner::HandoverReservation { until } => (3, None, nothing, *until, 0),
        };
        flags |= bit(*terminating, TERMINATING);
        flags |= bit(group.is_some(), HAS_GROUP) | bit(workload.is_some(), HAS_WORKLOAD);
        let class = match class {
            OwnerClass::Node => 1,
            OwnerClass::Static => 2,
            OwnerClass::System => 3,
            OwnerClass::Tenant => 4,
        };
        let mode = match mode {
            None => 0,
            Some(Mode::Audit) => 1,
            Some(Mode::Enforce) => 2,
        };
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&[kind, class, mode, flags, key.map_or(0, |key| key.form), 0])?;
        writer.put(&since.to_le_bytes())?;
        writer.put(&u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).to_le_bytes())?;
        writer.put(&key.map_or([0; 16], |key| key.uid))?;
        for digest in [claims, group.unwrap_or(nothing), workload.unwrap_or(nothing)] {
            writer.put(&digest.0)?;
        }
        let texts = [&name.namespace, &name.name, &name.uid];
        for text in texts {
            writer.put(&u16::try_from(text.len()).ok()?.to_le_bytes())?;
        }
        for text in texts {
            writer.put(text.as_bytes())?;
        }
        let mut bytes = writer.bytes;
        let checksum = Digest::of_bytes(&bytes[..CHECKSUM]).short();
        bytes[CHECKSUM..].copy_from_slice(&checksum);
        Some(bytes)
    }

    /// Reads the bytes of a record.
    ///
    /// # Errors
    ///
    /// If they are none that [`Self::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnerRecordError> {
        let mut reader = Reader { rest: bytes };
        let version = u16::from_le_bytes(reader.take("version")?);
        if version != VERSION {
            return Err(OwnerRecordError::Version(version));
        }
        let Some((body, checksum)) = bytes.split_at_checked(CHECKSUM) else {
            return Err(OwnerRecordError::Field("length"));
        };
        if Digest::of_bytes(body).short() != checksum {
            return Err(OwnerRecordError::Checksum);
        }
        let [kind, class, mode, flags, form, zero] = reader.take("head")?;
        let since = i64::from_le_bytes(reader.take("arrival")?);
        let until = Duration::from_nanos(u64::from_le_bytes(reader.take("grace")?));
        let uid = reader.take("UID")?;
        let claims = Digest(reader.take("claims")?);
        let group = Digest(reader.take("group")?);
        let workload = Digest(reader.take("workload")?);
        let has = |flag| flags & flag != 0;
        let subject = match kind {
            1 => RecordedOwner::Node,
            2 => RecordedOwner::Pod {
                key: UidKey::new(uid, UidForm::from_wire(form).ok_or(OwnerRecordError::Field("UID"))?),
                claims,
                terminal: has(TERMINAL),
                ended: has(ENDED),
                mirror: has(MIRROR),
            },
            3 => RecordedOwner::HandoverReservation { until },
            _ => return Err(OwnerRecordError::Field("kind")),
        };
        let class = match class {
            1 => OwnerClass::Node,
            2 => OwnerClass::Static,
            3 => OwnerClass::System,
            4 => OwnerClass::Tenant,
            _ => return Err(OwnerRecordError::Field("class")),
        };
        let mode = match mode {
            0 => None,
            1 => Some(Mode::Audit),
            2 => Some(Mode::Enforce),
            _ => return Err(OwnerRecordError::Field("mode")),
        };
        let mut lengths = [0; 3];
        for length in &mut lengths {
            *length = usize::from(u16::from_le_bytes(reader.take("name")?));
        }
        let [namespace, name, uid] = lengths;
        let name = Name {
            namespace: reader.text(namespace)?,
            name: reader.text(name)?,
            uid: reader.text(uid)?,
            mirror: subject.mirrored(),
        };
        let record = Self {
            subject,
            class,
            name,
            group: has(HAS_GROUP).then_some(group),
            workload: has(HAS_WORKLOAD).then_some(workload),
            terminating: has(TERMINATING),
            mode,
            since,
        };
        // Whatever else there may be in it, it is not as it is written here.
        if zero != 0 || record.encode().is_none_or(|written| written[..] != *bytes) {
            return Err(OwnerRecordError::Field("form"));
        }
        Ok(record)
    }
}

const fn bit(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

struct Writer {
    bytes: RecordBytes,
    at: usize,
}

impl Writer {
    fn put(&mut self, field: &[u8]) -> Option<()> {
        let end = self.at + field.len();
        self.bytes[..CHECKSUM].get_mut(self.at..end)?.copy_from_slice(field);
        self.at = end;
        Some(())
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], OwnerRecordError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(OwnerRecordError::Field(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn text(&mut self, length: usize) -> Result<String, OwnerRecordError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(OwnerRecordError::Field("name"))?;
        self.rest = rest;
        std::str::from_utf8(taken).map(str::to_owned).map_err(|_| OwnerRecordError::Field("name"))
    }
}

#[cfg(test)]
mod tests;
