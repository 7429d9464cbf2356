//! The agent's configuration: the element of `CONFIG`, and the mode that an operator set on the node.

use core::{cell::UnsafeCell, ptr};

use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{Config, NodeMode, Policy},
};

use super::{clock::coarse_monotonic_ns, read::load_word};
use crate::bpf::maps::{CONFIG, MODE};

/// The [`Config`] in the map. The agent may change a word at any moment, so each call loads the word again.
#[repr(transparent)]
pub(crate) struct VolatileConfig(UnsafeCell<Config>);

impl VolatileConfig {
    /// Returns the configuration. An array's first element is always there, but the verifier wants the check.
    #[inline(always)]
    pub(crate) fn get() -> Option<&'static Self> {
        let config = CONFIG.get_ptr(0)?;
        // SAFETY: the pointer is to the map's element, which has the same layout and is read word by word.
        Some(unsafe { &*config.cast::<Self>() })
    }

    #[inline(always)]
    fn field(&self, of: impl FnOnce(*mut Config) -> *mut u64) -> u64 {
        load_word(of(self.0.get()))
    }

    #[inline(always)]
    pub(crate) fn policy(&self) -> Policy {
        Policy::from_word(self.policy_word())
    }

    /// Returns the word of the policy: where one bit of it is asked for, the others need not be unpacked.
    #[inline(always)]
    pub(crate) fn policy_word(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).policy })
    }

    #[inline(always)]
    pub(crate) fn root_cgroup(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).root_cgroup })
    }

    #[inline(always)]
    pub(crate) fn pod_levels(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).pod_levels })
    }

    #[inline(always)]
    pub(crate) fn netns_cookie(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).netns_cookie })
    }

    #[inline(always)]
    pub(crate) fn root_level(&self) -> u64 {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).root_level })
    }

    #[inline(always)]
    pub(crate) fn sole_holds(&self) -> bool {
        // SAFETY: only the address is taken.
        self.field(|config| unsafe { &raw mut (*config).sole_holds }) != 0
    }

    /// Returns what overrides the mode of a conflict at this moment: the node's own mode, and an expired lease.
    #[inline(always)]
    pub(crate) fn mode_override(&self) -> ModeOverride {
        // SAFETY: only the address is taken.
        let deadline = self.field(|config| unsafe { &raw mut (*config).lease_deadline });
        let stale = deadline != 0 && coarse_monotonic_ns() > deadline;
        let local = MODE.get_ptr(0).map_or(0, |word| load_word(word.cast()));
        ModeOverride { local: NodeMode::from_word(local), stale }
    }

    /// Notes that pod cgroups exist at this level below the root.
    #[inline(always)]
    pub(crate) fn add_pod_level(&self, level: u64) {
        let levels = self.pod_levels();
        let bit = 1 << (level & 63);
        if levels & bit == 0 {
            // SAFETY: an aligned word of the map's element. Of two stores at once one may be lost: the agent, which
            // sees the same cgroup's event, sets the bit again.
            unsafe { ptr::write_volatile(&raw mut (*self.0.get()).pod_levels, levels | bit) }
        }
    }

    /// Notes the level of the root that a program found.
    #[inline(always)]
    pub(crate) fn set_root_level(&self, level: u64) {
        // SAFETY: an aligned word of the map's element; all programs that store here store the same level.
        unsafe { ptr::write_volatile(&raw mut (*self.0.get()).root_level, level) }
    }
}
