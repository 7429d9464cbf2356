//! The pods of this node, the cgroups below the attached root, the claims in force: kept in step with whatever comes
//! in, and what follows for the kernel's maps and for people.
//!
//! It is driven from outside: a source calls [`Index::apply`], [`Index::delete`] and [`Index::reset`], the kernel's
//! cgroup events go to [`Index::cgroup_created`] and [`Index::cgroup_removed`], and the time comes with every call. What
//! follows waits in [`Index::drain_output`].

mod actor;
mod cgroups;
mod identity;
mod inspect;
mod interner;
mod lookups;
mod namespace_labels;
mod notice;
mod output;
mod own_pod;
mod owner;
mod port_table;
mod recent_names;
mod removal;
mod restore;
mod services;
mod settings;
#[cfg(test)]
mod tests;
mod what_if;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use enforcer_ebpf::wire::{MAX_REVISION, Protocol, UidKey};

use crate::{
    arbitration::quota::QuotaTracker,
    cgroups::tree::{CgroupTree, PlacedPodCgroup},
    index::{
        identity::static_key,
        interner::Interner,
        namespace_labels::PortLimits,
        owner::{OwnerState, PortClaimSet},
        port_table::PortTable,
        recent_names::RecentNames,
    },
    model::{
        digest::Digest,
        kernel_ids::CgroupId,
        mode::Mode,
        now::Now,
        owner::{OwnerId, OwnerKind},
        quota::Resource,
        source::{ClaimOrigin, ClaimSource},
    },
    plan::slots::SlotAllocator,
    pods::pod::{Phase, Pod, Workload, uid_key},
};

pub use inspect::{ClaimStatus, ClaimView, OwnerView};
pub use lookups::{ActiveClaim, ReadyPod};
pub use notice::Notice;
pub use output::{IndexOutput, MapUsage};
pub use restore::{RestoreSummary, RestoredFrom};
pub use settings::{ServicePortsMode, Settings};

/// Index of the pods, cgroups and claims of the node.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    owners: HashMap<OwnerId, OwnerState>,
    pods: HashMap<(String, String), OwnerId>,
    services: HashMap<(String, String), OwnerId>,
    /// Another number whenever [`Self::pods`] changes.
    pods_generation: u64,
    uids: HashMap<UidKey, OwnerId>,
    pod_cgroups: HashMap<UidKey, Vec<PlacedPodCgroup>>,
    pod_cgroup_count: usize,
    tree: CgroupTree,
    /// Names of cgroups outside of the tree in which host processes hold ports; `None` for those that have no name.
    host_units: HashMap<CgroupId, Option<String>>,
    slots: SlotAllocator,
    quotas: QuotaTracker,
    groups: Interner<Digest>,
    workloads: Interner<Digest>,
    /// Revisions by the number of their workload.
    revisions: Interner<(u32, String)>,
    port_table: PortTable,
    reservations: BTreeSet<(Duration, OwnerId)>,
    /// Modes by namespace, from valid labels.
    modes: HashMap<String, Mode>,
    port_limits: PortLimits,
    /// Pods that wait for a UID: another pod has it, or it is a static pod's and its cgroup has not been seen.
    waiting: HashMap<UidKey, BTreeSet<(String, String)>>,
    /// The name of the mirror pod that first said it mirrors a static pod, for as long as that one's cgroup is there.
    mirrors: HashMap<UidKey, (String, String)>,
    /// UIDs that such pods may get as soon as all that came at once was taken in.
    released_uids: BTreeSet<UidKey>,
    recent_names: RecentNames,
    /// Origins whose complete list is in force, or was once.
    synced: BTreeSet<ClaimOrigin>,
    /// Id of the next owner.
    next_id: OwnerId,
    output: IndexOutput,
}

/// Pods that are staged, and not in force yet.
#[derive(Debug, Default)]
#[must_use]
pub struct Staged {
    /// Owners that are no more, and go when the others are in force.
    gone: Vec<OwnerId>,
    /// Origin whose complete list it is.
    listed: Option<ClaimOrigin>,
}

