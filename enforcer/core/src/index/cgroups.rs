//! Cgroups that come and go, and what that means for the pods that they are of.

use std::collections::{HashMap, HashSet};

use enforcer_ebpf::wire;

use crate::{
    cgroups::{
        path::pod_of,
        tree::{Insertion, PlacedPodCgroup},
    },
    index::{Index, owner},
    model::{kernel_ids::CgroupId, now::Now, owner::OwnerId},
    plan::port_state::Change,
};

impl Index {
    pub(super) fn pod_cgroups_of(&self, id: OwnerId) -> &[PlacedPodCgroup] {
        let key = self.owners.get(&id).and_then(|owner| owner.key);
        key.and_then(|key| self.pod_cgroups.get(&key)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Sets the names of the cgroups in which host processes hold ports, `None` for those without one: see
    /// [`host_unit`](crate::cgroups::host_unit::host_unit).
    pub fn set_host_units(&mut self, units: HashMap<CgroupId, Option<String>>) {
        self.host_units = units;
    }

    /// Returns the names of the cgroups in which host processes hold ports.
    #[must_use]
    pub fn host_units(&self) -> &HashMap<CgroupId, Option<String>> {
        &self.host_units
    }

    /// Returns the name of a host process by its cgroup, if that is known.
    pub(super) fn host_unit(&self, cgroup: CgroupId) -> Option<&str> {
        self.host_units.get(&cgroup)?.as_deref()
    }

    /// Takes in a cgroup that was made, or found by reading the tree. Returns whether the tree should be read anew.
    pub fn cgroup_created(&mut self, id: CgroupId, parent: CgroupId, name: &str, now: Now) -> Insertion {
        let made = self.cgroup_recorded(id, parent, name, now);
        self.arbitrate_dirty();
        made
    }

    /// Does the same as [`Self::cgroup_created`], but for what follows for claims, which is in force with whatever
    /// comes next but more of these.
    pub fn cgroup_recorded(&mut self, id: CgroupId, parent: CgroupId, name: &str, now: Now) -> Insertion {
        let made = self.tree.insert(id, parent, name);
        let Insertion::Pod(cgroup) = made else {
            if self.tree.pod(parent).is_some() {
                self.take_out_of_pod(id, name);
            }
            return made;
        };
        let known = self.pod_cgroups.entry(cgroup.key).or_default();
        if let Some(known) = known.iter_mut().find(|known| known.id == id) {
            // The last agent may have been attached elsewhere, so that the level is another one.
            *known = cgroup;
        } else {
            known.push(cgroup);
            self.pod_cgroup_count += 1;
        }
        if !self.uids.contains_key(&cgroup.key) {
            self.retry_waiting(cgroup.key, now);
        }
        let owner = self.uids.get(&cgroup.key).copied();
        let slot = owner.and_then(|owner| self.enter_cgroup(owner, cgroup, now)).unwrap_or(0);
        self.output.changes.push(owner::cgroup_change(&cgroup, slot));
        made
    }

    /// Corrects the owner of a cgroup inside a pod: it is that pod's, whatever its name says, and whatever the kernel
    /// noted meanwhile.
    fn take_out_of_pod(&mut self, id: CgroupId, name: &str) {
        let Some(named) = pod_of(name) else {
            return;
        };
        let owner = self.uids.get(&named.key).copied();
        let slot = owner.and_then(|owner| self.owners.get(&owner)?.slot).unwrap_or(0);
        self.output.changes.push(Change::CgroupInPod { id, slot });
        if let Some(owner) = owner {
            self.write_owner(owner);
        }
    }

    fn enter_cgroup(&mut self, id: OwnerId, cgroup: PlacedPodCgroup, now: Now) -> Option<wire::Slot> {
        let owner = self.owners.get_mut(&id)?;
        // The pod came back, after its cgroup had gone.
        let back = std::mem::take(&mut owner.cgroup_ended);
        let enters = owner.cgroup.is_none_or(|known| known.id == cgroup.id && known != cgroup);
        if enters {
            owner.cgroup = Some(cgroup);
        }
        if back {
            owner.since = owner.since.max(now.wall);
        }
        let (slot, terminal) = (owner.slot, owner.terminal);
        if enters || back {
            self.write_owner(id);
        }
        if back && !terminal {
            let stakes = self.owners.get(&id)?.port_claims();
            self.set_claims(id, stakes, now.wall);
        }
        slot
    }

    /// Takes in that a cgroup was removed.
    pub fn cgroup_removed(&mut self, id: CgroupId, now: Now) {
        let Some(cgroup) = self.tree.remove(id) else {
            return;
        };
        self.output.changes.push(Change::CgroupGone { id });
        let left = self.pod_cgroups.get_mut(&cgroup.key).map(|known| {
            let before = known.len();
            known.retain(|known| known.id != id);
            self.pod_cgroup_count -= before - known.len();
            known.first().copied()
        });
        let next = left.flatten();
        if next.is_none() {
            self.pod_cgroups.remove(&cgroup.key);
            self.mirrors.remove(&cgroup.key);
        }
        let Some(&owner_id) = self.uids.get(&cgroup.key) else {
            return;
        };
        let Some(owner) = self.owners.get_mut(&owner_id) else {
            return;
        };
        if owner.cgroup.is_some_and(|known| known.id == id) {
            owner.cgroup = next;
            self.write_owner(owner_id);
        }
        if next.is_none() {
            // The pod is over, even if its object stays (a finalizer, an API server that cannot be reached).
            self.withdraw_claims(owner_id, now);
            self.arbitrate_dirty();
            // Only now that its claims have passed to whom they pass: an agent that dies before this finds the cgroup
            // gone and does all of it again.
            if let Some(owner) = self.owners.get_mut(&owner_id) {
                owner.cgroup_ended = true;
            }
            self.write_record(owner_id);
        }
    }

    /// Removes all cgroups but these: the tree was read and holds just these, so whatever else was known is gone.
    pub fn reset_cgroups(&mut self, present: &HashSet<CgroupId>, now: Now) {
        let gone: Vec<CgroupId> = self.tree.ids().filter(|id| !present.contains(id)).collect();
        for id in gone {
            self.cgroup_removed(id, now);
        }
    }
}
