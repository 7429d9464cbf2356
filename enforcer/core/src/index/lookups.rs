//! Questions of the agent's loop: who owns, holds or may share a port, and how much there is.
//!
//! The rule: what the agent needs to name, count or judge what comes in is here. What only people ask, for `status` and
//! `explain`, is in [`super::inspect`].

use enforcer_ebpf::wire::{Protocol, UidKey};

use crate::{
    index::{Index, MapUsage},
    model::{
        kernel_ids::CgroupId,
        name::Name,
        owner::{OwnerId, OwnerKind},
        port_spec::Address,
        source::{ClaimOrigin, ClaimSource},
    },
    pods::{claims::PodClaim, probes::Probes},
};

/// A claim in force on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveClaim {
    /// Its owner.
    pub owner: OwnerId,
    /// Its address.
    pub address: Address,
    /// Place where it is declared.
    pub source: ClaimSource,
}

/// A pod on the host network that is Ready, with what it is to serve.
#[derive(Clone, Copy, Debug)]
pub struct ReadyPod<'a> {
    /// Its id.
    pub id: OwnerId,
    /// Its name.
    pub name: &'a Name,
    /// Its probes.
    pub probes: &'a Probes,
    /// Its claims, in force or not.
    pub claims: &'a [PodClaim],
}

