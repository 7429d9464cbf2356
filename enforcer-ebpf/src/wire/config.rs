//! `CONFIG`: policy and facts of the node for the programs, which the agent changes while they run.

/// Value of [`Config::root_level`] while it is unknown; the programs then find it out.
pub const ROOT_LEVEL_UNKNOWN: u64 = u64::MAX;

/// The single element of the `CONFIG` array. Each field is a word that is written and read whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
#[repr(C)]
pub struct Config {
    /// The [`crate::wire::LAYOUT_VERSION`] of the agent that wrote this.
    pub layout: u64,
    /// Word of the [`Policy`].
    pub policy: u64,
    /// Cgroup id of the cgroup that the programs are attached to.
    pub root_cgroup: u64,
    /// Level of that cgroup in the whole hierarchy (the hierarchy's root is 0), or [`ROOT_LEVEL_UNKNOWN`]: an agent
    /// inside a cgroup namespace cannot see it.
    pub root_level: u64,
    /// Bit n is set if some pod cgroup may exist n levels below the root. Bit 0 is unused.
    pub pod_levels: u64,
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`), 0 where the kernel has none (before 5.14);
    /// the programs then take the initial network namespace for the node's.
    pub netns_cookie: u64,
    /// End of enforcement unless the agent extends it: nanoseconds since boot, sleep not included (`CLOCK_MONOTONIC`);
    /// 0 is never. Read only where a bind is about to be denied.
    pub lease_deadline: u64,
    /// 1 where sockets may take sole holds ([`crate::wire::SoleHold`]): the ports with holds in the table are marked.
    pub sole_holds: u64,
}

const _: () = assert!(size_of::<Config>() == 64);

// SAFETY: `repr(C)`, integers only, no implicit padding, as the derive of `IntoBytes` proves.
#[cfg(all(feature = "object", not(target_arch = "bpf")))]
unsafe impl aya::Pod for Config {}

/// Treatment of a host-network pod that binds a port that nobody claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Undeclared {
    /// Bind it.
    Allow = 0,
    /// No such bind is allowed: the pod may bind only what it declared.
    Deny = 1,
    /// Bind it, unless another one holds it: the first to bind it owns it until it lets go.
    Adopt = 2,
}

/// Rules by which verdicts are turned into answers: [`Config::policy`] unpacked.
///
/// Bit 0: enforce; bit 1: undeclared ports are denied; bit 2: an internal error denies; bit 3: every attempt is
/// reported, not only conflicts; bit 4: sockets that were bound are reported; bit 5: what is below the attached root
/// but in no pod is a host process; bit 6: undeclared ports are adopted; bits 16–31: the error number of a denied bind
/// (positive).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own, and on the wire each is a bit")]
pub struct Policy {
    /// Conflicts are denied (else audited), unless the offender's namespace says otherwise.
    pub enforce: bool,
    /// See [`Undeclared`].
    pub undeclared: Undeclared,
    /// An internal error of the programs denies (else allows) the bind in enforce mode.
    pub deny_on_error: bool,
    /// Report every attempt, not only conflicts.
    pub report_attempts: bool,
    /// Report what was really bound and released.
    pub report_bound: bool,
    /// The programs are attached above all processes of the node (scope `node`): a process in no pod's cgroup is a host
    /// process. Else (scope `pods`) it is one that was not recognised.
    pub node_scope: bool,
    /// Error number of a denied bind, positive, where the kernel lets us choose.
    pub errno: u16,
}

impl Policy {
    /// Bit of the word: [`Self::report_attempts`].
    pub const REPORTS_ATTEMPTS: u64 = 1 << 3;
    /// Bit of the word: [`Undeclared::Deny`].
    pub const DENIES_UNDECLARED: u64 = 1 << 1;

    /// Packs the policy.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.enforce as u64
            | (self.undeclared as u64 & 1) << 1
            | (self.undeclared as u64 >> 1) << 6
            | (self.deny_on_error as u64) << 2
            | (self.report_attempts as u64) << 3
            | (self.report_bound as u64) << 4
            | (self.node_scope as u64) << 5
            | (self.errno as u64) << 16
    }

    /// Unpacks a word.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            enforce: word & 1 != 0,
            undeclared: match word & (2 | 64) {
                0 => Undeclared::Allow,
                Self::DENIES_UNDECLARED => Undeclared::Deny,
                _ => Undeclared::Adopt,
            },
            deny_on_error: word & 4 != 0,
            report_attempts: word & Self::REPORTS_ATTEMPTS != 0,
            report_bound: word & 16 != 0,
            node_scope: word & 32 != 0,
            errno: (word >> 16) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_survives_its_word() {
        for bits in (0..128u64).filter(|bits| bits & (2 | 64) != (2 | 64)) {
            let word = bits | 98 << 16;
            assert_eq!(Policy::from_word(word).to_word(), word);
        }
    }
}
