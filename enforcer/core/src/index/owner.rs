//! State of one owner: a pod, the handover reservation of a pod, the node, or a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use enforcer_ebpf::{
    decide::is_rollout,
    wire::{
        self, CGROUP_UNKNOWN, OWNER_ADVISORY, OWNER_DAEMON, OWNER_MODE_AUDIT, OWNER_MODE_ENFORCE, OWNER_NODE,
        OWNER_SERVICE, OWNER_SOFTWARE, OWNER_TERMINATING, Protocol, Slot, UidForm, UidKey,
    },
};

use crate::{
    arbitration::{arbiter::Claimant, quota::Usage},
    cgroups::tree::PlacedPodCgroup,
    model::{
        digest::Digest,
        mode::Mode,
        name::Name,
        owner::{ClaimGroup, ClaimParty, OwnerClass, OwnerId, OwnerKind},
        port_spec::{Address, PortSpec},
        source::ClaimSource,
    },
    plan::{
        owner_record::{OwnerRecord, RecordedOwner},
        port_state::Change,
    },
    pods::{
        claims::{ClaimProblem, PodClaim, single_addresses},
        pod::{ContainerRef, Pod},
        probes::Probes,
    },
};

/// Claims port by port, with where each was made.
pub(super) type PortClaimSet = BTreeMap<(Protocol, u16, Address), ClaimSource>;

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a pod's life, not one state")]
pub(super) struct OwnerState {
    pub(super) id: OwnerId,
    pub(super) kind: OwnerKind,
    pub(super) class: OwnerClass,
    pub(super) name: Name,
    /// Place in the kernel's map; `None` if its claims bind nobody.
    pub(super) slot: Option<Slot>,
    pub(super) key: Option<UidKey>,
    pub(super) group: Option<u32>,
    pub(super) workload: Option<u32>,
    /// Revision of its workload; 0 where it is not known.
    pub(super) revision: u32,
    /// It is a pod of a `DaemonSet`.
    pub(super) daemon: bool,
    /// Its claims are reported and never deny.
    pub(super) advisory: bool,
    /// Its claims deny nobody until the pods of the node are listed: see [`RestoredFrom::BootState`].
    ///
    /// [`RestoredFrom::BootState`]: crate::index::RestoredFrom::BootState
    pub(super) lenient: bool,
    pub(super) terminating: bool,
    /// Phase of the pod is `Succeeded` or `Failed`.
    pub(super) terminal: bool,
    /// The owner went through its first update.
    pub(super) arrived: bool,
    pub(super) cgroup: Option<PlacedPodCgroup>,
    /// Its cgroup was there and went.
    pub(super) cgroup_ended: bool,
    pub(super) claims: Vec<PodClaim>,
    pub(super) reported_problems: Vec<ClaimProblem>,
    pub(super) more_reported: usize,
    /// The namespace's mode, where it overrides the node's.
    pub(super) mode: Option<Mode>,
    /// Arrival of the youngest of its claims, in microseconds since 1970.
    pub(super) since: i64,
    /// Digest of its claims.
    pub(super) claimed: Digest,
    /// It is known from the last agent, and the source has not spoken of it yet.
    pub(super) restored: bool,
    /// End of a handover reservation, as time since boot.
    pub(super) until: Option<Duration>,
    /// Kind and name of its workload, for people; `None` where no source has said so.
    pub(super) workload_name: Option<(String, String)>,
    /// Ports among its claims that it bound.
    bound: BTreeSet<(Protocol, u16)>,
    /// It was there before this agent, so that it may have bound any of its ports.
    bound_before: bool,
    /// A mirror pod that was accepted as a static pod: the key is from its `config.hash`.
    pub(super) mirror: bool,
    /// A changed hash was reported.
    pub(super) hash_change_reported: bool,
    /// The pod is on the node's network; `None` as long as no source has said so.
    pub(super) host_network: Option<bool>,
    /// There was no room for it.
    pub(super) exceeds_quota: bool,
    /// It claims more ports than one pod of its namespace may.
    pub(super) exceeds_limit: bool,
    /// Its usage of limited resources, as counted last.
    pub(super) usage: Usage,
    /// The pod itself, as long as it waits for its UID. Its annotation holds what of it counts.
    pub(super) pod: Option<Box<Pod>>,
    containers: Vec<ContainerRef>,
    /// Its probes; `None` for a pod with a network of its own, and where no source has said so.
    pub(super) probes: Option<Box<Probes>>,
    /// Checksum of what was written down of it last.
    recorded: Option<[u8; 8]>,
}

