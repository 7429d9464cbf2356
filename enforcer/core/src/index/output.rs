//! Output of the index, and how much of the kernel's maps it uses.

use crate::{index::notice::Notice, plan::port_state::Change};

/// Numbers of entries of the kernel's maps that are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapUsage {
    /// Ports that somebody owns, at least on some address: words of `PORTS` that are not zero.
    pub ports: usize,
    /// Slots of `OWNERS`; nobody's does not count.
    pub owners: usize,
    /// Single addresses of ports, in `ADDRESS_OWNERS`.
    pub exact: usize,
    /// Pod UIDs, in `POD_UIDS`.
    pub uids: usize,
    /// Cgroups of pods, in `POD_CGROUPS`, whether or not the pod is known.
    pub cgroups: usize,
}

/// Output of the index since it was drained last.
#[derive(Debug, Default)]
pub struct IndexOutput {
    /// Steps for the kernel's maps, in order.
    pub changes: Vec<Change>,
    /// Notices for people.
    pub notices: Vec<Notice>,
    /// The pods have to be listed again: a limit changed, and the claims that it refused were not kept.
    pub relist: bool,
}
