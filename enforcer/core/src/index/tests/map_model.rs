//! The kernel's maps as a model, an index whose changes are carried out on it, and pods to drive it with.

use enforcer_ebpf::{
    decide::{Caller, CallerIdentity, Candidates, Cover, ModeOverride, Target, Verdict, decide},
    wire::{AddressKey, CGROUP_UNKNOWN, OWNER_RECORD_BYTES, Owner as Element, Policy, PortWord, Protocol, Slot},
};

use super::*;
use crate::{
    arbitration::quota::Usage,
    plan::{
        owner_record::OwnerRecord,
        port_state::Change,
        recover::{RecoveredOwner, RecoveredState, recover},
    },
};

pub(super) const ROOT: u64 = 1;
/// The cgroup of pod 1 is the one after this.
pub(super) const CGROUP_IDS: u64 = 100;

/// The kernel's maps.
#[derive(Clone)]
pub(super) struct Maps {
    pub(super) owners: BTreeMap<Slot, Element>,
    pub(super) uids: HashMap<UidKey, Slot>,
    pub(super) cgroups: HashMap<u64, Slot>,
    pub(super) exact: HashMap<AddressKey, Slot>,
    pub(super) ports: HashMap<(Protocol, u16), PortWord>,
    pub(super) records: BTreeMap<Slot, [u8; OWNER_RECORD_BYTES]>,
    pub(super) policy: Policy,
    /// Whether there are owners whose names do not fit into a record.
    pub(super) some_unrecorded: bool,
}

/// Conflicts are denied, undeclared ports are not.
pub(super) const ENFORCE: Policy = Policy::from_word(1);
/// Undeclared ports are denied too.
pub(super) const DECLARED_ONLY: Policy = Policy::from_word(3);

impl Default for Maps {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            uids: HashMap::new(),
            cgroups: HashMap::new(),
            exact: HashMap::new(),
            ports: HashMap::new(),
            records: BTreeMap::new(),
            policy: ENFORCE,
            some_unrecorded: false,
        }
    }
}

impl Maps {
    pub(super) fn carry_out(&mut self, change: &Change) {
        match *change {
            Change::Owner { slot, owner } if owner.id() == 0 => {
                self.owners.remove(&slot);
                self.check_nothing_points_at(slot);
            }
            Change::Owner { slot, owner } => {
                let recorded = self.some_unrecorded || self.records.contains_key(&slot);
                assert!(recorded, "what is known of an owner is written down before the owner is");
                let mut owner = owner;
                if let Some(before) = self.owners.get(&slot).filter(|_| owner.cgroup == CGROUP_UNKNOWN) {
                    // As the agent's facade does: `cgroup_mkdir` may have written them.
                    (owner.cgroup, owner.level) = (before.cgroup, before.level);
                }
                self.owners.insert(slot, owner);
            }
            Change::OwnerRecord { slot, ref bytes } => {
                assert!(OwnerRecord::decode(&bytes[..]).is_ok());
                let before = self.records.insert(slot, **bytes);
                assert!(before != Some(**bytes), "what is written down already is not written again");
            }
            Change::OwnerRecordGone { slot } => {
                assert!(!self.owners.contains_key(&slot), "an owner goes before what is written down of it");
                assert!(self.records.remove(&slot).is_some());
            }
            Change::Uid { key, slot } => {
                assert!(self.owners.contains_key(&slot), "an owner is written before its UID");
                self.uids.insert(key, slot);
            }
            Change::UidGone { key } => {
                self.uids.remove(&key);
            }
            Change::Cgroup { id, slot, .. } => {
                assert!(slot == 0 || self.owners.contains_key(&slot), "an owner is written before its cgroup");
                self.cgroups.insert(id.get(), slot);
            }
            Change::CgroupGone { id } => {
                self.cgroups.remove(&id.get());
            }
            Change::CgroupInPod { id, slot } => {
                assert!(slot == 0 || self.owners.contains_key(&slot), "an owner that is written");
                self.cgroups.remove(&id.get());
                if let Some(owner) = self.owners.get_mut(&slot).filter(|owner| owner.cgroup == id.get()) {
                    (owner.cgroup, owner.level) = (CGROUP_UNKNOWN, 0);
                }
            }
            Change::AddressOwner { key, slot } => {
                assert!(self.owners.contains_key(&slot), "an owner is written before an address points at it");
                self.exact.insert(key, slot);
            }
            Change::AddressOwnerGone { key } => {
                self.exact.remove(&key);
            }
            Change::Port { protocol, port, word } => {
                for slot in slots(word) {
                    assert!(self.owners.contains_key(&slot), "an owner is written before a port points at it");
                }
                if word == PortWord::UNCLAIMED {
                    self.ports.remove(&(protocol, port));
                } else {
                    self.ports.insert((protocol, port), word);
                }
            }
        }
    }

