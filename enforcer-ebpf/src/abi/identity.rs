//! `UIDS` and `CGROUPS`: from a pod's UID and from a cgroup to the owner.

use crate::abi::Slot;

/// The 128 bits of a pod's UID, whatever way it was written.
pub type PodUid = [u8; 16];

/// How a pod cgroup's UID is written, which tells who made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Form {
    /// With dashes (or underscores, under the systemd driver): issued by the API server.
    Api = 1,
    /// 32 hex digits in a row: made by the kubelet for a static pod. The API never issues that form.
    Static = 2,
}

impl Form {
    /// The form with this discriminant.
    #[must_use]
    #[inline(always)]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            1 => Some(Self::Api),
            2 => Some(Self::Static),
            _ => None,
        }
    }
}

/// Key of the `UIDS` hash, whose value is a `u64` with the owner's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct UidKey {
    /// The UID.
    pub uid: PodUid,
    /// [`Form`] as its discriminant: two pods may differ in nothing else.
    pub form: u8,
    /// Zero.
    pub padding: [u8; 7],
}

const _: () = assert!(size_of::<UidKey>() == 24);

// SAFETY: `repr(C)`, integers only, no implicit padding (the size is asserted above).
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for UidKey {}

impl UidKey {
    /// The key for a UID that is written in this form.
    #[must_use]
    #[inline(always)]
    pub const fn new(uid: PodUid, form: Form) -> Self {
        Self { uid, form: form as u8, padding: [0; 7] }
    }
}

/// Value of the `CGROUPS` hash, whose key is the id of a *pod's* cgroup (`u64`): whose it is, in one word.
///
/// Bits 0–14: the owner's slot, 0 while no pod with that UID is known; bits 16–23: [`Form`]; bits 32–63: the low half
/// of the cgroup id, for the reason given at [`crate::abi::ExactValue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct CgroupIdentity(pub u64);

impl CgroupIdentity {
    /// The value for the cgroup with this id.
    #[must_use]
    #[inline(always)]
    pub const fn new(cgroup: u64, slot: Slot, form: Form) -> Self {
        Self((slot as u64 & 0x7fff) | (form as u64) << 16 | cgroup << 32)
    }

    /// Whether the value belongs to this cgroup.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(self, cgroup: u64) -> bool {
        self.0 >> 32 == cgroup & 0xffff_ffff
    }

    /// The owner's slot, 0 while no pod with that UID is known.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> Slot {
        (self.0 & 0x7fff) as Slot
    }

    /// Whether the form is [`Form::Static`].
    #[must_use]
    #[inline(always)]
    pub const fn is_static(self) -> bool {
        self.0 >> 16 & 0xff == Form::Static as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_knows_its_cgroup() {
        let identity = CgroupIdentity::new(0x1_0000_0007, 33, Form::Static);
        assert!(identity.is_of(0x1_0000_0007));
        assert!(!identity.is_of(8));
        assert_eq!(identity.slot(), 33);
        assert!(identity.is_static());
        assert!(!CgroupIdentity::new(7, 0, Form::Api).is_static());
    }
}
