//! The table of holders, kept in step with the kernel: what its socket diagnostics show, and what follows for people.

use crate::{
    core::{
        address::PortSpec,
        holders::{Existing, Holders, Limits, Place, Reported},
        index::Index,
    },
    host::{
        clock::now,
        diag::{self, DiagError},
    },
};

/// What a look at the sockets of the node brought.
#[derive(Debug, Default)]
pub struct Looked {
    /// Conflicts that exist and were not told yet.
    pub existing: Vec<Existing>,
    /// Sockets that could not be read.
    pub errors: Vec<DiagError>,
}

/// See the module's documentation.
pub(super) struct Holding {
    holders: Holders,
    reported: Reported,
    shared: Vec<PortSpec>,
}

impl Holding {
    /// With the ports that are meant to be shared. Nothing is known yet.
    pub(super) fn new(shared: Vec<PortSpec>) -> Self {
        // Where the kernel cannot be asked, the first look says why.
        let shows_bound = diag::shows_bound().unwrap_or(false);
        Self { holders: Holders::new(Limits::default(), shows_bound), reported: Reported::default(), shared }
    }

    pub(super) fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Makes the table agree with the sockets that there are.
    pub(super) fn look(&mut self, index: &Index) -> Looked {
        let resolve = |cgroup| Place::of(cgroup, index);
        let done = diag::reconcile(&mut self.holders, nanos, resolve);
        self.holders.resolve(resolve);
        let existing = self.reported.look(&self.holders, index, &self.shared);
        Looked { existing, errors: done.errors }
    }
}

/// Nanoseconds since boot, sleep included.
fn nanos() -> u64 {
    u64::try_from(now().monotonic.as_nanos()).unwrap_or(u64::MAX)
}
