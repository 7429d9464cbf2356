//! Removal of owners: what passes to their workload, and what becomes free.

use std::{collections::BTreeMap, time::Duration};

use enforcer_ebpf::wire::{self, Protocol};

use crate::{
    arbitration::quota::Usage,
    index::{
        Index, Notice,
        owner::{self, OwnerState, PortClaimSet},
    },
    model::{
        name::{Handover, Name},
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
        self.revisions.release(owner.revision);
        self.recent_names.remember(id, owner.name);
    }

    /// Leaves the ports that a controlled pod bound with its workload for a while, so that its successor finds them and a
    /// squatter does not. Not so after the pod has done its work or failed before it was asked to go: then nobody
    /// succeeds it there. Nor for ports that it never bound: nobody was served there.
    pub(super) fn leave_reservation(&mut self, id: OwnerId, now: Now) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let grace = self.settings.handover_grace;
        let Some(workload) = owner.workload else {
            return;
        };
        let had_bound = |protocol, port| owner.had_bound(protocol, port);
        if owner.terminal
            || grace.is_zero()
            || owner.kind != OwnerKind::Pod
            || !self.port_table.any_in_force(id, had_bound)
        {
            return;
        }
        let (mut name, class, party, takes) = (owner.name.clone(), owner.class, owner.party(), owner.usage);
        let ends = now.wall.saturating_add(i64::try_from(grace.as_micros()).unwrap_or(i64::MAX));
        let handover = Handover { workload: owner.workload_name.clone(), until: ends };
        let room = self.quotas.remaining(Resource::Handovers, class, &name.namespace, Usage::default());
        let slot = if room.most == 0 { None } else { self.slots.take() };
        let Some(slot) = slot else {
            self.output.notices.push(Notice::HandoverQuotaExceeded { pod: name, limit: room.limit });
            return;
        };
        name.handover = Some(Box::new(handover));
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
        let is_one = |other: OwnerId| {
            other != id && other != left && owners.get(&other).is_some_and(|other| other.party().is_one_with(party))
        };
        let had_bound = |protocol, port| owners.get(&id).is_some_and(|owner| owner.had_bound(protocol, port));
        self.port_table.transfer_claims(id, left, had_bound, is_one);
        self.reservations.insert((until, left));
    }

    /// Returns when [`Self::handle_timeout`] is due, as time since boot; `None` if nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.reservations.first().map(|(at, _)| *at)
    }

    /// Ends the handover reservations of a port now, and returns their names.
    pub fn release(&mut self, protocol: Protocol, port: u16, now: Now) -> Vec<Name> {
        let of_port: Vec<(Duration, OwnerId)> = self
            .reservations
            .iter()
            .copied()
            .filter(|(_, id)| self.port_table.has_claim(*id, protocol, port))
            .collect();
        let mut names = Vec::new();
        for (at, id) in of_port {
            let Some(owner) = self.owners.get(&id) else {
                continue;
            };
            names.push(owner.name.clone());
            let left: PortClaimSet = self.port_table.claims_of(id, |key| key != (protocol, port));
            if left.is_empty() {
                self.reservations.remove(&(at, id));
            }
            let is_over = left.is_empty();
            self.set_claims(id, left, now.wall);
            self.arbitrate_dirty();
            if is_over {
                self.free_slot(id);
            }
        }
        names
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
