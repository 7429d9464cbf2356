//! Which pod is which: UIDs, and the rule against forged mirror pods.

use enforcer_ebpf::wire::{UidForm, UidKey};

use crate::{
    index::{Index, Notice, owner::OwnerState},
    model::{now::Now, owner::OwnerClass, quota::Resource},
    pods::pod::{Pod, uid_key},
};

impl Index {
    /// Returns the UID that the pod's cgroup carries.
    ///
    /// A mirror pod has a UID of its own in the API; the cgroup carries the one that the kubelet made, which the
    /// annotation `config.hash` repeats. Tenants can forge that annotation, so it counts only if such a cgroup exists
    /// on this node and no other mirror pod has said so before. It stays that one's name's while the cgroup is there: a
    /// mirror pod that somebody deletes is made anew by the kubelet, and must not find its place taken.
    pub(super) fn wanted_key(&mut self, pod: &Pod) -> Option<UidKey> {
        let Some(key) = static_key(pod) else {
            return pod.uid;
        };
        if !self.pod_cgroups.contains_key(&key) {
            self.wait_for(key, pod);
            return pod.uid;
        }
        let name = (pod.namespace.clone(), pod.name.clone());
        if self.uids.contains_key(&key) || self.mirrors.get(&key).is_some_and(|first| *first != name) {
            let pod_name = pod.owner_name();
            let why = "another mirror pod was there first with its kubernetes.io/config.hash";
            self.output.notices.push(Notice::MirrorRejected { pod: pod_name, why });
            self.wait_for(key, pod);
            return pod.uid;
        }
        self.mirrors.insert(key, name);
        Some(key)
    }

    pub(super) fn wait_for(&mut self, key: UidKey, pod: &Pod) {
        self.waiting.entry(key).or_default().insert((pod.namespace.clone(), pod.name.clone()));
    }

    /// Retries the pods that wait for this UID, which can be had now: each comes again, as if it were new.
    pub(super) fn retry_waiting(&mut self, key: UidKey, now: Now) {
        for name in self.waiting.remove(&key).unwrap_or_default() {
            let Some(&id) = self.pods.get(&name) else {
                continue;
            };
            let Some(pod) = self.owners.get(&id).and_then(|owner| owner.pod.clone()) else {
                continue;
            };
            self.remove_pod(id, now);
            self.stage_pod(*pod, now);
        }
    }

    /// Returns the rank of a pod in this namespace that has this UID.
    pub(super) fn class_in(&self, namespace: &str, key: Option<UidKey>) -> OwnerClass {
        if key.is_some_and(|key| key.form == UidForm::Static as u8) {
            OwnerClass::Static
        } else if self.settings.system_namespaces.contains(namespace) {
            OwnerClass::System
        } else {
            OwnerClass::Tenant
        }
    }

    /// Ties a new owner to its UID, and so to the cgroups that carry it.
    pub(super) fn give_identity(&mut self, owner: &mut OwnerState, key: Option<UidKey>) {
        let Some(key) = key else {
            return;
        };
        if let Some(first) = self.uids.get(&key).and_then(|first| self.owners.get(first)) {
            self.output.notices.push(Notice::SameUid { pod: owner.name.clone(), first: first.name.clone() });
            self.waiting.entry(key).or_default().insert((owner.name.namespace.clone(), owner.name.name.clone()));
            return;
        }
        let left = self.quotas.remaining(Resource::Pods, owner.class, &owner.name.namespace, owner.usage);
        let slot = if left.most == 0 { None } else { self.slots.take() };
        let Some(slot) = slot else {
            owner.exceeds_quota = true;
            self.output.notices.push(Notice::QuotaExceeded { pod: owner.name.clone(), limit: left.limit });
            return;
        };
        owner.slot = Some(slot);
        owner.key = Some(key);
        owner.cgroup = self.pod_cgroups.get(&key).and_then(|cgroups| cgroups.first()).copied();
        self.uids.insert(key, owner.id);
    }
}

/// Returns the UID of the static pod that a mirror pod says it mirrors, if it has the form that the API never issues.
pub(super) fn static_key(pod: &Pod) -> Option<UidKey> {
    pod.mirror.as_ref()?;
    pod.config_hash.as_deref().and_then(uid_key).filter(|key| key.form == UidForm::Static as u8)
}
