//! Services as owners of ports.
//!
//! A Service has no cgroup and no process. It is arbitrated as a pod of a tenant: by its creation among claims, and behind
//! whatever is in force, so that nobody's Service takes a port from a pod.

use std::collections::{BTreeMap, HashMap};

use crate::{
    arbitration::quota::Usage,
    index::{Index, Notice, ServicePortsMode, owner::OwnerState},
    model::{
        now::Now,
        owner::{OwnerClass, OwnerId, OwnerKind},
        quota::Resource,
        source::ClaimOrigin,
    },
    pods::service::NodePortService,
};

impl Index {
    /// Applies a Service that is there or changed.
    pub fn apply_service(&mut self, service: NodePortService, now: Now) {
        self.stage_service(service, now);
        self.arbitrate_dirty();
    }

    /// Removes a Service that is gone.
    pub fn delete_service(&mut self, namespace: &str, name: &str, now: Now) {
        if let Some(id) = self.services.remove(&(namespace.to_owned(), name.to_owned())) {
            self.remove_service(id, now);
        }
    }

    /// Replaces all Services by these: whatever is not among them is gone.
    pub fn reset_services(&mut self, services: Vec<NodePortService>, now: Now) {
        let listed: HashMap<(&str, &str), &str> =
            services.iter().map(|service| ((&*service.namespace, &*service.name), &*service.uid)).collect();
        let owners = &self.owners;
        let is_listed = |(namespace, name): &(String, String), id: &OwnerId| {
            let uid = owners.get(id).map(OwnerState::uid_text);
            uid.is_some() && listed.get(&(&**namespace, &**name)).copied() == uid
        };
        let gone: Vec<OwnerId> = self.services.extract_if(|name, id| !is_listed(name, id)).map(|(_, id)| id).collect();
        for id in gone {
            self.remove_service(id, now);
        }
        for service in services {
            self.stage_service(service, now);
        }
        self.arbitrate_dirty();
        self.synced.insert(ClaimOrigin::Services);
    }

    fn stage_service(&mut self, service: NodePortService, now: Now) {
        let key = (service.namespace.clone(), service.name.clone());
        if let Some(&id) = self.services.get(&key) {
            let is_same = self.owners.get(&id).is_some_and(|owner| owner.uid_text() == service.uid);
            if is_same && !service.claims.is_empty() {
                self.update_service(id, service, now);
                return;
            }
            // Another one of the same name, or it has no node port any more.
            self.services.remove(&key);
            self.remove_service(id, now);
        }
        if service.claims.is_empty() || self.settings.service_ports == ServicePortsMode::Off {
            return;
        }
        let name = service.owner_name();
        let room = self.quotas.remaining(Resource::Services, OwnerClass::Tenant, &key.0, Usage::default());
        let slot = if room.most == 0 { None } else { self.slots.take() };
        let Some(slot) = slot else {
            self.output.notices.push(Notice::QuotaExceeded { pod: name, limit: room.limit });
            return;
        };
        let id = self.next_id();
        let mut owner = OwnerState::new(id, OwnerKind::Service, OwnerClass::Tenant, name, Some(slot));
        owner.advisory = self.settings.service_ports == ServicePortsMode::Audit;
        self.owners.insert(id, owner);
        self.services.insert(key, id);
        self.update_service(id, service, now);
    }

    fn update_service(&mut self, id: OwnerId, service: NodePortService, now: Now) {
        let Some(owner) = self.owners.get_mut(&id) else {
            return;
        };
        let before = owner.port_claims();
        owner.claims = service.claims;
        let stakes = owner.port_claims();
        let is_first = !std::mem::replace(&mut owner.arrived, true);
        let grew = stakes.keys().any(|stake| !before.contains_key(stake));
        // A Service that the last agent knew has its place: what it lost then it may claim since its creation.
        let is_restored = std::mem::take(&mut owner.restored);
        let since = if is_first || is_restored || !grew { service.created } else { now.wall };
        owner.since = if is_first { since } else { owner.since.max(since) };
        self.update_quota(id);
        self.write_owner(id);
        self.port_table.touch(id);
        self.set_claims(id, stakes, since);
    }

    fn remove_service(&mut self, id: OwnerId, now: Now) {
        self.set_claims(id, BTreeMap::new(), now.wall);
        // Before the slot is free, nothing may point at it any more.
        self.arbitrate_dirty();
        self.free_slot(id);
    }
}