impl OwnerState {
    pub(super) fn new(id: OwnerId, kind: OwnerKind, class: OwnerClass, name: Name, slot: Option<Slot>) -> Self {
        Self {
            id,
            kind,
            class,
            name,
            slot,
            key: None,
            group: None,
            workload: None,
            revision: 0,
            daemon: false,
            advisory: false,
            lenient: false,
            terminating: false,
            terminal: false,
            arrived: false,
            cgroup: None,
            cgroup_ended: false,
            claims: Vec::new(),
            reported_problems: Vec::new(),
            more_reported: 0,
            mode: None,
            since: 0,
            claimed: Digest::default(),
            restored: false,
            until: None,
            workload_name: None,
            bound: BTreeSet::new(),
            bound_before: false,
            mirror: false,
            hash_change_reported: false,
            host_network: None,
            exceeds_quota: false,
            exceeds_limit: false,
            usage: Usage::default(),
            pod: None,
            containers: Vec::new(),
            probes: None,
            recorded: None,
        }
    }

    pub(super) fn node(id: OwnerId, slot: Option<Slot>) -> Self {
        Self::new(id, OwnerKind::Node, OwnerClass::Node, Name::node(), slot)
    }

    pub(super) fn pod(id: OwnerId, class: OwnerClass, pod: &Pod) -> Self {
        Self::new(id, OwnerKind::Pod, class, pod.owner_name(), None)
    }

    pub(super) fn reservation(
        id: OwnerId,
        slot: Slot,
        class: OwnerClass,
        name: Name,
        workload: u32,
        until: Duration,
    ) -> Self {
        let mut reservation = Self::new(id, OwnerKind::HandoverReservation, class, name, Some(slot));
        reservation.workload = Some(workload);
        reservation.terminating = true;
        reservation.until = Some(until);
        reservation
    }

    /// Notes that it bound a port that it claims.
    pub(super) fn note_bound(&mut self, protocol: Protocol, port: u16) {
        self.bound.insert((protocol, port));
    }

    /// Notes whether it may have bound ports that nobody saw.
    pub(super) fn set_bound_before(&mut self, bound_before: bool) {
        self.bound_before = bound_before;
    }

    /// Returns whether it bound the port, as far as anybody knows.
    pub(super) fn had_bound(&self, protocol: Protocol, port: u16) -> bool {
        self.bound_before || self.bound.contains(&(protocol, port))
    }

    pub(super) fn set_pod(&mut self, mut pod: Pod) {
        self.containers.clone_from(&pod.containers);
        self.probes.clone_from(&pod.probes);
        self.host_network = Some(pod.host_network);
        let waits = (self.slot.is_none() && !self.exceeds_quota) || (pod.mirror.is_some() && !self.mirror);
        self.pod = waits.then(|| {
            // What counts for nothing was told, and could be large.
            let items = self.claims.iter().filter(|claim| claim.source == ClaimSource::Annotation);
            let items: Vec<String> = items.map(|claim| claim.spec.to_string()).collect();
            pod.ports_annotation = (!items.is_empty()).then(|| items.join(","));
            Box::new(pod)
        });
    }

    /// Returns its usage of limited resources, by what it is and claims now.
    pub(super) fn usage(&self) -> Usage {
        let sum = |count: fn(&PortSpec) -> u32| self.claims.iter().map(|claim| count(&claim.spec) as usize).sum();
        Usage {
            pods: usize::from(self.kind == OwnerKind::Pod && self.slot.is_some()),
            handovers: usize::from(self.kind == OwnerKind::HandoverReservation),
            services: usize::from(self.kind == OwnerKind::Service),
            claims: sum(|spec| spec.ports.len()),
            addresses: sum(single_addresses),
        }
    }

    pub(super) fn uid_text(&self) -> &str {
        &self.name.uid
    }

    pub(super) fn container_name(&self, id: &str) -> Option<&str> {
        self.containers.iter().find(|container| container.id == id).map(|container| container.name.as_str())
    }

    /// Returns its claims port by port. Of claims that repeat a port and address, the first one's source counts.
    pub(super) fn port_claims(&self) -> PortClaimSet {
        let mut stakes = BTreeMap::new();
        for claim in &self.claims {
            for port in claim.spec.ports {
                stakes.entry((claim.spec.protocol, port, claim.spec.address)).or_insert(claim.source);
            }
        }
        stakes
    }

    fn group_key(&self) -> ClaimGroup {
        match (self.kind, self.group) {
            (OwnerKind::Node, _) => ClaimGroup::Node,
            (_, Some(group)) => ClaimGroup::Group(group),
            (_, None) => ClaimGroup::Pod(self.id),
        }
    }

