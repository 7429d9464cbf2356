//! Removal of owners: what passes to their workload, and what becomes free.

use std::{collections::BTreeMap, time::Duration};

use enforcer_ebpf::wire;

use crate::{
    arbitration::quota::Usage,
    index::{
        Index, Notice,
        owner::{self, OwnerState},
    },
    model::{
        now::Now,
        owner::{OwnerId, OwnerKind},
        quota::Resource,
    },
    plan::port_state::Change,
};

impl Index {
    pub(super) fn remove_pod(&mut self, id: OwnerId, now: Now) {
        self.unlink_name(id);
        self.withdraw_claims(id, now);
        // Before the slot is free, nothing may point at it any more.
        self.arbitrate_dirty();
        self.release_identity(id, now);
    }

    /// Does the first of three steps: its name is free for another pod.
    pub(super) fn unlink_name(&mut self, id: OwnerId) {
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

    /// Does the second step: its claims end, and its workload has what it had in force. To be settled then.
    pub(super) fn withdraw_claims(&mut self, id: OwnerId, now: Now) {
        self.leave_reservation(id, now);
        self.set_claims(id, BTreeMap::new(), now.wall);
    }

    /// Does the last step: nothing points at it any more, so its UID and its slot are free.
    pub(super) fn release_identity(&mut self, id: OwnerId, now: Now) {
        let cgroups = self.pod_cgroups_of(id).to_vec();
        let key = self.owners.get(&id).and_then(|owner| owner.key);
        if let Some(key) = key {
            self.uids.remove(&key);
            self.output.changes.push(Change::UidGone { key });
            for cgroup in cgroups {
                self.output.changes.push(owner::cgroup_change(&cgroup, 0));
            }
        }
        self.free_slot(id);
        if let Some(key) = key {
            self.retry_waiting(key, now);
        }
    }

    /// Frees an owner that nothing points at any more.
    pub(super) fn free_slot(&mut self, id: OwnerId) {
        let Some(owner) = self.owners.remove(&id) else {
            return;
        };
        self.quotas.replace(&owner.name.namespace, owner.usage, Usage::default());
        if let Some(slot) = owner.slot {
            self.output.changes.push(Change::Owner { slot, owner: wire::Owner::default() });
            if owner.is_recorded() {
                self.output.changes.push(Change::OwnerRecordGone { slot });
            }
            self.slots.give_back(slot);
        }
        if let Some(group) = owner.group {
            self.groups.release(group);
        }
        if let Some(workload) = owner.workload {
            self.workloads.release(workload);
        }
        self.recent_names.remember(id, owner.name);
    }

    /// Leaves the ports of a controlled pod with its workload for a while, so that its successor finds them and a
    /// squatter does not. Not so after the pod has done its work or failed before it was asked to go: then nobody
    /// succeeds it there.
    pub(super) fn leave_reservation(&mut self, id: OwnerId, now: Now) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let grace = self.settings.handover_grace;
        let Some(workload) = owner.workload else {
            return;
        };
        if owner.terminal || grace.is_zero() || owner.kind != OwnerKind::Pod || !self.port_table.any_in_force(id) {
            return;
        }
        let (name, class, group, takes) = (owner.name.clone(), owner.class, owner.group, owner.usage);
        let room = self.quotas.remaining(Resource::Handovers, class, &name.namespace, Usage::default());
        let slot = if room.most == 0 { None } else { self.slots.take() };
        let Some(slot) = slot else {
            self.output.notices.push(Notice::HandoverQuotaExceeded { pod: name, limit: room.limit });
            return;
        };
        let left = self.next_id();
        let until = now.boottime + grace;
        self.workloads.hold(workload);
        let mut remnant = OwnerState::reservation(left, slot, class, name, workload, until);
        // At most as much as the pod had.
        remnant.usage = Usage { pods: 0, handovers: 1, ..takes };
        self.quotas.replace(&remnant.name.namespace, Usage::default(), remnant.usage);
        self.owners.insert(left, remnant);
        self.write_owner(left);
        let owners = &self.owners;
        let is_kin = |other: OwnerId| {
            other != id && group.is_some() && owners.get(&other).is_some_and(|other| other.group == group)
        };
        self.port_table.transfer_claims(id, left, is_kin);
        self.reservations.insert((until, left));
    }

    /// Returns when [`Self::handle_timeout`] is due, as time since boot; `None` if nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.reservations.first().map(|(at, _)| *at)
    }

    /// Ends the handover reservations that are over.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, id)) = self.reservations.first() {
            if at > now.boottime {
                break;
            }
            self.reservations.pop_first();
            self.set_claims(id, BTreeMap::new(), now.wall);
            self.arbitrate_dirty();
            self.free_slot(id);
        }
    }
}