    fn check_nothing_points_at(&self, slot: Slot) {
        assert!(!self.uids.values().any(|other| *other == slot), "a UID points at a free slot");
        assert!(!self.cgroups.values().any(|other| *other == slot), "a cgroup points at a free slot");
        assert!(!self.exact.values().any(|other| *other == slot), "an address points at a free slot");
        assert!(!self.ports.values().any(|word| slots(*word).contains(&slot)), "a port points at a free slot");
    }

    fn candidates(&self, protocol: Protocol, port: u16, target: Target) -> Candidates {
        let word = self.ports.get(&(protocol, port)).copied().unwrap_or_default();
        let mut candidates = Candidates::of(word, Cover::of(&target));
        if candidates.exact {
            let key = match target {
                Target::V4(address) => AddressKey::v4(protocol, port, address),
                Target::V6 { address, .. } => AddressKey::v6(protocol, port, address),
            };
            if let Some(&slot) = self.exact.get(&key) {
                candidates.slots[0] = slot;
                candidates.covered = true;
            }
        }
        candidates
    }

    /// The owner ids whose claims a bind meets.
    pub(super) fn met(&self, protocol: Protocol, port: u16, target: Target) -> Vec<OwnerId> {
        let candidates = self.candidates(protocol, port, target);
        let owners = candidates.slots.iter().filter_map(|slot| self.owners.get(slot));
        let mut ids: Vec<OwnerId> = owners.filter_map(|owner| OwnerId::new(owner.id())).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

impl Maps {
    /// What the kernel answers to a task in this pod's cgroup.
    pub(super) fn verdict(&self, cgroup: u64, protocol: Protocol, port: u16, target: Target) -> Verdict {
        let Candidates { slots, covered, .. } = self.candidates(protocol, port, target);
        let owners = slots.map(|slot| self.owners.get(&slot).copied().unwrap_or_default());
        let caller = match self.cgroups.get(&cgroup) {
            None => Caller::Unresolved,
            Some(slot) => self.owners.get(slot).map_or(Caller::UnknownApi, |owner| Caller::Pod(*owner)),
        };
        decide(&owners, covered, &CallerIdentity::from(&caller), port, &self.policy, ModeOverride::default)
    }

    /// What the next agent finds.
    pub(super) fn recall(&self) -> RecoveredState {
        let ports = self.ports.iter().map(|(&(protocol, port), &word)| (protocol, port, word));
        let exact = self.exact.iter().map(|(&key, &slot)| (key, slot));
        recover(self.owners.clone(), |slot| self.records.get(&slot), ports, exact)
    }
}

fn slots(word: PortWord) -> Vec<Slot> {
    [word.v4().first, word.v4().second, word.v6().first, word.v6().second]
        .into_iter()
        .filter(|slot| *slot != 0)
        .collect()
}

pub(super) struct Rig {
    pub(super) index: Index,
    pub(super) maps: Maps,
    pub(super) notices: Vec<Notice>,
    /// The index asked for a new list.
    pub(super) relist: bool,
    pub(super) at: u64,
    /// Looks at the maps after every change.
    pub(super) watch: Option<Watch>,
    /// Every pod binds what it has in force as soon as it has it.
    pub(super) binds: bool,
    /// The ports in force, and their generation.
    ports: (BTreeSet<u16>, u64),
}

pub(super) type Watch = Box<dyn FnMut(&Maps, &Change)>;

impl Rig {
    pub(super) fn new(settings: Settings) -> Self {
        let mut rig = Self {
            index: Index::new(settings, CgroupId::new(ROOT)),
            maps: Maps::default(),
            notices: Vec::new(),
            relist: false,
            at: 1000,
            watch: None,
            binds: true,
            ports: (BTreeSet::new(), 0),
        };
        rig.flush();
        rig
    }

    /// The agent dies and another one comes, so many seconds later.
    pub(super) fn restart(&self, seconds: u64, settings: Settings) -> Self {
        Self::after(&self.maps, self.at + seconds, settings)
    }

    /// An agent that finds these maps.
    pub(super) fn after(maps: &Maps, at: u64, settings: Settings) -> Self {
        let mut next = Self::new(settings);
        next.at = at;
        next.maps.some_unrecorded = maps.some_unrecorded;
        let recalled = maps.recall();
        next.restore(recalled.owners, RestoredFrom::Agent);
        next
    }

    pub(super) fn restore(&mut self, owners: Vec<RecoveredOwner>, from: RestoredFrom) {
        let restored = self.index.restore(owners, from, self.now());
        assert_eq!(restored.refused, []);
        self.flush();
    }

    /// The whole cgroup tree is read.
    pub(super) fn rescan(&mut self, cgroups: &[u32]) {
        for &number in cgroups {
            self.made(u64::from(number) + CGROUP_IDS, ROOT, &cgroup_name(number));
        }
        let present = cgroups.iter().map(|number| CgroupId::new(u64::from(*number) + CGROUP_IDS)).collect();
        self.index.reset_cgroups(&present, self.now());
        self.flush();
    }

    pub(super) fn reset(&mut self, pods: Vec<Pod>) {
        self.index.reset(pods, self.now());
        self.flush();
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: i64::try_from(self.at).unwrap() * 1_000_000, boottime: Duration::from_secs(self.at) }
    }

    pub(super) fn flush(&mut self) {
        let output = self.index.drain_output();
        for change in &output.changes {
            self.maps.carry_out(change);
            if let Some(watch) = &mut self.watch {
                watch(&self.maps, change);
            }
        }
        self.notices.extend(output.notices);
        self.relist |= output.relist;
        if self.binds {
            let claims: Vec<_> = self.index.claims().filter(|claim| claim.stand == ClaimStatus::InForce).collect();
            for claim in claims {
                self.index.note_bound(claim.owner, claim.protocol, claim.port);
            }
        }
        self.check_room();
        let ports = (self.index.ports_in_force().into_iter().collect(), self.index.ports_generation());
        let before = std::mem::replace(&mut self.ports, ports);
        assert!(before.0 == self.ports.0 || before.1 != self.ports.1, "{before:?} became {:?}", self.ports);
    }

    /// What is counted is what there is.
    fn check_room(&self) {
        let mut all = Usage::default();
        for owner in self.index.owners.values() {
            let takes = owner.usage;
            assert!(owner.kind != OwnerKind::Pod || takes == owner.usage(), "{owner:?}");
            all.pods += takes.pods;
            all.handovers += takes.handovers;
            all.services += takes.services;
            all.claims += takes.claims;
            all.addresses += takes.addresses;
        }
        assert_eq!(self.index.quotas.all(), all);
        let usage = self.index.usage();
        let (in_force, lost) = self.index.claim_counts();
        let node: usize = self.index.settings.node_reserved.iter().map(|spec| spec.ports.len() as usize).sum();
        assert!(
            usage.uids <= all.pods && usage.owners == 1 + all.pods + all.handovers + all.services,
            "{usage:?} {all:?}"
        );
        assert!(usage.exact <= all.addresses + node && in_force + lost <= all.claims + node, "{usage:?} {all:?}");
    }

    pub(super) fn apply(&mut self, pod: Pod) {
        self.index.apply(pod, self.now());
        self.flush();
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.index.delete("default", name, self.now());
        self.flush();
    }

    pub(super) fn made(&mut self, id: u64, parent: u64, name: &str) {
        self.index.cgroup_created(CgroupId::new(id), CgroupId::new(parent), name, self.now());
        self.flush();
    }

    pub(super) fn removed(&mut self, id: u64) {
        self.index.cgroup_removed(CgroupId::new(id), self.now());
        self.flush();
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.at += seconds;
        self.index.handle_timeout(self.now());
        self.flush();
    }

    /// Names of the pods whose claims a bind to `0.0.0.0:port/tcp` meets.
    pub(super) fn owners(&self, port: u16) -> Vec<String> {
        let ids = self.maps.met(Protocol::Tcp, port, Target::V4([0; 4]));
        ids.into_iter().map(|id| self.index.name(id).unwrap().name.clone()).collect()
    }

    pub(super) fn told(&mut self) -> Vec<String> {
        let notices = std::mem::take(&mut self.notices);
        notices.iter().map(|notice| crate::reports::messages::notice_sentence(notice, "n")).collect()
    }
}

pub(super) fn uid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

pub(super) fn cgroup_name(number: u32) -> String {
    format!("kubepods-besteffort-pod{}.slice", uid(number).replace('-', "_"))
}

/// A pod with an annotation, arriving at second `number`.
pub(super) fn pod(number: u32, name: &str, ports: &str) -> Pod {
    let uid_text = uid(number);
    Pod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: uid_key(&uid_text),
        uid_text,
        node_name: None,
        host_network: true,
        workload: None,
        share: None,
        ports_annotation: Some(ports.to_owned()),
        ports: Vec::new(),
        phase: Phase::Active,
        deletion: None,
        arrival: i64::from(number) * 1_000_000,
        mirror: None,
        revision: String::new(),
        config_hash: None,
        containers: Vec::new(),
        problems: Vec::new(),
        more_problems: 0,
        probes: None,
    }
}

pub(super) fn of_workload(mut pod: Pod, workload: &str) -> Pod {
    pod.workload = Some(Workload {
        namespace: "default".to_owned(),
        kind: "DaemonSet".to_owned(),
        name: workload.to_owned(),
        uid: workload.to_owned(),
    });
    pod
}
