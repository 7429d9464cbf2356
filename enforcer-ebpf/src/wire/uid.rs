//! `POD_UIDS`: from a pod's UID to its owner.

/// 128 bits of a pod's UID, independent of how it is written.
pub type PodUid = [u8; 16];

/// Form in which a pod cgroup's name has the UID: it shows the UID's issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum UidForm {
    /// The UID has dashes (or underscores, under the systemd driver): issued by the API server.
    Api = 1,
    /// 32 hex digits in a row: made by the kubelet for a static pod. The API never issues that form.
    Static = 2,
}

impl UidForm {
    /// Returns the form with this discriminant.
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

/// Key of the `POD_UIDS` hash, whose value is a `u64` with the owner's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct UidKey {
    /// The UID.
    pub uid: PodUid,
    /// Discriminant of the [`UidForm`]: two pods may differ in nothing else.
    pub form: u8,
    /// Zero.
    pub padding: [u8; 7],
}

const _: () = assert!(size_of::<UidKey>() == 24);

// SAFETY: `repr(C)`, integers only, no implicit padding (the size is asserted above).
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for UidKey {}

impl UidKey {
    /// Makes the key for a UID that is written in this form.
    #[must_use]
    #[inline(always)]
    pub const fn new(uid: PodUid, form: UidForm) -> Self {
        Self { uid, form: form as u8, padding: [0; 7] }
    }
}
