//! `POD_CGROUPS`: from a pod's cgroup to its owner.

use crate::wire::{Slot, UidForm};

/// Value of the `POD_CGROUPS` hash, whose key is the id of a *pod's* cgroup (`u64`): its owner, in one word.
///
/// Bits 0–14: the owner's slot, 0 while no pod with that UID is known; bits 16–23: [`UidForm`]; bits 32–63: the low half
/// of the cgroup id, for the reason given at [`crate::wire::AddressOwner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct CgroupIdentity(pub u64);

impl CgroupIdentity {
    /// Makes the value for the cgroup with this id.
    #[must_use]
    #[inline(always)]
    pub const fn new(cgroup: u64, slot: Slot, form: UidForm) -> Self {
        Self((slot as u64 & 0x7fff) | (form as u64) << 16 | cgroup << 32)
    }

    /// Returns whether the value belongs to this cgroup.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(self, cgroup: u64) -> bool {
        self.0 >> 32 == cgroup & 0xffff_ffff
    }

    /// Returns the owner's slot, 0 while no pod with that UID is known.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> Slot {
        (self.0 & 0x7fff) as Slot
    }

    /// Returns whether the form is [`UidForm::Static`].
    #[must_use]
    #[inline(always)]
    pub const fn is_static(self) -> bool {
        self.0 >> 16 & 0xff == UidForm::Static as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_belongs_to_its_cgroup_only() {
        let identity = CgroupIdentity::new(0x1_0000_0007, 33, UidForm::Static);
        assert!(identity.is_of(0x1_0000_0007));
        assert!(!identity.is_of(8));
        assert_eq!(identity.slot(), 33);
        assert!(identity.is_static());
        assert!(!CgroupIdentity::new(7, 0, UidForm::Api).is_static());
    }
}
