//! Read-only views of the reconciler's state.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use enforcer_core::{
    index::Index,
    model::kernel_ids::BootNanos,
    reports::failing_binds::FailingBinds,
    sockets::{AnsweredPorts, BoundSockets, observed_ports::ObservedPorts},
    views::unenforced_time::PredecessorState,
};
use enforcer_ebpf::wire::{NodeMode, Policy};

use super::Reconciler;
use crate::{
    agent::error::ReconcilerError,
    kernel::{CounterMap, Counters, Kernel},
};

impl Reconciler {
    /// Returns the policy of the running programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.kernel.policy()
    }

    /// Checks whether the last [`Input::VerdictRing`](crate::agent::input::Input::VerdictRing) left records in the ring, so that the next one is due at once.
    #[must_use]
    pub fn has_verdict_backlog(&self) -> bool {
        self.verdict_backlog
    }

    /// Returns whether every origin of claims has delivered a complete list.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.index.is_synced()
    }

    /// Checks whether enforcement outlives the agent.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.kernel.is_persistent()
    }

    /// Returns the state in which the previous agent left the node.
    #[must_use]
    pub fn predecessor(&self) -> PredecessorState {
        self.predecessor
    }

    /// Returns when the maps that this agent took over were filled from a boot state; `None` if an agent filled them.
    #[must_use]
    pub fn boot_restored_at(&self) -> Option<BootNanos> {
        self.boot_restored_at
    }

    /// Returns whether it is known what is in force on the node: from the sources, or from before this agent.
    #[must_use]
    pub fn knows_claims(&self) -> bool {
        self.restored || self.is_synced()
    }

    /// Returns a number that is another one whenever what is in force may have changed.
    #[must_use]
    pub fn claim_changes(&self) -> u64 {
        self.claim_changes
    }

    /// Returns the mode that an operator set on the node.
    #[must_use]
    pub fn node_mode(&self) -> NodeMode {
        self.kernel.node_mode()
    }

    /// Returns when the lease expires unless it is renewed; `None` is never.
    #[must_use]
    pub fn lease_deadline(&self) -> Option<BootNanos> {
        self.kernel.lease_deadline()
    }

    /// Reads the exact counters.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, ReconcilerError> {
        Ok(self.kernel.counters().read()?)
    }

    /// Returns a handle on the exact counters.
    #[must_use]
    pub fn counter_map(&self) -> CounterMap {
        self.kernel.counters().clone()
    }

    /// Returns the number of cgroup records that were read.
    #[must_use]
    pub fn cgroup_events_seen(&self) -> u64 {
        self.cgroup_events_seen
    }

    /// Returns the index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Returns the table of bound sockets.
    #[must_use]
    pub fn bound_sockets(&self) -> &BoundSockets {
        self.sockets.bound_sockets()
    }

    /// Returns the binds that fail because another one holds the port.
    #[must_use]
    pub fn failing_binds(&self) -> &FailingBinds {
        &self.failing_binds
    }

    /// Returns the ports that pods bound and do not declare.
    #[must_use]
    pub fn observed_ports(&self) -> &ObservedPorts {
        &self.observed_ports
    }

    /// Returns the ports of Ready pods that others answer.
    #[must_use]
    pub fn answered_ports(&self) -> &AnsweredPorts {
        self.answers.ports()
    }

    /// Returns the path of the cgroup that the programs are attached to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root.path
    }

    /// Returns the rings of cgroups, verdicts and sockets.
    pub(in crate::agent) fn rings(&self) -> [BorrowedFd<'_>; 3] {
        [self.cgroup_ring.as_fd(), self.verdict_ring.as_fd(), self.socket_ring.as_fd()]
    }

    /// Returns the kernel side.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Returns the kernel side, to be changed.
    pub fn kernel_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}
