//! What the last agent knew, taken over: its claims in force are in force again before anybody has said anything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use enforcer_ebpf::wire::{self, Protocol, Slot, UidKey};

use crate::{
    cgroups::tree::PlacedPodCgroup,
    index::{ClaimStatus, Index, ServicePortsMode, identity::static_key, owner::OwnerState, recent_names},
    model::{
        digest::Digest,
        kernel_ids::CgroupId,
        name::{Handover, Name},
        now::Now,
        owner::{OwnerClass, OwnerId, OwnerKind},
        port_spec::{Address, PortSpec, compress},
        source::ClaimSource,
    },
    plan::{
        owner_record::{OwnerRecord, RecordedOwner},
        recover::RecoveredOwner,
    },
    pods::{claims::PodClaim, pod::Pod},
};

/// Ids from here on are given anew: no agent has come so far.
const IDS_END: u32 = 1 << 31;

/// Where the owners come from that are restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoredFrom {
    /// The maps of the last agent, whose programs judged until now.
    Agent,
    /// A boot state, or the maps that were filled from one: nobody looked while the node was off.
    ///
    /// A pod that is new since then is not known, and cannot be told from a stranger. It may be node software whose pods
    /// were replaced, or the successor that a handover reservation waits for. So the claims of the system namespaces'
    /// pods and of reservations are reported, and deny nobody, until the pods are listed.
    BootState,
}

/// Result of restoring the owners of the last agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Number of pods that are known again.
    pub pods: usize,
    /// Number of Services that are known again.
    pub services: usize,
    /// Number of handover reservations that go on.
    pub reservations: usize,
    /// Pods that cannot be taken over: another one has their name or UID, or there is no room. Their claims end.
    pub refused: Vec<Name>,
}

/// The members of a share group or of a workload, by its digest, that claim the very same.
type Alike = (Digest, Digest);

impl Index {
    /// Takes over what the last agent knew: just the claims that were in force then are in force again, save those that
    /// the new settings stand against.
    ///
    /// To be called once, on a new index, before anything else; then the cgroup tree is read ([`Self::cgroup_created`],
    /// [`Self::reset_cgroups`]), and then the sources may speak. The tree comes second because a pod whose cgroup is no
    /// longer there has ended while no agent was looking: its claims end with it, and its workload has the handover
    /// grace from now. A pod that never had a cgroup is still awaited. What remains of a grace that was running then
    /// goes on; one that is over is not taken up again.
    ///
    /// Owners keep their ids, so that what the kernel reported meanwhile names the right ones; they get new slots. The
    /// node's own claims, the ranks and the limits are those of the new settings. Modes of namespaces hold until
    /// [`Self::reset_namespace_labels`]: a source that knows no namespaces should say so by calling it with none.
    ///
    /// The first [`Self::reset`] then ends what is gone and confirms what is still there: a pod with the same
    /// namespace, name and UID keeps what it has in force whoever else wants it.
    ///
    /// Of a share group or a workload, the maps name one member for each port. Members that claim just what that one does
    /// are in force with it from the beginning, others as soon as they are listed: if the one that is named ended or left
    /// the group meanwhile, what only they claim beside it waits for the list.
    pub fn restore(&mut self, remembered: Vec<RecoveredOwner>, from: RestoredFrom, now: Now) -> RestoreSummary {
        let mut restored = RestoreSummary::default();
        let last = remembered.iter().map(|owner| owner.id).filter(|id| id.get() < IDS_END).max();
        if !remembered.is_empty() {
            // Others came later and are gone already, but what the kernel told of them may not have been read yet.
            let gap = u32::try_from(recent_names::MAX_RECENT_NAMES).unwrap_or(u32::MAX);
            let last = last.unwrap_or(OwnerId::FIRST);
            self.next_id = self.next_id.max(last.saturating_add(gap).saturating_add(1));
        }
        let shared = shared_claims(&remembered);
        for RecoveredOwner { id, cgroup, record, claims } in remembered {
            match record.subject {
                // This agent's own node claims what the settings say.
                RecordedOwner::Node => {}
                RecordedOwner::Pod { key, claims: digest, .. } => {
                    let parties = [record.group, record.workload].into_iter().flatten();
                    let alike = parties.filter_map(|party| shared.get(&(party, digest))).flatten();
                    let claims: BTreeSet<PortSpec> = claims.iter().chain(alike).copied().collect();
                    let claims: Vec<PortSpec> = claims.into_iter().collect();
                    let name = record.name.clone();
                    if self.restore_pod(id, key, record, cgroup, &claims).is_some() {
                        restored.pods += 1;
                    } else {
                        restored.refused.push(name);
                    }
                }
                RecordedOwner::HandoverReservation { until } => {
                    // The new settings may have a shorter grace.
                    let until = until.min(now.boottime + self.settings.handover_grace);
                    if until > now.boottime && self.restore_reservation(id, until, record, &claims, now).is_some() {
                        restored.reservations += 1;
                    }
                }
                RecordedOwner::Service => {
                    if self.restore_service(id, record, &claims).is_some() {
                        restored.services += 1;
                    }
                }
            }
        }
        if from == RestoredFrom::BootState {
            self.begin_leniency();
        }
        self.arbitrate_dirty();
        restored
    }

