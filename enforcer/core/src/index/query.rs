//! What others ask of the index.

use enforcer_ebpf::wire::Protocol;

use crate::{
    index::{Index, owner::OwnerState},
    model::{
        owner::{ClaimGroup, OwnerId},
        port_spec::Address,
        source::ClaimSource,
    },
};

/// A claim in force on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveClaim {
    /// Whose it is.
    pub owner: OwnerId,
    /// Its address.
    pub address: Address,
    /// Where it was declared.
    pub source: ClaimSource,
}

impl Index {
    /// The claims in force on a port.
    #[must_use]
    pub fn claims_in_force(&self, protocol: Protocol, port: u16) -> Vec<ActiveClaim> {
        self.port_table.in_force(protocol, port)
    }

    /// The ports with claims in force, whatever their protocols and addresses, those whose claims came first in front.
    #[must_use]
    pub fn ports_in_force(&self) -> Vec<u16> {
        let mut ports: Vec<(i64, u16)> =
            self.port_table.ports_in_force().into_iter().map(|(port, since)| (since, port)).collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// A number that is another one whenever [`Self::ports_in_force`] says other ports.
    #[must_use]
    pub fn ports_generation(&self) -> u64 {
        self.port_table.generation()
    }

    /// Whether a pod of this namespace is known.
    #[must_use]
    pub fn has_pods_in(&self, namespace: &str) -> bool {
        self.pods.keys().any(|(of, _)| of == namespace)
    }

    /// A number that is another one whenever [`Self::has_pods_in`] may say something else.
    #[must_use]
    pub fn pods_generation(&self) -> u64 {
        self.pods_generation
    }

    /// The pod that a cgroup belongs to, if it is known.
    #[must_use]
    pub fn owner_by_cgroup(&self, cgroup: u64) -> Option<OwnerId> {
        self.tree.pod(cgroup).and_then(|pod| self.uids.get(&pod.key)).copied()
    }

    /// The own cgroup of the pod that a cgroup belongs to, whether or not the pod is known.
    #[must_use]
    pub fn pod_cgroup(&self, cgroup: u64) -> Option<u64> {
        self.tree.pod(cgroup).map(|pod| pod.id)
    }

    /// Whether the first is an older pod of the workload that the second is of.
    #[must_use]
    pub fn is_older_revision(&self, one: OwnerId, other: OwnerId) -> bool {
        match (self.owners.get(&one), self.owners.get(&other)) {
            (Some(one), Some(other)) => {
                one.workload.is_some()
                    && one.workload == other.workload
                    && (one.since, one.id) < (other.since, other.id)
            }
            _ => false,
        }
    }

    /// Whether two owners may hold the same port at once: they are one, of one share group, or successors in one workload.
    #[must_use]
    pub fn may_share(&self, one: OwnerId, other: OwnerId) -> bool {
        let (Some(one), Some(other)) = (self.owners.get(&one), self.owners.get(&other)) else {
            return one == other;
        };
        one.group_key() == other.group_key() || is_successor(one, other) || is_successor(other, one)
    }

    /// Whether somebody may hold what this owner has claimed. `holder` is the pod, if it is known.
    #[must_use]
    pub fn may_hold(&self, holder: Option<OwnerId>, is_host: bool, owner: OwnerId) -> bool {
        let Some(owner) = self.owners.get(&owner) else {
            return true;
        };
        let holder = holder.and_then(|holder| self.owners.get(&holder));
        match (owner.group_key(), holder) {
            // What the node reserved belongs to host processes and node software together.
            (ClaimGroup::Node, None) => is_host,
            (ClaimGroup::Node, Some(holder)) => holder.class.is_software(),
            (_, None) => false,
            (entity, Some(holder)) => entity == holder.group_key() || is_successor(owner, holder),
        }
    }
}

/// Whether a port of the first is handed over to the second.
fn is_successor(owner: &OwnerState, other: &OwnerState) -> bool {
    owner.handover_to().is_some() && owner.handover_to() == other.workload
}
