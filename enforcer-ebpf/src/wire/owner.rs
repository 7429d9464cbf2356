//! `OWNERS`: facts of a pod, or of the node, that a verdict depends on.

/// Index of an owner in `OWNERS`: 1 to 32767. 0 is nobody.
pub type Slot = u16;

/// The [`Owner::cgroup`] of an owner whose pod cgroup has not been seen. Never 0: the ancestor helper returns 0 for a
/// task outside the hierarchy, so that 0 would make every host task the owner.
pub const CGROUP_UNKNOWN: u64 = u64::MAX;

/// The owner is the node itself; every host process and all node software are the owner.
pub const OWNER_NODE: u32 = 1;
/// Node software: static pods and pods of the system namespaces. Never denied.
pub const OWNER_SOFTWARE: u32 = 1 << 1;
/// The owner has a `deletionTimestamp`, or only its workload is left: pods of its workload may bind.
pub const OWNER_TERMINATING: u32 = 1 << 2;
/// Its namespace is in audit mode whatever the node's mode is.
pub const OWNER_MODE_AUDIT: u32 = 1 << 3;
/// Its namespace is in enforce mode whatever the node's mode is.
pub const OWNER_MODE_ENFORCE: u32 = 1 << 4;
/// It is a pod of a `DaemonSet`: two of them on one node are a rollout.
pub const OWNER_DAEMON: u32 = 1 << 5;
/// It is a Service of the cluster, whose ports are taken by packet rules and by no socket. Node software may bind them:
/// where a proxy holds such a port by a socket, it does so for the Service.
pub const OWNER_SERVICE: u32 = 1 << 6;
/// Its claims are reported and never deny.
pub const OWNER_ADVISORY: u32 = 1 << 7;
/// The bits that `OWNER_*` flags have.
pub const OWNER_FLAGS: u32 = 0xff;
/// Greatest number of a revision.
pub const MAX_REVISION: u32 = (1 << 24) - 1;

/// Bytes of one element of `OWNER_RECORDS`, whose key is the owner's slot (`u32`): what the agent writes of an owner for
/// the next agent. No program reads it; the core encodes and decodes it.
pub const OWNER_RECORD_BYTES: usize = 512;

/// One element of `OWNERS`, as four words that are each written and read whole.
///
/// The agent writes an element completely before any [`crate::wire::PortWord`] points at it, and does not use a slot
/// that was freed again until every other free slot was. `cgroup` and `level` are also written by `cgroup_mkdir`; the
/// agent leaves them alone unless it knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Owner {
    /// Cgroup id of the pod's own cgroup (not of a container), or [`CGROUP_UNKNOWN`].
    pub cgroup: u64,
    /// Bits 0–31: the owner's id, never used twice by one agent, 0 in a free slot; bits 32–39: `OWNER_*` flags; bits
    /// 40–63: the revision of its workload that it is of, a number that the agent gives out, equal for equal revisions
    /// of one workload, 0 if it is not known.
    pub identity: u64,
    /// Bits 0–31: share group, 0 for none; bits 32–63: workload, 0 for none. Both are numbers that the agent gives
    /// out, equal for equal groups and workloads.
    pub kinship: u64,
    /// Level of the pod's cgroup below the attached root (1 is a child of the root); 0 while it is unknown.
    pub level: u64,
}

const _: () = assert!(size_of::<Owner>() == 32);

// SAFETY: `repr(C)`, integers only, no implicit padding, as the derive of `IntoBytes` proves.
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for Owner {}

impl Owner {
    /// Makes an element. `flags` are `OWNER_*` bits.
    #[must_use]
    pub const fn new(cgroup: u64, id: u32, flags: u32, level: u8, group: u32, workload: u32) -> Self {
        Self {
            cgroup,
            identity: id as u64 | (flags as u64) << 32,
            kinship: group as u64 | (workload as u64) << 32,
            level: level as u64,
        }
    }

    /// Returns the owner's id, for naming it in reports.
    #[must_use]
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.identity as u32
    }

    /// Returns the same element of a pod of this revision, at most [`MAX_REVISION`].
    #[must_use]
    pub const fn with_revision(self, revision: u32) -> Self {
        Self { identity: (self.identity & ((1 << 40) - 1)) | ((revision as u64) << 40), ..self }
    }

    /// Returns the `OWNER_*` bits.
    #[must_use]
    #[inline(always)]
    pub const fn flags(&self) -> u32 {
        self.flags_and_revision() & OWNER_FLAGS
    }

    /// Returns the `OWNER_*` bits and, above [`OWNER_FLAGS`], the revision.
    #[must_use]
    #[inline(always)]
    pub const fn flags_and_revision(&self) -> u32 {
        (self.identity >> 32) as u32
    }

    /// Returns the share group, 0 for none.
    #[must_use]
    #[inline(always)]
    pub const fn group(&self) -> u32 {
        self.kinship as u32
    }

    /// Returns the workload, 0 for none.
    #[must_use]
    #[inline(always)]
    pub const fn workload(&self) -> u32 {
        (self.kinship >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_do_not_overlap() {
        let owner = Owner::new(7, u32::MAX, OWNER_NODE | OWNER_MODE_ENFORCE, 9, u32::MAX, 3);
        assert_eq!(owner.cgroup, 7);
        assert_eq!(owner.id(), u32::MAX);
        assert_eq!(owner.flags(), OWNER_NODE | OWNER_MODE_ENFORCE);
        assert_eq!(owner.flags_and_revision() >> OWNER_FLAGS.count_ones(), 0, "no revision");
        let owner = owner.with_revision(MAX_REVISION).with_revision(MAX_REVISION - 1);
        assert_eq!(owner.flags_and_revision() >> OWNER_FLAGS.count_ones(), MAX_REVISION - 1);
        assert_eq!((owner.id(), owner.flags()), (u32::MAX, OWNER_NODE | OWNER_MODE_ENFORCE));
        assert_eq!(owner.level, 9);
        assert_eq!(owner.group(), u32::MAX);
        assert_eq!(owner.workload(), 3);
    }
}
