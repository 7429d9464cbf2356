//! The pods of this node, the cgroups below the attached root, the claims in force: kept in step with whatever comes
//! in, and what follows for the kernel's maps and for people.
//!
//! It is driven from outside: a source calls [`Index::apply`], [`Index::delete`] and [`Index::reset`], the kernel's
//! cgroup events go to [`Index::cgroup_made`] and [`Index::cgroup_removed`], and the time comes with every call. What
//! follows waits in [`Index::take`].

mod identity;
mod ledger;
mod modes;
mod names;
mod owner;
mod query;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use enforcer_ebpf::abi::{self, Protocol, UidKey};

use crate::core::{
    arbiter::OwnerId,
    cgroup_tree::{CgroupTree, Made, PodCgroup},
    claims::{Source, claims_of},
    index::{
        ledger::Ledger,
        names::Interner,
        owner::{Kind, Owner},
    },
    plan::Change,
    pod::{Phase, Pod, WorkloadKey},
    slots::Slots,
};

pub use names::Name;
pub use query::ClaimInForce;
pub use types::{MODE_LABEL, Mode, NamespaceMode, Notice, Now, Output, PortList, Settings};

/// See the module's documentation.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    owners: HashMap<OwnerId, Owner>,
    pods: HashMap<(String, String), OwnerId>,
    uids: HashMap<UidKey, OwnerId>,
    pod_cgroups: HashMap<UidKey, Vec<PodCgroup>>,
    tree: CgroupTree,
    slots: Slots,
    groups: Interner<(String, String)>,
    workloads: Interner<WorkloadKey>,
    ledger: Ledger,
    graces: BTreeSet<(Duration, OwnerId)>,
    /// Modes by namespace, from valid labels.
    modes: HashMap<String, Mode>,
    /// Pods that wait for a UID: another pod has it, or it is a static pod's and its cgroup has not been seen.
    waiting: HashMap<UidKey, BTreeSet<(String, String)>>,
    past: names::Past,
    last_id: OwnerId,
    output: Output,
}

impl Index {
    /// An index for the cgroups below the one with the id `root`. The node's own claims are in force at once.
    #[must_use]
    pub fn new(settings: Settings, root: u64) -> Self {
        let mut index = Self {
            owners: HashMap::new(),
            pods: HashMap::new(),
            uids: HashMap::new(),
            pod_cgroups: HashMap::new(),
            tree: CgroupTree::new(root),
            slots: Slots::default(),
            groups: Interner::default(),
            workloads: Interner::default(),
            ledger: Ledger::default(),
            graces: BTreeSet::new(),
            modes: HashMap::new(),
            waiting: HashMap::new(),
            past: names::Past::default(),
            last_id: 0,
            output: Output::default(),
            settings,
        };
        index.add_node();
        index
    }

    fn add_node(&mut self) {
        let id = self.next_id();
        let slot = self.slots.take();
        let owner = Owner::node(id, slot);
        self.output.changes.extend(owner.change());
        self.owners.insert(id, owner);
        let mut stakes = BTreeMap::new();
        for spec in &self.settings.node_reserved {
            for port in spec.ports {
                stakes.insert((spec.protocol, port, spec.address), Source::Reserved);
            }
        }
        self.ledger.restake(id, stakes, i64::MIN);
        self.settle();
    }

    fn next_id(&mut self) -> OwnerId {
        self.last_id += 1;
        self.last_id
    }

    /// Takes what follows from the inputs so far.
    pub fn take(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }

    /// A pod is there, or changed.
    pub fn apply(&mut self, pod: Pod, now: Now) {
        self.apply_unsettled(pod, now);
        self.settle();
    }

    /// A pod is gone.
    pub fn delete(&mut self, namespace: &str, name: &str, now: Now) {
        if let Some(&id) = self.pods.get(&(namespace.to_owned(), name.to_owned())) {
            self.remove_pod(id, now);
            self.settle();
        }
    }

