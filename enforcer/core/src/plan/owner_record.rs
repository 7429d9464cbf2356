//! Records of owners: one element of the map `OWNER_RECORDS` for each owner, with what the next agent needs beyond the
//! other maps.
//!
//! `Layout` is the layout of version 1, and the only description of it.
//!
//! # Migration
//!
//! A record outlives the agent that wrote it, so its layout is a contract between versions of the agent:
//!
//! - Every version that was ever released stays readable: [`OwnerRecord::decode`] has one decoder for each, and all of
//!   them return the current [`OwnerRecord`]. A new version adds a struct and a decoder, and removes none. An upgrade
//!   therefore keeps all claims in force.
//! - A new kind of owner, class, mode or flag does not change the version. It takes a value that no agent wrote before.
//! - A record that this agent cannot read, because its version, kind or a flag is newer, makes one owner unreadable and
//!   no other: its claims end until a source lists the owner again, and the agent logs that.
//!
//! A downgrade loses the claims in force of the owners whose records the older agent cannot read, until they are listed.

use std::{mem::offset_of, time::Duration};

use enforcer_ebpf::wire::{OWNER_RECORD_BYTES, UidForm, UidKey};
use zerocopy::{
    FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{I64, U16, U64},
};

use crate::model::{
    digest::Digest,
    mode::Mode,
    name::{Handover, Name},
    owner::{OwnerClass, OwnerKind},
};

/// Version of the layout that this agent writes.
pub const VERSION: u16 = 1;
/// Offset of the checksum, in bytes.
const CHECKSUM: usize = offset_of!(Layout, checksum);
/// Longest namespace, name and UID together, in bytes. Kubernetes allows 352.
const MAX_TEXT: usize = 410;

const TERMINATING: u8 = 1;
const TERMINAL: u8 = 1 << 1;
const ENDED: u8 = 1 << 2;
const MIRROR: u8 = 1 << 3;
const HAS_GROUP: u8 = 1 << 4;
const HAS_WORKLOAD: u8 = 1 << 5;
const ALL_FLAGS: u8 = TERMINATING | TERMINAL | ENDED | MIRROR | HAS_GROUP | HAS_WORKLOAD;

/// Bytes of a record, version 1. Integers are little-endian.
#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
struct Layout {
    /// Version: [`VERSION`]. Every version begins with it.
    version: U16,
    /// Kind, from [`kind_to_byte`].
    kind: u8,
    /// Class, from [`class_to_byte`].
    class: u8,
    /// Mode of the namespace where it overrides the node's: 0 none, 1 audit, 2 enforce.
    mode: u8,
    /// Flags of [`ALL_FLAGS`].
    flags: u8,
    /// The UID's form as its discriminant; 0 without a UID.
    uid_form: u8,
    /// Zero.
    padding: u8,
    /// Time of [`OwnerRecord::since`].
    since: I64,
    /// End of a handover reservation, in nanoseconds since boot; 0 for other kinds.
    until: U64,
    /// UID of a pod; zeros for other kinds.
    uid: [u8; 16],
    /// Digest of the claims of a pod; zeros for other kinds.
    claims: [u8; 16],
    /// Digest of the share group, with [`HAS_GROUP`].
    group: [u8; 16],
    /// Digest of the workload, with [`HAS_WORKLOAD`].
    workload: [u8; 16],
    /// Lengths of namespace, name, and UID as text, in bytes. Of a handover reservation, the last is kind and name of the
    /// workload, if they fit.
    lengths: [U16; 3],
    /// These three, one after the other; the rest is zero.
    text: [u8; MAX_TEXT],
    /// The first 64 bits of a SHA-256 of all bytes before.
    checksum: [u8; 8],
}

const _: () = assert!(size_of::<Layout>() == OWNER_RECORD_BYTES);
const _: () = assert!(offset_of!(Layout, since) == 8 && offset_of!(Layout, uid) == 24);
const _: () = assert!(offset_of!(Layout, lengths) == 88 && offset_of!(Layout, text) == 94 && CHECKSUM == 504);

/// Bytes of a record.
pub type RecordBytes = Box<[u8; OWNER_RECORD_BYTES]>;

/// Facts that the next agent needs to know of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRecord {
    /// Its kind, with what is known of that kind only.
    pub subject: RecordedOwner,
    /// Its class.
    pub class: OwnerClass,
    /// Its name; all empty for the node.
    pub name: Name,
    /// Its share group.
    pub group: Option<Digest>,
    /// Its workload.
    pub workload: Option<Digest>,
    /// Has a deletionTimestamp.
    pub terminating: bool,
    /// Its namespace's mode, where that overrides the node's.
    pub mode: Option<Mode>,
    /// Time of arrival of the youngest of its claims, in microseconds since 1970. It is the place in the queue of all
    /// its claims that are not in force: what is in force needs none, and no edit must win a better one by a restart.
    pub since: i64,
}

