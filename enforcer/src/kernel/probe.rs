//! What this kernel and this node offer, found out by trying each feature.
//!
//! A feature is one row: [`Feature`]. `enforcer probe` shows all rows ([`findings`]), `enforcer run` asks for those
//! that the programs are adapted to ([`features`]), and the loader sets the constants of the rows.
//!
//! | to add | go to |
//! | --- | --- |
//! | a feature that the agent needs | [`required`] |
//! | a feature of the kernel that the agent can do without | [`optional`] |
//! | a property of the node: mounts, lockdown, its network | [`node`] |

pub mod node;
pub mod optional;
pub mod required;
mod trial_programs;

use aya::programs::ProgramError;
use enforcer_core::model::text::message_with_causes;
use enforcer_ebpf::wire::Constant;

use crate::kernel::{btf::Offsets, rdonly_cast::RdonlyCast};

/// A feature of the kernel or a property of the node.
pub struct Feature {
    /// Stable name.
    pub name: &'static str,
    /// First kernel version that has it.
    pub since: &'static str,
    /// Flag of a feature that the agent cannot work without.
    pub required: bool,
    /// Consequence where it is missing.
    pub without: &'static str,
    /// Remedy that an operator has.
    pub remedy: &'static str,
    /// Looks for it.
    probe: fn() -> Answer,
    /// Constants of the programs that depend on it.
    constants: &'static [Setting],
}

impl Feature {
    /// Looks for the feature on this kernel and node.
    #[must_use]
    pub fn find(&self) -> Finding {
        let Self { name, since, required, without, remedy, probe, constants: _ } = *self;
        Finding { name, since, required, answer: probe(), without, remedy }
    }
}

/// Constant of the programs and its value.
struct Setting {
    constant: Constant,
    value: fn(&Features, &Offsets) -> u32,
}

/// Features that the programs are adapted to.
#[expect(clippy::struct_excessive_bools, reason = "each is a feature of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` in bind hooks, since Linux 6.1: a denied bind fails with a chosen error number, else with EPERM.
    pub set_retval: bool,
    /// `bpf_set_retval` in post-bind hooks, since 5.18.
    pub post_set_retval: bool,
    /// A post-bind hook that denies gives the port back, and so really denies: since 5.17. Else a port that could be
    /// shared is taken before it is bound.
    pub post_bind_denies: bool,
    /// Tail calls in programs with functions: since 5.10, on arm64 since 6.0. Without them, nothing is taken before it is
    /// bound.
    pub tail_calls: bool,
    /// Time of the last tick (`bpf_ktime_get_coarse_ns`), since 5.11: the time of a hold costs a tenth of reading a
    /// clock.
    pub coarse_time: bool,
    /// Atomic exchange in programs, since 5.12: they write the socket log, else all records are in rings.
    pub atomic_exchange: bool,
    /// Reading kernel memory, which needs `CAP_PERFMON` and no lockdown: whether a socket is IPv6 only is exact, else
    /// `::` counts as dual-stack.
    pub probe_read: bool,
    /// Reading sockets and tasks by loads and not by helpers, since 6.2: a tenth of the cost.
    pub cast: Option<RdonlyCast>,
}

impl Features {
    /// Returns whether the bind programs take a port before it is bound.
    #[must_use]
    pub fn takes_before_bind(&self) -> bool {
        !self.post_bind_denies && self.tail_calls
    }
}

/// Result of a probe, for `enforcer probe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// [`Feature::name`].
    pub name: &'static str,
    /// [`Feature::since`].
    pub since: &'static str,
    /// [`Feature::required`].
    pub required: bool,
    /// Answer to the question whether it is there.
    pub answer: Answer,
    /// [`Feature::without`].
    pub without: &'static str,
    /// [`Feature::remedy`].
    pub remedy: &'static str,
}

/// Answer of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Yes,
    /// It is not there.
    No,
    /// The probe failed, with this error.
    Unknown(String),
}

impl Answer {
    fn of<E: Into<Box<dyn std::error::Error>>>(result: Result<bool, E>) -> Self {
        match result {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(message_with_causes(&*error.into())),
        }
    }

    /// Returns whether it is known to be there.
    #[must_use]
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }
}

const NEWER: &str = "run a kernel of at least that version";

/// Returns every row, in the order in which `enforcer probe` shows them.
pub fn table() -> impl Iterator<Item = &'static Feature> {
    required::TABLE.iter().chain(optional::TABLE).chain(node::TABLE).copied()
}

/// Probes every row.
#[must_use]
pub fn findings() -> Vec<Finding> {
    table().map(Feature::find).collect()
}

/// Probes the features that the programs are adapted to.
///
/// # Errors
///
/// If the kernel refuses a probe, which means that a privilege is missing.
pub fn features() -> Result<Features, ProgramError> {
    // Without type information nothing works, and loading the programs reports that.
    let offsets = Offsets::of_running_kernel().ok();
    Ok(Features {
        set_retval: optional::has_set_retval()?,
        post_set_retval: optional::has_post_set_retval()?,
        post_bind_denies: offsets.is_some_and(|offsets| offsets.post_bind_denies),
        tail_calls: optional::has_tail_calls().map_err(ProgramError::IOError)?,
        coarse_time: optional::has_coarse_time()?,
        atomic_exchange: optional::has_atomic_exchange().map_err(ProgramError::IOError)?,
        probe_read: optional::has_probe_read()?,
        cast: offsets.and_then(|offsets| trial_programs::cast(&offsets).ok().flatten()),
    })
}

/// Returns the value of each constant of the programs, in the order of [`Constant::ALL`].
pub(super) fn constants(features: &Features, offsets: &Offsets) -> [u32; Constant::ALL.len()] {
    let mut values = [0; Constant::ALL.len()];
    for Setting { constant, value } in table().flat_map(|feature| feature.constants) {
        values[*constant as usize] = value(features, offsets);
    }
    values
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_of_features_are_unique_and_every_constant_is_set_once() {
        let (mut names, mut constants) = (HashSet::new(), HashSet::new());
        for feature in table() {
            assert!(names.insert(feature.name), "{}", feature.name);
            for setting in feature.constants {
                assert!(constants.insert(setting.constant), "{:?}", setting.constant);
            }
        }
        assert_eq!(constants.len(), Constant::ALL.len());
    }
}
