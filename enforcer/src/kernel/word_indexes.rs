//! Places of wire fields in memory-mapped arrays, which are arrays of 64-bit words.

use enforcer_ebpf::wire::{Config, Owner, PortHolder};

/// Index of a 64-bit field among the words of its wire type.
macro_rules! word {
    ($wire:ty, $field:ident) => {{
        const OFFSET: usize = core::mem::offset_of!($wire, $field);
        const {
            assert!(OFFSET.is_multiple_of(8));
            // A field of another size would not be one word.
            let field: fn(&$wire) -> &u64 = |wire| &wire.$field;
            let _ = field;
        }
        OFFSET / 8
    }};
}

/// Counts the words of a wire type.
const fn words<T>() -> usize {
    assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8);
    size_of::<T>() / 8
}

/// Words of an [`Owner`].
pub(super) mod owner_word {
    use super::{Owner, words};

    pub(in crate::kernel) const CGROUP: usize = word!(Owner, cgroup);
    pub(in crate::kernel) const IDENTITY: usize = word!(Owner, identity);
    pub(in crate::kernel) const KINSHIP: usize = word!(Owner, kinship);
    pub(in crate::kernel) const LEVEL: usize = word!(Owner, level);
    pub(in crate::kernel) const COUNT: usize = words::<Owner>();
}

/// Words of the [`Config`].
pub(super) mod config_word {
    use super::{Config, words};

    pub(in crate::kernel) const LAYOUT: usize = word!(Config, layout);
    pub(in crate::kernel) const POLICY: usize = word!(Config, policy);
    pub(in crate::kernel) const ROOT_CGROUP: usize = word!(Config, root_cgroup);
    pub(in crate::kernel) const ROOT_LEVEL: usize = word!(Config, root_level);
    pub(in crate::kernel) const POD_LEVELS: usize = word!(Config, pod_levels);
    pub(in crate::kernel) const NETNS_COOKIE: usize = word!(Config, netns_cookie);
    pub(in crate::kernel) const LEASE_DEADLINE: usize = word!(Config, lease_deadline);
    pub(in crate::kernel) const SOLE_HOLDS: usize = word!(Config, sole_holds);
    pub(in crate::kernel) const COUNT: usize = words::<Config>();
}

/// Words of a [`PortHolder`].
pub(super) mod port_holder_word {
    use super::{PortHolder, words};

    pub(in crate::kernel) const HOLDER: usize = word!(PortHolder, holder);
    pub(in crate::kernel) const ASKED: usize = word!(PortHolder, asked);
    pub(in crate::kernel) const COUNT: usize = words::<PortHolder>();
}