    /// Makes the claims advisory that could deny node software or an heir whom nobody knows.
    fn begin_leniency(&mut self) {
        self.set_leniency(true, |owner| {
            owner.class == OwnerClass::System || owner.kind == OwnerKind::HandoverReservation
        });
    }

    /// Ends that: the pods are known.
    pub(super) fn end_leniency(&mut self) {
        self.set_leniency(false, |owner| owner.lenient);
    }

    fn set_leniency(&mut self, lenient: bool, concerns: impl Fn(&OwnerState) -> bool) {
        let concerned = self.owners.iter_mut().filter(|(_, owner)| concerns(owner));
        let ids: Vec<OwnerId> = concerned
            .map(|(id, owner)| {
                owner.lenient = lenient;
                *id
            })
            .collect();
        for id in ids {
            self.write_owner(id);
        }
    }

    /// Returns the owners with their claims in force, as the next agent would find them in the kernel's maps; in the
    /// order of their slots. The node is left out: its claims are those of the settings.
    #[must_use]
    pub fn owners_in_force(&self) -> Vec<RecoveredOwner> {
        let mut ports: HashMap<OwnerId, BTreeMap<(Protocol, Address), Vec<u16>>> = HashMap::new();
        for claim in self.claims().filter(|claim| claim.stand == ClaimStatus::InForce) {
            let of_owner = ports.entry(claim.owner).or_default();
            of_owner.entry((claim.protocol, claim.address)).or_default().push(claim.port);
        }
        let mut owners: Vec<&OwnerState> =
            self.owners.values().filter(|owner| owner.kind != OwnerKind::Node && owner.slot.is_some()).collect();
        owners.sort_unstable_by_key(|owner| owner.slot);
        let recovered = owners.into_iter().filter_map(|owner| {
            let group = owner.group.and_then(|group| self.groups.key(group)).copied();
            let workload = owner.workload.and_then(|workload| self.workloads.key(workload)).copied();
            let record = owner.record(group, workload)?;
            // A name that has no room in a record has none there either.
            record.encode()?;
            let cgroup = owner.cgroup.map(|cgroup| (cgroup.id, cgroup.level));
            let claims =
                ports.remove(&owner.id).unwrap_or_default().into_iter().flat_map(|((protocol, address), ports)| {
                    compress(ports).into_iter().map(move |ports| PortSpec { protocol, address, ports })
                });
            Some(RecoveredOwner { id: owner.id, cgroup, record, claims: claims.collect() })
        });
        recovered.collect()
    }

    fn restore_pod(
        &mut self,
        id: OwnerId,
        key: UidKey,
        record: OwnerRecord,
        cgroup: Option<(CgroupId, u8)>,
        claims: &[PortSpec],
    ) -> Option<()> {
        let RecordedOwner::Pod { claims: digest, terminal, ended, mirror, .. } = record.subject else {
            return None;
        };
        let full_name = (record.name.namespace.clone(), record.name.name.clone());
        let taken = self.pods.contains_key(&full_name) || self.uids.contains_key(&key);
        // They had room, unless a namespace is no longer one of the system's: then what they have stays theirs.
        if taken || self.uids.len() >= wire::MAX_POD_UIDS as usize {
            return None;
        }
        let slot = self.slots.take()?;
        if let Some(mode) = record.mode {
            self.modes.entry(full_name.0.clone()).or_insert(mode);
        }
        // Where its cgroup has ended, the kernel still has the old one's id.
        if let Some(cgroup) = cgroup.filter(|_| !ended).map(|(id, level)| PlacedPodCgroup { id, level, key }) {
            self.tree.remember(cgroup);
            let known = self.pod_cgroups.entry(key).or_default();
            if !known.iter().any(|known| known.id == cgroup.id) {
                known.push(cgroup);
                self.pod_cgroup_count += 1;
            }
        }
        let id = self.free_id(id);
        let class = self.class_in(&full_name.0, Some(key));
        let mut owner = self.restored_owner(id, OwnerKind::Pod, slot, class, record);
        owner.key = Some(key);
        owner.terminal = terminal;
        owner.cgroup_ended = ended;
        owner.mirror = mirror;
        if mirror {
            // Its place is not another's because the agent was away.
            self.mirrors.insert(key, full_name.clone());
        }
        owner.mode = self.mode_of(&full_name.0);
        owner.claims = claims.iter().map(|&spec| PodClaim { spec, source: ClaimSource::Recovered }).collect();
        owner.claimed = digest;
        owner.cgroup = self.pod_cgroups.get(&key).and_then(|cgroups| cgroups.first()).copied();
        self.uids.insert(key, id);
        self.pods.insert(full_name, id);
        self.pods_generation += 1;
        self.enter_restored(owner);
        Some(())
    }