    pub(super) fn party(&self) -> ClaimParty {
        ClaimParty { group: self.group_key(), workload: self.workload }
    }

    /// Returns whether it and another owner may hold one port at once: one of them leaves and the other is its sibling,
    /// they share, or they are a rollout of one workload.
    pub(super) fn may_share_with(&self, other: &Self) -> bool {
        self.group_key() == other.group_key()
            || self.workload.is_some()
                && self.workload == other.workload
                && (self.terminating
                    || other.terminating
                    || is_rollout(self.element().flags_and_revision(), other.element().flags_and_revision()))
    }

    pub(super) fn claimant(&self) -> Claimant<'_> {
        Claimant {
            kind: self.kind,
            class: self.class,
            party: self.party(),
            name: (&self.name.namespace, &self.name.name),
        }
    }

    /// Returns whether its claims count.
    pub(super) fn is_live(&self) -> bool {
        self.slot.is_some() && !self.terminal && !self.cgroup_ended
    }

    /// Returns whether it has a record.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Returns what the next agent must know of it; `None` for a pod without a UID of its own.
    pub(super) fn record(&self, group: Option<Digest>, workload: Option<Digest>) -> Option<OwnerRecord> {
        let subject = match self.kind {
            OwnerKind::Node => RecordedOwner::Node,
            OwnerKind::Pod => RecordedOwner::Pod {
                key: self.key?,
                claims: self.claimed,
                terminal: self.terminal,
                ended: self.cgroup_ended,
                mirror: self.mirror,
            },
            OwnerKind::HandoverReservation => RecordedOwner::HandoverReservation { until: self.until? },
            OwnerKind::Service => RecordedOwner::Service,
        };
        Some(OwnerRecord {
            subject,
            class: self.class,
            name: self.name.clone(),
            group,
            workload,
            terminating: self.terminating,
            mode: self.mode,
            since: self.since,
        })
    }

    /// Returns the step that writes its record, if that is not written already.
    pub(super) fn record_change(&mut self, group: Option<Digest>, workload: Option<Digest>) -> Option<Change> {
        let slot = self.slot?;
        let bytes = self.record(group, workload)?.encode()?;
        let checksum = bytes.last_chunk().copied();
        if self.recorded == checksum {
            return None;
        }
        self.recorded = checksum;
        Some(Change::OwnerRecord { slot, bytes })
    }

    /// Returns the step that writes it into the kernel's map.
    pub(super) fn change(&self) -> Option<Change> {
        self.slot.map(|slot| Change::Owner { slot, owner: self.element() })
    }

    /// Returns its element in the kernel's map.
    pub(super) fn element(&self) -> wire::Owner {
        let mut flags = 0;
        if self.kind == OwnerKind::Node {
            flags |= OWNER_NODE;
        }
        if self.kind == OwnerKind::Service {
            flags |= OWNER_SERVICE;
        }
        if self.advisory || self.lenient {
            flags |= OWNER_ADVISORY;
        }
        if self.class.is_software() {
            flags |= OWNER_SOFTWARE;
        }
        if self.terminating {
            flags |= OWNER_TERMINATING;
        }
        if self.daemon {
            flags |= OWNER_DAEMON;
        }
        match self.mode {
            Some(Mode::Audit) => flags |= OWNER_MODE_AUDIT,
            Some(Mode::Enforce) => flags |= OWNER_MODE_ENFORCE,
            None => {}
        }
        let (cgroup, level) = self.cgroup.map_or((CGROUP_UNKNOWN, 0), |cgroup| (cgroup.id.get(), cgroup.level));
        let (group, workload) = (self.group.unwrap_or(0), self.workload.unwrap_or(0));
        wire::Owner::new(cgroup, self.id.get(), flags, level, group, workload).with_revision(self.revision)
    }

    /// Returns the steps by which the kernel recognises the pod, once the owner is written.
    pub(super) fn identity_changes(&self, cgroups: &[PlacedPodCgroup]) -> Vec<Change> {
        let (Some(key), Some(slot)) = (self.key, self.slot) else {
            return Vec::new();
        };
        let known = cgroups.iter().map(|cgroup| cgroup_change(cgroup, slot));
        [Change::Uid { key, slot }].into_iter().chain(known).collect()
    }
}

/// Returns the step that writes the owner of a pod's cgroup into the kernel's map; slot 0 is nobody known.
pub(super) fn cgroup_change(cgroup: &PlacedPodCgroup, slot: Slot) -> Change {
    let form = UidForm::from_wire(cgroup.key.form).unwrap_or(UidForm::Api);
    Change::Cgroup { id: cgroup.id, level: cgroup.level, slot, form }
}