    /// These are all pods there are: whatever is not among them is gone.
    pub fn reset(&mut self, pods: Vec<Pod>, now: Now) {
        let present: HashSet<(String, String)> =
            pods.iter().map(|pod| (pod.namespace.clone(), pod.name.clone())).collect();
        let gone: Vec<OwnerId> =
            self.pods.iter().filter(|(key, _)| !present.contains(*key)).map(|(_, &id)| id).collect();
        for id in gone {
            self.remove_pod(id, now);
        }
        for pod in pods {
            self.apply_unsettled(pod, now);
        }
        self.settle();
    }

    fn apply_unsettled(&mut self, pod: Pod, now: Now) {
        let key = (pod.namespace.clone(), pod.name.clone());
        if let Some(&id) = self.pods.get(&key) {
            let same = self.owners.get(&id).is_some_and(|owner| owner.uid_text() == pod.uid_text);
            if same {
                self.update_pod(id, pod, now);
                return;
            }
            // Another pod of the same name, as a StatefulSet makes them.
            self.remove_pod(id, now);
        }
        let id = self.next_id();
        self.pods.insert(key, id);
        let wanted = self.wanted_key(&pod);
        let class = self.class_of(&pod, wanted);
        let mut owner = Owner::pod(id, class, &pod);
        self.give_identity(&mut owner, wanted);
        if owner.key.is_some() && owner.key != pod.uid {
            owner.hash.clone_from(&pod.config_hash);
        }
        self.owners.insert(id, owner);
        self.update_pod(id, pod, now);
    }

    fn update_pod(&mut self, id: OwnerId, pod: Pod, now: Now) {
        let claims = claims_of(&pod, &self.settings.limits);
        let group = pod.share.as_ref().map(|share| self.groups.intern(&(pod.namespace.clone(), share.clone())));
        let workload = pod.workload.as_ref().map(|workload| self.workloads.intern(&workload.key()));
        let mode = self.mode_of(&pod.namespace);
        let Some(owner) = self.owners.get_mut(&id) else {
            return;
        };
        let (old_group, old_workload) = (owner.group, owner.workload);
        owner.group = group;
        owner.workload = workload;
        owner.terminating = pod.deletion.is_some();
        owner.terminal = pod.phase != Phase::Active;
        owner.mode = mode;
        if owner.hash.as_ref().is_some_and(|hash| pod.config_hash.as_ref() != Some(hash)) && !owner.hash_told {
            owner.hash_told = true;
            let why = "its kubernetes.io/config.hash changed, which is ignored";
            self.output.notices.push(Notice::MirrorRejected { pod: owner.name.clone(), why });
        }
        for problem in &claims.problems {
            if !owner.told.contains(problem) {
                self.output.notices.push(Notice::Problem { pod: owner.name.clone(), problem: problem.clone() });
            }
        }
        if claims.more_problems > 0 && claims.more_problems != owner.more_told {
            let notice = Notice::MoreProblems { pod: owner.name.clone(), count: claims.more_problems };
            self.output.notices.push(notice);
        }
        owner.more_told = claims.more_problems;
        owner.told = claims.problems;

        let first = !owner.arrived;
        owner.arrived = true;
        let since = if first { pod.arrival } else { now.wall };
        let live = owner.slot.is_some() && !owner.terminal && !owner.cgroup_ended;
        owner.claims = claims.claims;
        owner.set_pod(pod);
        self.output.changes.extend(owner.change());
        if first {
            let cgroups = owner.key.and_then(|key| self.pod_cgroups.get(&key)).map(Vec::as_slice);
            self.output.changes.extend(owner.identity_changes(cgroups.unwrap_or_default()));
        }
        let stakes = owner.stakes();
        // Whatever points at the owner must be written anew when it goes or changes group.
        self.ledger.touch(id);
        self.ledger.restake(id, if live { stakes } else { BTreeMap::new() }, since);
        if let Some(old) = old_group {
            self.groups.release(old);
        }
        if let Some(old) = old_workload {
            self.workloads.release(old);
        }
    }

    fn pod_cgroups_of(&self, id: OwnerId) -> &[PodCgroup] {
        let key = self.owners.get(&id).and_then(|owner| owner.key);
        key.and_then(|key| self.pod_cgroups.get(&key)).map(Vec::as_slice).unwrap_or_default()
    }

