//! Capacity of a node, and the share of it that the pods of one namespace may take: half, so that nobody who may make
//! pods in one namespace can use up what others need. Node software is bound by the whole alone.

use std::collections::HashMap;

use enforcer_ebpf::wire;

use crate::model::{
    owner::OwnerClass,
    quota::{Quota, QuotaLimit, Remaining, Resource},
};

/// Capacity of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Pods that can be distinguished: the kernel's map of UIDs.
    pub pods: usize,
    /// Handovers.
    pub handovers: usize,
    /// Services that take ports of the node.
    pub services: usize,
    /// Claims; what bounds them is the agent's memory, some 200 bytes for each.
    pub claims: usize,
    /// Claims on single addresses: the kernel's map of them.
    pub addresses: usize,
}

/// Handover reservations that there can be at once; what the kernel's array of owners has beside them, the pods and the
/// node is for Services.
const HANDOVERS: usize = 1 << 13;

impl Default for Capacity {
    fn default() -> Self {
        Self {
            pods: wire::MAX_POD_UIDS as usize,
            handovers: HANDOVERS,
            // Slot 0 is nobody's, and one is the node's.
            services: (wire::MAX_OWNERS - wire::MAX_POD_UIDS - 2) as usize - HANDOVERS,
            claims: 1 << 18,
            addresses: wire::MAX_ADDRESS_CLAIMS as usize,
        }
    }
}

/// Amounts that an owner, a namespace or the node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) pods: usize,
    pub(crate) handovers: usize,
    pub(crate) services: usize,
    pub(crate) claims: usize,
    pub(crate) addresses: usize,
}

impl Usage {
    fn of(&self, what: Resource) -> usize {
        match what {
            Resource::Pods => self.pods,
            Resource::Handovers => self.handovers,
            Resource::Services => self.services,
            Resource::Claims => self.claims,
            Resource::Addresses => self.addresses,
        }
    }

    fn replace(&mut self, before: Self, after: Self) {
        self.pods = self.pods + after.pods - before.pods;
        self.handovers = self.handovers + after.handovers - before.handovers;
        self.services = self.services + after.services - before.services;
        self.claims = self.claims + after.claims - before.claims;
        self.addresses = self.addresses + after.addresses - before.addresses;
    }
}

/// Usage of the node and of each namespace.
#[derive(Debug)]
pub(crate) struct QuotaTracker {
    capacity: Capacity,
    all: Usage,
    /// Usage by namespace; a namespace that has nothing is not there.
    of: HashMap<String, Usage>,
}

impl QuotaTracker {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self { capacity, all: Usage::default(), of: HashMap::new() }
    }

    /// Replaces the usage of an owner in this namespace.
    pub(crate) fn replace(&mut self, namespace: &str, before: Usage, after: Usage) {
        if before == after {
            return;
        }
        self.all.replace(before, after);
        if let Some(known) = self.of.get_mut(namespace) {
            known.replace(before, after);
            if *known == Usage::default() {
                self.of.remove(namespace);
            }
        } else {
            self.of.insert(namespace.to_owned(), after);
        }
    }

    /// Returns the amount that an owner of this class and namespace may have, what it has already included: that is
    /// never too much, also where all have more than they may, as they can when a namespace is no longer one of the
    /// system's.
    pub(crate) fn remaining(&self, what: Resource, class: OwnerClass, namespace: &str, own: Usage) -> Remaining {
        let whole = match what {
            Resource::Pods => self.capacity.pods,
            Resource::Handovers => self.capacity.handovers,
            Resource::Services => self.capacity.services,
            Resource::Claims => self.capacity.claims,
            Resource::Addresses => self.capacity.addresses,
        };
        let rest = |most: usize, used: &Usage| most.saturating_sub(used.of(what) - own.of(what)).max(own.of(what));
        let by_node =
            Remaining { most: rest(whole, &self.all), limit: QuotaLimit { what, of_namespace: false, most: whole } };
        if class != OwnerClass::Tenant {
            return by_node;
        }
        let used = self.of.get(namespace).copied().unwrap_or_default();
        let by_namespace =
            Remaining { most: rest(whole / 2, &used), limit: QuotaLimit { what, of_namespace: true, most: whole / 2 } };
        if by_namespace.most <= by_node.most { by_namespace } else { by_node }
    }

    /// Returns the quota of a pod.
    pub(crate) fn quota(&self, class: OwnerClass, namespace: &str, own: Usage) -> Quota {
        let left = |what| self.remaining(what, class, namespace, own);
        Quota { claims: left(Resource::Claims), addresses: left(Resource::Addresses) }
    }

    /// Returns the usage of the node.
    #[cfg(test)]
    pub(crate) fn all(&self) -> Usage {
        self.all
    }

    /// Returns the number of namespaces that have anything.
    #[cfg(test)]
    pub(crate) fn namespaces(&self) -> usize {
        self.of.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Capacity = Capacity { pods: 4, handovers: 4, services: 4, claims: 10, addresses: 6 };

    fn claims(claims: usize) -> Usage {
        Usage { pods: 1, claims, ..Usage::default() }
    }

    #[test]
    fn a_namespace_has_half_and_all_have_the_whole() {
        let mut rooms = QuotaTracker::new(SMALL);
        let left = |rooms: &QuotaTracker, namespace, class| {
            let Remaining { most, limit } = rooms.remaining(Resource::Claims, class, namespace, Usage::default());
            (most, limit.of_namespace, limit.most)
        };
        assert_eq!(left(&rooms, "a", OwnerClass::Tenant), (5, true, 5));
        rooms.replace("a", Usage::default(), claims(4));
        assert_eq!(left(&rooms, "a", OwnerClass::Tenant), (1, true, 5));
        assert_eq!(left(&rooms, "b", OwnerClass::Tenant), (5, true, 5), "what others have takes nothing of a half");
        assert_eq!(left(&rooms, "a", OwnerClass::System), (6, false, 10), "node software may have all that is left");
        rooms.replace("b", Usage::default(), claims(5));
        assert_eq!(left(&rooms, "c", OwnerClass::Tenant), (1, false, 10));
        assert_eq!(
            rooms.remaining(Resource::Claims, OwnerClass::Tenant, "b", claims(5)).most,
            5,
            "what it has itself is room too"
        );
        rooms.replace("b", Usage::default(), claims(3));
        let more = rooms.remaining(Resource::Claims, OwnerClass::Tenant, "b", claims(5));
        assert_eq!((more.most, more.limit.of_namespace), (5, true), "and is never too much");
        rooms.replace("b", claims(3), Usage::default());
        rooms.replace("b", claims(5), Usage::default());
        assert_eq!(left(&rooms, "c", OwnerClass::Tenant), (5, true, 5));
        assert_eq!((rooms.all(), rooms.namespaces()), (claims(4), 1));
    }

    #[test]
    fn a_limit_is_told_in_numbers() {
        let limit =
            |what, class| QuotaTracker::new(SMALL).remaining(what, class, "a", Usage::default()).limit.to_string();
        assert_eq!(limit(Resource::Pods, OwnerClass::Tenant), "one namespace may have on a node 2 pods");
        assert_eq!(limit(Resource::Addresses, OwnerClass::Static), "a node may have 6 claims on single addresses");
    }
}