    fn restore_reservation(
        &mut self,
        id: OwnerId,
        until: Duration,
        record: OwnerRecord,
        claims: &[PortSpec],
        now: Now,
    ) -> Option<()> {
        // Without a workload there is nobody to keep anything for.
        record.workload?;
        if claims.is_empty() {
            return None;
        }
        let slot = self.slots.take()?;
        let id = self.free_id(id);
        let class = match record.class {
            OwnerClass::Static => OwnerClass::Static,
            _ => self.class_in(&record.name.namespace, None),
        };
        let mut owner = self.restored_owner(id, OwnerKind::HandoverReservation, slot, class, record);
        owner.until = Some(until);
        let left = until.saturating_sub(now.boottime).as_micros();
        let ends = now.wall.saturating_add(i64::try_from(left).unwrap_or(i64::MAX));
        let workload = owner.name.handover.take().and_then(|handover| handover.workload);
        owner.workload_name.clone_from(&workload);
        owner.name.handover = Some(Box::new(Handover { workload, until: ends }));
        owner.claims = claims.iter().map(|&spec| PodClaim { spec, source: ClaimSource::Recovered }).collect();
        self.reservations.insert((until, id));
        self.enter_restored(owner);
        Some(())
    }

    /// Restores a Service, unless Services have no effect any more.
    fn restore_service(&mut self, id: OwnerId, record: OwnerRecord, claims: &[PortSpec]) -> Option<()> {
        let full_name = (record.name.namespace.clone(), record.name.name.clone());
        if self.settings.service_ports == ServicePortsMode::Off || self.services.contains_key(&full_name) {
            return None;
        }
        let slot = self.slots.take()?;
        let id = self.free_id(id);
        let mut owner = self.restored_owner(id, OwnerKind::Service, slot, OwnerClass::Tenant, record);
        owner.advisory = self.settings.service_ports == ServicePortsMode::Audit;
        owner.claims = claims.iter().map(|&spec| PodClaim { spec, source: ClaimSource::Recovered }).collect();
        self.services.insert(full_name, id);
        self.enter_restored(owner);
        Some(())
    }

    fn free_id(&mut self, id: OwnerId) -> OwnerId {
        if id.get() >= IDS_END || self.owners.contains_key(&id) { self.next_id() } else { id }
    }

    fn restored_owner(
        &mut self,
        id: OwnerId,
        kind: OwnerKind,
        slot: Slot,
        class: OwnerClass,
        record: OwnerRecord,
    ) -> OwnerState {
        let mut owner = OwnerState::new(id, kind, class, record.name, Some(slot));
        owner.set_bound_before(true);
        owner.group = record.group.as_ref().map(|group| self.groups.intern(group));
        owner.workload = record.workload.as_ref().map(|workload| self.workloads.intern(workload));
        owner.terminating = record.terminating;
        owner.since = record.since;
        owner.arrived = true;
        owner.restored = true;
        owner
    }

    fn enter_restored(&mut self, owner: OwnerState) {
        let (id, since) = (owner.id, owner.since);
        let stakes = if owner.is_live() { owner.port_claims() } else { BTreeMap::new() };
        self.owners.insert(id, owner);
        self.update_quota(id);
        self.write_owner(id);
        let cgroups = self.pod_cgroups_of(id).to_vec();
        if let Some(owner) = self.owners.get(&id) {
            self.output.changes.extend(owner.identity_changes(&cgroups));
        }
        // They were in force together, so nothing among them stands against another; only the new settings may.
        self.set_claims(id, stakes, since);
    }

    /// Confirms a restored owner: the source knows the pod too.
    pub(super) fn confirm_restored(&mut self, id: OwnerId, pod: &Pod) {
        let Some(owner) = self.owners.get(&id).filter(|owner| owner.restored && !owner.mirror) else {
            return;
        };
        // A mirror pod that waited for its static pod waits again. Who was accepted stays what it is.
        if let Some(key) = static_key(pod).filter(|key| owner.key != Some(*key)) {
            self.wait_for(key, pod);
            self.released_uids.insert(key);
        }
    }

    /// Gives those that were confirmed and wait for the UID of a static pod what may be there already.
    pub(super) fn retry_released(&mut self, now: Now) {
        for key in std::mem::take(&mut self.released_uids) {
            if self.pod_cgroups.contains_key(&key) && !self.uids.contains_key(&key) {
                self.retry_waiting(key, now);
            }
        }
    }
}

/// Finds the claims that are shared: the maps name one member of a share group or one sibling where several claim the
/// same. Members that claim just the same, which is what the members of a group and siblings do, have the same in
/// force: the group keeps it when the one that is named goes first.
fn shared_claims(remembered: &[RecoveredOwner]) -> HashMap<Alike, BTreeSet<PortSpec>> {
    let mut shared: HashMap<Alike, BTreeSet<PortSpec>> = HashMap::new();
    for owner in remembered {
        let RecordedOwner::Pod { claims, .. } = &owner.record.subject else {
            continue;
        };
        for party in [owner.record.group, owner.record.workload].into_iter().flatten() {
            shared.entry((party, *claims)).or_default().extend(&owner.claims);
        }
    }
    shared
}