impl Index {
    /// Creates an index for the cgroups below the one with the id `root`. The node's own claims are in force at once.
    #[must_use]
    pub fn new(settings: Settings, root: CgroupId) -> Self {
        let mut index = Self {
            owners: HashMap::new(),
            pods: HashMap::new(),
            services: HashMap::new(),
            pods_generation: 0,
            uids: HashMap::new(),
            pod_cgroups: HashMap::new(),
            pod_cgroup_count: 0,
            tree: CgroupTree::new(root),
            host_units: HashMap::new(),
            slots: SlotAllocator::default(),
            quotas: QuotaTracker::new(settings.capacity),
            groups: Interner::default(),
            workloads: Interner::default(),
            revisions: Interner::up_to(MAX_REVISION),
            port_table: PortTable::default(),
            reservations: BTreeSet::new(),
            modes: HashMap::new(),
            port_limits: PortLimits::new(settings.limits.namespace_max_ports),
            waiting: HashMap::new(),
            mirrors: HashMap::new(),
            released_uids: BTreeSet::new(),
            recent_names: RecentNames::default(),
            synced: BTreeSet::new(),
            next_id: OwnerId::FIRST,
            output: IndexOutput::default(),
            settings,
        };
        index.add_node();
        index
    }

    fn add_node(&mut self) {
        let id = self.next_id();
        let slot = self.slots.take();
        self.owners.insert(id, OwnerState::node(id, slot));
        self.write_owner(id);
        let mut stakes = BTreeMap::new();
        for spec in &self.settings.node_reserved {
            for port in spec.ports {
                stakes.insert((spec.protocol, port, spec.address), ClaimSource::Reserved);
            }
        }
        self.set_claims(id, stakes, i64::MIN);
        self.arbitrate_dirty();
        self.synced.insert(ClaimOrigin::Settings);
        if self.settings.service_ports == ServicePortsMode::Off {
            self.synced.insert(ClaimOrigin::Services);
        }
    }

    fn next_id(&mut self) -> OwnerId {
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        id
    }

    /// Takes what follows from the inputs so far.
    pub fn drain_output(&mut self) -> IndexOutput {
        std::mem::take(&mut self.output)
    }

    /// Applies a pod that is there or changed: stages and commits it.
    pub fn apply(&mut self, pod: Pod, now: Now) {
        self.stage(pod, now);
        self.commit(Staged::default(), now);
    }

    /// Does the first half of [`Self::apply`]: it sets who the pod is. Its claims wait for [`Self::commit`], so that
    /// what belongs to the pod can be recognised before anybody is denied for its sake.
    pub fn stage(&mut self, pod: Pod, now: Now) {
        self.stage_pod(pod, now);
    }

    /// Does the second half of [`Self::apply`] or [`Self::reset`]: what was staged is in force.
    pub fn commit(&mut self, staged: Staged, now: Now) {
        let Staged { gone, listed } = staged;
        for &id in &gone {
            self.withdraw_claims(id, now);
        }
        self.arbitrate_dirty();
        for id in gone {
            self.release_identity(id, now);
        }
        self.retry_released(now);
        self.arbitrate_dirty();
        if listed == Some(ClaimOrigin::Pods) {
            self.end_leniency();
        }
        self.synced.extend(listed);
    }

    /// Removes a pod that is gone.
    pub fn delete(&mut self, namespace: &str, name: &str, now: Now) {
        if let Some(&id) = self.pods.get(&(namespace.to_owned(), name.to_owned())) {
            self.remove_pod(id, now);
            self.arbitrate_dirty();
        }
    }

    /// Replaces all pods by these: whatever is not among them is gone.
    ///
    /// What goes and what comes is arbitrated at once, so that no port of a share group or workload that goes on is
    /// anybody's between the two.
    pub fn reset(&mut self, pods: Vec<Pod>, now: Now) {
        let staged = self.stage_all(pods, now);
        self.commit(staged, now);
    }