/// Kind of a recorded owner, with what is known of that kind only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOwner {
    /// The node.
    Node,
    /// A pod.
    Pod {
        /// UID in the name of its cgroup.
        key: UidKey,
        /// Digest of its claims, in force or not.
        claims: Digest,
        /// Phase of the pod is `Succeeded` or `Failed`.
        terminal: bool,
        /// Its cgroup was there and went.
        ended: bool,
        /// It is a mirror pod that was accepted as a static pod, so that `key` is not its own UID.
        mirror: bool,
    },
    /// Reservation of the ports of a deleted pod.
    HandoverReservation {
        /// End of the reservation, as time since boot.
        until: Duration,
    },
    /// A Service.
    Service,
}

impl RecordedOwner {
    /// Returns the kind alone.
    #[must_use]
    pub const fn kind(&self) -> OwnerKind {
        match self {
            Self::Node => OwnerKind::Node,
            Self::Pod { .. } => OwnerKind::Pod,
            Self::HandoverReservation { .. } => OwnerKind::HandoverReservation,
            Self::Service => OwnerKind::Service,
        }
    }

    /// Returns the value of the annotation `config.mirror` of a mirror pod that was accepted: the UID of its static pod.
    fn mirrored(&self) -> Option<String> {
        match self {
            Self::Pod { key, mirror: true, .. } => Some(format!("{:032x}", u128::from_be_bytes(key.uid))),
            _ => None,
        }
    }
}

/// Reason why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerRecordError {
    /// No version that was released before this agent.
    #[error("it is of version {0}, and this agent reads versions up to {VERSION}")]
    Version(u16),
    /// It was damaged, or written by something else.
    #[error("its checksum is wrong")]
    Checksum,
    /// A field has a value that this agent never writes.
    #[error("its {0} is none that this agent writes")]
    Field(&'static str),
}

impl OwnerRecord {
    /// Returns the bytes; `None` if namespace, name and UID have more than 410 bytes together: then the owner is not
    /// recorded.
    ///
    /// Kubernetes allows 352. A manifest in a folder may say more, and a name that was cut would be nobody's: nothing
    /// that the source says later would be equal to it. Such a pod is known again as soon as the folder was read, which
    /// needs no API server.
    #[must_use]
    pub fn encode(&self) -> Option<RecordBytes> {
        let Self { subject, class, name, group, workload, terminating, mode, since } = self;
        let mut layout = Layout::new_zeroed();
        layout.version = VERSION.into();
        layout.kind = kind_to_byte(subject.kind());
        layout.class = class_to_byte(*class);
        layout.mode = match mode {
            None => 0,
            Some(Mode::Audit) => 1,
            Some(Mode::Enforce) => 2,
        };
        layout.flags =
            bit(*terminating, TERMINATING) | bit(group.is_some(), HAS_GROUP) | bit(workload.is_some(), HAS_WORKLOAD);
        layout.since = (*since).into();
        match subject {
            RecordedOwner::Node | RecordedOwner::Service => {}
            RecordedOwner::Pod { key, claims, terminal, ended, mirror } => {
                layout.flags |= bit(*terminal, TERMINAL) | bit(*ended, ENDED) | bit(*mirror, MIRROR);
                (layout.uid_form, layout.uid, layout.claims) = (key.form, key.uid, claims.0);
            }
            RecordedOwner::HandoverReservation { until } => {
                layout.until = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX).into();
            }
        }
        layout.group = group.unwrap_or_default().0;
        layout.workload = workload.unwrap_or_default().0;
        let workload = workload_text(subject, name);
        let texts = [&*name.namespace, &*name.name, workload.as_deref().unwrap_or(&name.uid)];
        for (length, text) in layout.lengths.iter_mut().zip(texts) {
            *length = u16::try_from(text.len()).ok()?.into();
        }
        let text = texts.concat();
        layout.text.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        layout.checksum = Digest::of_bytes(&layout.as_bytes()[..CHECKSUM]).short();
        Some(Box::new(zerocopy::transmute!(layout)))
    }

    /// Reads the bytes of a record of any version that was released.
    ///
    /// # Errors
    ///
    /// If this agent and those before it write no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnerRecordError> {
        let (version, _) = U16::ref_from_prefix(bytes).map_err(|_| OwnerRecordError::Field("length"))?;
        match version.get() {
            1 => Self::decode_version_1(bytes),
            newer => Err(OwnerRecordError::Version(newer)),
        }
    }

    fn decode_version_1(bytes: &[u8]) -> Result<Self, OwnerRecordError> {
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| OwnerRecordError::Field("length"))?;
        if Digest::of_bytes(&bytes[..CHECKSUM]).short() != layout.checksum {
            return Err(OwnerRecordError::Checksum);
        }
        if layout.flags & !ALL_FLAGS != 0 {
            return Err(OwnerRecordError::Field("flags"));
        }
        let has = |flag| layout.flags & flag != 0;
        let subject = match kind_from_byte(layout.kind).ok_or(OwnerRecordError::Field("kind"))? {
            OwnerKind::Node => RecordedOwner::Node,
            OwnerKind::Pod => RecordedOwner::Pod {
                key: UidKey::new(
                    layout.uid,
                    UidForm::from_wire(layout.uid_form).ok_or(OwnerRecordError::Field("UID"))?,
                ),
                claims: Digest(layout.claims),
                terminal: has(TERMINAL),
                ended: has(ENDED),
                mirror: has(MIRROR),
            },
            OwnerKind::HandoverReservation => {
                RecordedOwner::HandoverReservation { until: Duration::from_nanos(layout.until.get()) }
            }
            OwnerKind::Service => RecordedOwner::Service,
        };
        let mode = match layout.mode {
            0 => None,
            1 => Some(Mode::Audit),
            2 => Some(Mode::Enforce),
            _ => return Err(OwnerRecordError::Field("mode")),
        };
        let [namespace, name, uid] = layout.lengths.map(|length| usize::from(length.get()));
        let mut rest = &layout.text[..];
        let (namespace, name, uid) =
            (take_text(&mut rest, namespace)?, take_text(&mut rest, name)?, take_text(&mut rest, uid)?);
        let handover = (subject.kind() == OwnerKind::HandoverReservation)
            .then(|| uid.split_once('/').map(|(kind, name)| (kind.to_owned(), name.to_owned())))
            .flatten()
            .map(|workload| Box::new(Handover { workload: Some(workload), until: 0 }));
        let record = Self {
            class: class_from_byte(layout.class).ok_or(OwnerRecordError::Field("class"))?,
            name: Name {
                namespace,
                name,
                uid: if handover.is_some() { String::new() } else { uid },
                mirror: subject.mirrored(),
                handover,
                service: subject.kind() == OwnerKind::Service,
            },
            group: has(HAS_GROUP).then_some(Digest(layout.group)),
            workload: has(HAS_WORKLOAD).then_some(Digest(layout.workload)),
            terminating: has(TERMINATING),
            mode,
            since: layout.since.get(),
            subject,
        };
        // Whatever else there may be in it, it is not as it is written here.
        if record.encode().is_none_or(|written| written[..] != *bytes) {
            return Err(OwnerRecordError::Field("form"));
        }
        Ok(record)
    }
}