impl Index {
    /// Returns the pods on the host network that are Ready and do not terminate. A pod whose processes cannot be told
    /// from those of others is not among them.
    pub fn ready_pods(&self) -> impl Iterator<Item = ReadyPod<'_>> {
        self.owners.values().filter_map(|owner| {
            let probes = owner.probes.as_deref().filter(|probes| probes.is_ready)?;
            let is_recognised = owner.is_live() && owner.key.is_some() && owner.cgroup.is_some();
            (is_recognised && !owner.terminating).then_some(ReadyPod {
                id: owner.id,
                name: &owner.name,
                probes,
                claims: &owner.claims,
            })
        })
    }

    /// Returns the name of an owner, also for a while after it went.
    #[must_use]
    pub fn name(&self, id: OwnerId) -> Option<&Name> {
        self.owners.get(&id).map(|owner| &owner.name).or_else(|| self.recent_names.name(id))
    }

    /// Returns the pod that a cgroup belongs to, by its id: a pod's own or one below.
    #[must_use]
    pub fn name_by_cgroup(&self, cgroup: CgroupId) -> Option<&Name> {
        let pod = self.tree.pod(cgroup)?;
        self.uids.get(&pod.key).and_then(|id| self.name(*id))
    }

    /// Returns the UID of the pod that a cgroup belongs to, from the cgroup's name, whether or not the pod is known.
    #[must_use]
    pub fn uid_by_cgroup(&self, cgroup: CgroupId) -> Option<UidKey> {
        self.tree.pod(cgroup).map(|pod| pod.key)
    }

    /// Returns the name of the container that a cgroup belongs to, or the beginning of its id where the name is not
    /// known.
    #[must_use]
    pub fn container(&self, cgroup: CgroupId) -> Option<String> {
        let id = self.tree.container(cgroup)?;
        let pod = self.tree.pod(cgroup).and_then(|pod| self.uids.get(&pod.key)).and_then(|id| self.owners.get(id));
        let named = pod.and_then(|owner| owner.container_name(id));
        Some(named.map_or_else(|| id.chars().take(12).collect(), str::to_owned))
    }

    /// Returns the runtime's id of the container that a cgroup belongs to.
    #[must_use]
    pub fn container_id(&self, cgroup: CgroupId) -> Option<&str> {
        self.tree.container(cgroup)
    }

    /// Returns the name of a pod's container by the runtime's id, once the pod's status has shown it.
    #[must_use]
    pub fn container_name(&self, pod: OwnerId, id: &str) -> Option<&str> {
        self.owners.get(&pod)?.container_name(id)
    }

    /// Returns whether an owner bound a port that it claims, as far as anybody knows.
    #[must_use]
    pub fn had_bound(&self, owner: OwnerId, protocol: Protocol, port: u16) -> bool {
        self.owners.get(&owner).is_some_and(|owner| owner.had_bound(protocol, port))
    }

    /// Returns whether the cgroup is known.
    #[must_use]
    pub fn knows_cgroup(&self, id: CgroupId) -> bool {
        self.tree.contains(id)
    }

    /// Returns where an owner declared its claim on a port that a bind to this address overlaps.
    ///
    /// If none of its claims does, as when it stands in for another member of its share group, its first claim on the
    /// port counts.
    #[must_use]
    pub fn source(&self, id: OwnerId, protocol: Protocol, port: u16, address: Address) -> Option<ClaimSource> {
        self.port_table.source(id, protocol, port, address)
    }

    /// Returns whether a complete list of this origin is in force, or was once. Until then the claims of its owners are
    /// those that the previous agent left.
    #[must_use]
    pub fn is_source_synced(&self, origin: ClaimOrigin) -> bool {
        self.synced.contains(&origin)
    }

    /// Returns whether every origin of claims is synced.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        ClaimOrigin::ALL.into_iter().all(|origin| self.is_source_synced(origin))
    }

    /// Returns the number of claims in force, and of those that have lost.
    #[must_use]
    pub fn claim_counts(&self) -> (usize, usize) {
        let tally = self.port_table.tally();
        (tally.in_force, tally.lost)
    }

    /// Returns the numbers of entries of the kernel's maps that the index has planned.
    #[must_use]
    pub fn usage(&self) -> MapUsage {
        let tally = self.port_table.tally();
        MapUsage {
            ports: tally.ports,
            owners: self.slots.in_use(),
            exact: tally.exact,
            uids: self.uids.len(),
            cgroups: self.pod_cgroup_count,
        }
    }

    /// Returns the number of pods that are known.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Returns the claims in force on a port.
    #[must_use]
    pub fn claims_in_force(&self, protocol: Protocol, port: u16) -> Vec<ActiveClaim> {
        self.port_table.in_force(protocol, port)
    }

    /// Returns the ports with claims of pods and the node in force, whatever their protocols and addresses, those whose
    /// claims came first in front. A Service has no socket there that an outgoing connection could keep out.
    #[must_use]
    pub fn ports_in_force(&self) -> Vec<u16> {
        let ports = self.port_table.ports_in_force(|owner| !self.is_service(owner));
        let mut ports: Vec<(i64, u16)> = ports.into_iter().map(|(port, since)| (since, port)).collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// Returns a number that is another one whenever [`Self::ports_in_force`] says other ports.
    #[must_use]
    pub fn ports_generation(&self) -> u64 {
        self.port_table.generation()
    }

    /// Returns the number of Services with ports that are known.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Returns whether a pod of this namespace is known.
    #[must_use]
    pub fn has_pods_in(&self, namespace: &str) -> bool {
        self.pods.keys().any(|(of, _)| of == namespace)
    }

    /// Returns a number that is another one whenever [`Self::has_pods_in`] may say something else.
    #[must_use]
    pub fn pods_generation(&self) -> u64 {
        self.pods_generation
    }

    /// Returns the pod that a cgroup belongs to, if it is known.
    #[must_use]
    pub fn owner_by_cgroup(&self, cgroup: CgroupId) -> Option<OwnerId> {
        self.tree.pod(cgroup).and_then(|pod| self.uids.get(&pod.key)).copied()
    }

    /// Returns the own cgroup of the pod that a cgroup belongs to, whether or not the pod is known.
    #[must_use]
    pub fn pod_cgroup(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.tree.pod(cgroup).map(|pod| pod.id)
    }

    /// Returns whether the first is an older pod of the workload that the second is of.
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

    /// Returns whether two owners may hold the same port at once: they are one, of one share group, or siblings of whom
    /// one leaves or that are a rollout.
    #[must_use]
    pub fn may_share(&self, one: OwnerId, other: OwnerId) -> bool {
        let (Some(one), Some(other)) = (self.owners.get(&one), self.owners.get(&other)) else {
            return one == other;
        };
        one.may_share_with(other)
    }

    /// Returns whether somebody may hold what this owner has claimed. `holder` is the pod, if it is known.
    #[must_use]
    pub fn may_hold(&self, holder: Option<OwnerId>, is_host: bool, owner: OwnerId) -> bool {
        let Some(owner) = self.owners.get(&owner) else {
            return true;
        };
        let holder = holder.and_then(|holder| self.owners.get(&holder));
        match (owner.kind, holder) {
            // What the node reserved belongs to host processes and node software together.
            // What a Service takes too: a proxy may hold it by a socket.
            (OwnerKind::Node | OwnerKind::Service, None) => is_host,
            (OwnerKind::Node | OwnerKind::Service, Some(holder)) => holder.class.is_software(),
            (_, None) => false,
            (_, Some(holder)) => owner.party().is_one_with(holder.party()),
        }
    }
}
