//! How owners go: what they leave to their workload, and what they free.

use std::{collections::BTreeMap, time::Duration};

use enforcer_ebpf::abi;

use crate::{
    arbitration::{
        arbiter::OwnerId,
        quota::{Finite, Use},
    },
    index::{
        Index, Notice, Now,
        owner::{self, Kind, Owner},
    },
    plan::port_state::Change,
};

impl Index {
    pub(super) fn remove_pod(&mut self, id: OwnerId, now: Now) {
        self.detach(id);
        self.retire(id, now);
        // Before the slot is free, nothing may point at it any more.
        self.settle();
        self.bury(id, now);
    }

    /// The first of three steps: its name is free for another pod.
    pub(super) fn detach(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let name = (owner.name.namespace.clone(), owner.name.name.clone());
        if owner.pod.is_some() {
            self.waiting.retain(|_, names| {
                names.remove(&name);
                !names.is_empty()
            });
        }
        self.pods.remove(&name);
        self.pods_generation += 1;
    }

    /// The second step: its claims end, and its workload has what it had in force. To be settled then.
    pub(super) fn retire(&mut self, id: OwnerId, now: Now) {
        self.leave_remnant(id, now);
        self.restake(id, BTreeMap::new(), now.wall);
    }

    /// The last step: nothing points at it any more, so its UID and its slot are free.
    pub(super) fn bury(&mut self, id: OwnerId, now: Now) {
        let cgroups = self.pod_cgroups_of(id).to_vec();
        let key = self.owners.get(&id).and_then(|owner| owner.key);
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
    pub(super) fn free(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.remove(&id) else {
            return;
        };
        self.rooms.replace(&owner.name.namespace, owner.takes, Use::default());
        if let Some(slot) = owner.slot {
            self.output.changes.push(Change::Owner { slot, owner: abi::Owner::default() });
            if owner.is_recorded() {
                self.output.changes.push(Change::RecordGone { slot });
            }
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
    /// squatter does not. Not so after the pod has done its work or failed before it was asked to go: then nobody
    /// succeeds it there.
    pub(super) fn leave_remnant(&mut self, id: OwnerId, now: Now) {
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
        let (name, class, group, takes) = (owner.name.clone(), owner.class, owner.group, owner.takes);
        let room = self.rooms.left(Finite::Handovers, class, &name.namespace, Use::default());
        let slot = if room.most == 0 { None } else { self.slots.take() };
        let Some(slot) = slot else {
            self.output.notices.push(Notice::NoHandover { pod: name, limit: room.limit });
            return;
        };
        let left = self.next_id();
        let until = now.monotonic + grace;
        self.workloads.hold(workload);
        let mut remnant = Owner::remnant(left, slot, class, name, workload, until);
        // At most as much as the pod had.
        remnant.takes = Use { pods: 0, handovers: 1, ..takes };
        self.rooms.replace(&remnant.name.namespace, Use::default(), remnant.takes);
        self.owners.insert(left, remnant);
        self.write_owner(left);
        let owners = &self.owners;
        let is_kin = |other: OwnerId| {
            other != id && group.is_some() && owners.get(&other).is_some_and(|other| other.group == group)
        };
        self.ledger.bequeath(id, left, is_kin);
        self.graces.insert((until, left));
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
            self.restake(id, BTreeMap::new(), now.wall);
            self.settle();
            self.free(id);
        }
    }
}