/// Returns what stands in the place of the UID of a pod that is gone: kind and name of the workload that its ports are
/// kept for, as in `DaemonSet/edge`. Earlier agents wrote the UID, in which there is no slash.
fn workload_text(subject: &RecordedOwner, name: &Name) -> Option<String> {
    let RecordedOwner::HandoverReservation { .. } = subject else {
        return None;
    };
    let (kind, workload) = name.handover.as_ref()?.workload.as_ref()?;
    let text = format!("{kind}/{workload}");
    (name.namespace.len() + name.name.len() + text.len() <= MAX_TEXT).then_some(text)
}

const fn kind_to_byte(kind: OwnerKind) -> u8 {
    match kind {
        OwnerKind::Node => 1,
        OwnerKind::Pod => 2,
        OwnerKind::HandoverReservation => 3,
        OwnerKind::Service => 4,
    }
}

fn kind_from_byte(byte: u8) -> Option<OwnerKind> {
    [OwnerKind::Node, OwnerKind::Pod, OwnerKind::HandoverReservation, OwnerKind::Service]
        .into_iter()
        .find(|kind| kind_to_byte(*kind) == byte)
}

const fn class_to_byte(class: OwnerClass) -> u8 {
    match class {
        OwnerClass::Node => 1,
        OwnerClass::Static => 2,
        OwnerClass::System => 3,
        OwnerClass::Tenant => 4,
    }
}

fn class_from_byte(byte: u8) -> Option<OwnerClass> {
    [OwnerClass::Node, OwnerClass::Static, OwnerClass::System, OwnerClass::Tenant]
        .into_iter()
        .find(|class| class_to_byte(*class) == byte)
}

const fn bit(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Takes a text of so many bytes off the front.
fn take_text(rest: &mut &[u8], length: usize) -> Result<String, OwnerRecordError> {
    let taken = rest.split_off(..length).ok_or(OwnerRecordError::Field("name"))?;
    std::str::from_utf8(taken).map(str::to_owned).map_err(|_| OwnerRecordError::Field("name"))
}

#[cfg(test)]
pub(crate) mod tests;