    /// Does the first half of [`Self::reset`], as [`Self::stage`] is of [`Self::apply`].
    pub fn stage_all(&mut self, pods: Vec<Pod>, now: Now) -> Staged {
        let listed: HashMap<(&str, &str), &str> =
            pods.iter().map(|pod| ((&*pod.namespace, &*pod.name), &*pod.uid_text)).collect();
        let is_listed = |owner: &OwnerState| {
            listed.get(&(&*owner.name.namespace, &*owner.name.name)).is_some_and(|uid| *uid == owner.uid_text())
        };
        let mut gone: Vec<OwnerId> = self.pods.values().copied().collect();
        gone.retain(|id| self.owners.get(id).is_some_and(|owner| !is_listed(owner)));
        gone.sort_unstable();
        // A UID that another pod says it has must be free before that one comes.
        let wanted: HashSet<UidKey> = pods.iter().flat_map(|pod| [pod.uid, static_key(pod)]).flatten().collect();
        let in_the_way = |id: &OwnerId| {
            let key = self.owners.get(id).and_then(|owner| owner.key);
            key.is_some_and(|key| wanted.contains(&key))
        };
        let (first, gone): (Vec<OwnerId>, Vec<OwnerId>) = gone.into_iter().partition(in_the_way);
        for id in first {
            self.remove_pod(id, now);
        }
        for &id in &gone {
            self.unlink_name(id);
        }
        for pod in pods {
            self.stage_pod(pod, now);
        }
        Staged { gone, listed: Some(ClaimOrigin::Pods) }
    }

    fn stage_pod(&mut self, mut pod: Pod, now: Now) {
        own_pod::leave_to_node(&mut pod, &self.settings);
        let key = (pod.namespace.clone(), pod.name.clone());
        if let Some(&id) = self.pods.get(&key) {
            let same = self.owners.get(&id).is_some_and(|owner| owner.uid_text() == pod.uid_text);
            let admitted =
                self.owners.get(&id).is_some_and(|owner| !owner.exceeds_quota || !self.is_within_quota(owner));
            if same && admitted {
                self.confirm_restored(id, &pod);
                self.update_pod(id, pod, now);
                return;
            }
            // Another pod of the same name, as a StatefulSet makes them; or there is room for it now.
            self.remove_pod(id, now);
        }
        let id = self.next_id();
        self.pods.insert(key, id);
        self.pods_generation += 1;
        let wanted = self.wanted_key(&pod);
        let class = self.class_in(&pod.namespace, wanted);
        let mut owner = OwnerState::pod(id, class, &pod);
        self.give_identity(&mut owner, wanted);
        owner.mirror = owner.key.is_some() && owner.key != pod.uid;
        self.owners.insert(id, owner);
        self.update_pod(id, pod, now);
    }

    fn update_pod(&mut self, id: OwnerId, pod: Pod, now: Now) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let claims = self.limited_claims(&pod, owner);
        let claimed = claims.digest();
        let group = pod.share.as_ref().map(|share| self.groups.intern(&Digest::of("share", [&*pod.namespace, share])));
        let workload = pod.workload.as_ref().map(|workload| self.workloads.intern(&workload.key().digest()));
        let revision = workload.map_or(0, |workload| self.revisions.intern(&(workload, pod.revision.clone())));
        let mode = self.mode_of(&pod.namespace);
        if pod.deletion.is_some() && pod.phase != Phase::Active {
            // Since Kubernetes 1.27 the kubelet gives a pod that was asked to go its last phase before the object goes:
            // that is the end of a going pod and not of one that ended by itself.
            self.leave_reservation(id, now);
        }
        let Some(owner) = self.owners.get_mut(&id) else {
            return;
        };
        let (old_group, old_workload, old_revision) = (owner.group, owner.workload, owner.revision);
        owner.group = group;
        owner.workload = workload;
        owner.workload_name = pod.workload.as_ref().map(Workload::display_name);
        owner.revision = revision;
        owner.daemon = pod.workload.as_ref().is_some_and(Workload::is_daemon);
        owner.terminating = pod.deletion.is_some();
        owner.terminal = pod.phase != Phase::Active;
        owner.mode = mode;
        if owner.mirror && pod.config_hash.as_deref().and_then(uid_key) != owner.key && !owner.hash_change_reported {
            owner.hash_change_reported = true;
            let why = "its kubernetes.io/config.hash changed, which is ignored";
            self.output.notices.push(Notice::MirrorRejected { pod: owner.name.clone(), why });
        }
        for problem in &claims.problems {
            if !owner.reported_problems.contains(problem) {
                self.output.notices.push(Notice::Problem { pod: owner.name.clone(), problem: problem.clone() });
            }
        }
        if claims.more_problems > 0 && claims.more_problems != owner.more_reported {
            let notice = Notice::MoreProblems { pod: owner.name.clone(), count: claims.more_problems };
            self.output.notices.push(notice);
        }
        owner.more_reported = claims.more_problems;
        owner.reported_problems = claims.problems;