    fn remove_pod(&mut self, id: OwnerId, now: Now) {
        let cgroups = self.pod_cgroups_of(id).to_vec();
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let (namespace, name) = (owner.name.namespace.clone(), owner.name.name.clone());
        let key = owner.key;
        let name = (namespace, name);
        if owner.pod.is_some() {
            self.waiting.retain(|_, names| {
                names.remove(&name);
                !names.is_empty()
            });
        }
        self.leave_remnant(id, now);
        self.pods.remove(&name);
        self.ledger.restake(id, BTreeMap::new(), now.wall);
        // Before the slot is free, nothing may point at it any more.
        self.settle();
        if let Some(key) = key {
            self.uids.remove(&key);
            self.output.changes.push(Change::UidGone { key });
            for cgroup in cgroups {
                self.output.changes.push(owner::cgroup_change(&cgroup, 0));
            }
        }
        self.free(id);
        if let Some(key) = key {
            self.wake(key, now);
        }
    }

    /// Frees an owner that nothing points at any more.
    fn free(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.remove(&id) else {
            return;
        };
        if let Some(slot) = owner.slot {
            self.output.changes.push(Change::Owner { slot, owner: abi::Owner::default() });
            self.slots.give_back(slot);
        }
        if let Some(group) = owner.group {
            self.groups.release(group);
        }
        if let Some(workload) = owner.workload {
            self.workloads.release(workload);
        }
        self.past.remember(id, owner.name);
    }