        let before = owner.port_claims();
        owner.exceeds_limit = claims.exceeds_limit;
        owner.claims = claims.claims;
        let stakes = owner.port_claims();
        let first = !std::mem::replace(&mut owner.arrived, true);
        let grew = if std::mem::take(&mut owner.restored) {
            // Of what was not in force nobody knows whether it was claimed, only whether all is as it was.
            owner.claimed != claimed
        } else {
            stakes.keys().any(|stake| !before.contains_key(stake))
        };
        owner.claimed = claimed;
        if first {
            owner.since = pod.arrival;
        } else if grew {
            owner.since = owner.since.max(now.wall);
        }
        let since = if first || !grew { owner.since } else { now.wall };
        let live = owner.is_live();
        owner.set_pod(pod);
        self.update_quota(id);
        self.write_owner(id);
        if first {
            let cgroups = self.pod_cgroups_of(id).to_vec();
            let identity = self.owners.get(&id).map(|owner| owner.identity_changes(&cgroups));
            self.output.changes.extend(identity.into_iter().flatten());
        }
        // Whatever points at the owner must be written anew when it goes or changes group.
        self.port_table.touch(id);
        self.set_claims(id, if live { stakes } else { BTreeMap::new() }, since);
        if let Some(old) = old_group {
            self.groups.release(old);
        }
        if let Some(old) = old_workload {
            self.workloads.release(old);
        }
        self.revisions.release(old_revision);
    }

    /// Notes that an owner bound a port by name. Only ports that it claims are noted, so that what a pod binds takes no
    /// memory.
    pub fn note_bound(&mut self, owner: OwnerId, protocol: Protocol, port: u16) {
        if self.port_table.has_claim(owner, protocol, port)
            && let Some(owner) = self.owners.get_mut(&owner)
        {
            owner.note_bound(protocol, port);
        }
    }

    /// Notes that all sockets that there are were looked at since the start: what an owner that the last agent knew has
    /// bound is known from now on.
    pub fn note_all_sockets_seen(&mut self) {
        for owner in self.owners.values_mut() {
            owner.set_bound_before(false);
        }
    }

    /// Counts what an owner has now.
    fn update_quota(&mut self, id: OwnerId) {
        if let Some(owner) = self.owners.get_mut(&id) {
            let takes = owner.usage();
            self.quotas.replace(&owner.name.namespace, std::mem::replace(&mut owner.usage, takes), takes);
        }
    }

    /// Checks whether there is room for one more pod where there was none.
    fn is_within_quota(&self, owner: &OwnerState) -> bool {
        self.quotas.remaining(Resource::Pods, owner.class, &owner.name.namespace, owner.usage).most > 0
    }

    /// Makes these all the claims of the owner; new ones arrived at `since`.
    fn set_claims(&mut self, id: OwnerId, stakes: PortClaimSet, since: i64) {
        let owners = &self.owners;
        let party = owners.get(&id).map(OwnerState::party);
        let is_one = |other| {
            let other = owners.get(&other).map(OwnerState::party);
            party.zip(other).is_some_and(|(party, other)| party.is_one_with(other))
        };
        self.port_table.set_claims(id, stakes, since, is_one);
    }

    /// Writes an owner for the kernel, and before it what the next agent must know of it.
    fn write_owner(&mut self, id: OwnerId) {
        self.write_record(id);
        self.output.changes.extend(self.owners.get(&id).and_then(OwnerState::change));
    }

    fn write_record(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get_mut(&id) else {
            return;
        };
        let group = owner.group.and_then(|group| self.groups.key(group)).copied();
        let workload = owner.workload.and_then(|workload| self.workloads.key(workload)).copied();
        self.output.changes.extend(owner.record_change(group, workload));
    }

    /// Puts in force what follows from the inputs so far: nothing is left to do after any of them but those that say so.
    pub fn arbitrate_dirty(&mut self) {
        let owners = &self.owners;
        let notices = self.port_table.arbitrate_dirty(|id| owners.get(&id), &mut self.output.changes);
        self.output.notices.extend(notices);
        for id in self.port_table.take_owners_without_claims() {
            // A handover reservation whose ports all found an heir has nothing left to hold.
            if self.owners.get(&id).is_some_and(|owner| owner.kind == OwnerKind::HandoverReservation) {
                self.reservations.retain(|(_, left)| *left != id);
                self.free_slot(id);
            }
        }
    }
}