    /// The ports of a controlled pod stay with its workload for a while, so that its successor finds them and a
    /// squatter does not. Not so after the pod has done its work or failed: then nobody succeeds it there.
    fn leave_remnant(&mut self, id: OwnerId, now: Now) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let grace = self.settings.handover_grace;
        let Some(workload) = owner.workload else {
            return;
        };
        if owner.terminal || grace.is_zero() || owner.kind != Kind::Pod || !self.ledger.any_in_force(id) {
            return;
        }
        let (name, class, group) = (owner.name.clone(), owner.class, owner.group);
        let Some(slot) = self.slots.take() else {
            return;
        };
        let left = self.next_id();
        self.workloads.hold(workload);
        let remnant = Owner::remnant(left, slot, class, name, workload);
        self.output.changes.extend(remnant.change());
        self.owners.insert(left, remnant);
        let owners = &self.owners;
        let is_kin = |other: OwnerId| {
            other != id && group.is_some() && owners.get(&other).is_some_and(|other| other.group == group)
        };
        self.ledger.bequeath(id, left, is_kin);
        self.graces.insert((now.monotonic + grace, left));
    }

    /// When [`Self::tick`] is to be called next, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.graces.first().map(|(at, _)| *at)
    }

    /// Time went by: ends the graces that are over.
    pub fn tick(&mut self, now: Now) {
        while let Some(&(at, id)) = self.graces.first() {
            if at > now.monotonic {
                break;
            }
            self.graces.pop_first();
            self.ledger.restake(id, BTreeMap::new(), now.wall);
            self.settle();
            self.free(id);
        }
    }

    /// A cgroup was made, or found by reading the tree. Tells whether the tree should be read anew.
    pub fn cgroup_made(&mut self, id: u64, parent: u64, name: &str, now: Now) -> Made {
        let made = self.tree.made(id, parent, name);
        let Made::Pod(cgroup) = made else {
            return made;
        };
        let known = self.pod_cgroups.entry(cgroup.key).or_default();
        if !known.iter().any(|known| known.id == id) {
            known.push(cgroup);
        }
        if !self.uids.contains_key(&cgroup.key) {
            self.wake(cgroup.key, now);
        }
        let owner = self.uids.get(&cgroup.key).copied();
        let slot = owner.and_then(|owner| self.enter_cgroup(owner, cgroup, now)).unwrap_or(0);
        self.output.changes.push(owner::cgroup_change(&cgroup, slot));
        self.settle();
        made
    }

    fn enter_cgroup(&mut self, id: OwnerId, cgroup: PodCgroup, now: Now) -> Option<abi::Slot> {
        let owner = self.owners.get_mut(&id)?;
        if owner.cgroup.is_none() {
            owner.cgroup = Some(cgroup);
            self.output.changes.extend(owner.change());
        }
        let slot = owner.slot;
        if owner.cgroup_ended {
            // The pod came back, after its cgroup had gone.
            owner.cgroup_ended = false;
            if !owner.terminal {
                let stakes = owner.stakes();
                self.ledger.restake(id, stakes, now.wall);
            }
        }
        slot
    }

    /// A cgroup was removed.
    pub fn cgroup_removed(&mut self, id: u64, now: Now) {
        let Some(cgroup) = self.tree.removed(id) else {
            return;
        };
        self.output.changes.push(Change::CgroupGone { id });
        let left = self.pod_cgroups.get_mut(&cgroup.key).map(|known| {
            known.retain(|known| known.id != id);
            known.first().copied()
        });
        let next = left.flatten();
        if next.is_none() {
            self.pod_cgroups.remove(&cgroup.key);
        }
        let Some(&owner_id) = self.uids.get(&cgroup.key) else {
            return;
        };
        let Some(owner) = self.owners.get_mut(&owner_id) else {
            return;
        };
        if owner.cgroup.is_some_and(|known| known.id == id) {
            owner.cgroup = next;
            self.output.changes.extend(owner.change());
        }
        if next.is_none() {
            // The pod is over, even if its object stays (a finalizer, an API server that cannot be reached).
            self.leave_remnant(owner_id, now);
            if let Some(owner) = self.owners.get_mut(&owner_id) {
                owner.cgroup_ended = true;
            }
            self.ledger.restake(owner_id, BTreeMap::new(), now.wall);
            self.settle();
        }
    }

    /// The tree was read and holds just these: whatever else was known is gone.
    pub fn cgroups_are(&mut self, present: &HashSet<u64>, now: Now) {
        let gone: Vec<u64> = self.tree.ids().filter(|id| !present.contains(id)).collect();
        for id in gone {
            self.cgroup_removed(id, now);
        }
    }

    fn settle(&mut self) {
        let owners = &self.owners;
        let told = self.ledger.settle(|id| owners.get(&id), &mut self.output.changes);
        self.output.notices.extend(told);
        for id in self.ledger.take_spent() {
            // A remnant whose ports all found an heir has nothing left to hold.
            if self.owners.get(&id).is_some_and(|owner| owner.kind == Kind::Remnant) {
                self.graces.retain(|(_, left)| *left != id);
                self.free(id);
            }
        }
    }

    /// The name of an owner, also for a while after it went.
    #[must_use]
    pub fn name(&self, id: OwnerId) -> Option<&Name> {
        self.owners.get(&id).map(|owner| &owner.name).or_else(|| self.past.name(id))
    }

    /// The pod that a cgroup belongs to, by its id: a pod's own or one below.
    #[must_use]
    pub fn name_by_cgroup(&self, cgroup: u64) -> Option<&Name> {
        let pod = self.tree.pod(cgroup)?;
        self.uids.get(&pod.key).and_then(|id| self.name(*id))
    }

    /// UID of the pod that a cgroup belongs to, from the cgroup's name, whether or not the pod is known.
    #[must_use]
    pub fn uid_by_cgroup(&self, cgroup: u64) -> Option<UidKey> {
        self.tree.pod(cgroup).map(|pod| pod.key)
    }

    /// Name of the container that a cgroup belongs to, or the beginning of its id where the name is not known.
    #[must_use]
    pub fn container(&self, cgroup: u64) -> Option<String> {
        let id = self.tree.container(cgroup)?;
        let pod = self.tree.pod(cgroup).and_then(|pod| self.uids.get(&pod.key)).and_then(|id| self.owners.get(id));
        let named = pod.and_then(|owner| owner.container_name(id));
        Some(named.map_or_else(|| id.chars().take(12).collect(), str::to_owned))
    }

    /// Whether the cgroup is known.
    #[must_use]
    pub fn knows_cgroup(&self, id: u64) -> bool {
        self.tree.contains(id)
    }

    /// Where an owner declared a port that a bind to this address would overlap.
    #[must_use]
    pub fn source(&self, id: OwnerId, protocol: Protocol, port: u16) -> Option<Source> {
        self.ledger.source(id, protocol, port)
    }

    /// How many claims are in force, and how many have lost.
    #[must_use]
    pub fn claim_counts(&self) -> (usize, usize) {
        self.ledger.counts()
    }

    /// How many pods are known.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }
}
