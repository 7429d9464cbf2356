//! Pods of all objects that want one port of every address, which the scheduler so places on a node each.

use std::collections::HashMap;

use enforcer_ebpf::wire::Protocol;

use super::{object::ManifestObject, pairs::Pair, scheduler_ports::wildcard_port};

/// Most groups of one port. Beyond, objects count alone.
const MAX_GROUPS: usize = 16;

/// A port, and one object of those that may be placed on the same nodes.
#[derive(Debug)]
struct Group {
    representative: usize,
    pods: u32,
}

/// Groups of objects that compete for one port on the same nodes.
#[derive(Debug, Default)]
pub(super) struct Competition {
    groups: HashMap<(Protocol, u16), Vec<Group>>,
    /// Group of an object, by its place and a port.
    members: HashMap<(usize, (Protocol, u16)), usize>,
}

impl Competition {
    /// Groups the objects whose pods are counted. Two of a group suit the same nodes.
    pub(super) fn of(objects: &[&ManifestObject]) -> Self {
        let mut all = Self::default();
        for (place, object) in objects.iter().enumerate() {
            let Some(pods) = object.scale.replicas().filter(|pods| *pods > 0 && !object.placement.is_bound()) else {
                continue;
            };
            for port in object.claims.iter().filter_map(|claim| wildcard_port(&object.scheduler_ports, claim)) {
                let groups = all.groups.entry(port).or_default();
                let is_equal = |group: &Group| {
                    let other = &objects[group.representative].placement;
                    object.placement.suits_where(other) && other.suits_where(&object.placement)
                };
                let found = groups.iter().position(is_equal).or_else(|| {
                    (groups.len() < MAX_GROUPS).then(|| {
                        groups.push(Group { representative: place, pods: 0 });
                        groups.len() - 1
                    })
                });
                if let Some(found) = found
                    && all.members.insert((place, port), found).is_none()
                {
                    groups[found].pods = groups[found].pods.saturating_add(pods);
                }
            }
        }
        all
    }

    fn group(&self, place: usize, port: (Protocol, u16)) -> Option<(usize, u32)> {
        let group = *self.members.get(&(place, port))?;
        Some((group, self.groups.get(&port)?[group].pods))
    }

    /// Returns the most pods that compete with those of one object for a port, its own included; 0 if it has none.
    pub(super) fn of_object(&self, place: usize, object: &ManifestObject) -> u32 {
        let ports = object.claims.iter().filter_map(|claim| wildcard_port(&object.scheduler_ports, claim));
        ports.filter_map(|port| self.group(place, port)).map(|(_, pods)| pods).max().unwrap_or_default()
    }

    /// Returns the most pods that compete with those of two objects for a port of both, their own included.
    pub(super) fn of_pair(&self, (one, other): (usize, usize), pair: &Pair) -> u32 {
        let ports = pair.overlaps.iter().filter(|overlap| overlap.seen_by_scheduler);
        let ports = ports.map(|overlap| (overlap.first.spec.protocol, overlap.first.spec.ports.first()));
        let common = |port| self.group(one, port).filter(|group| self.group(other, port) == Some(*group));
        ports.filter_map(common).map(|(_, pods)| pods).max().unwrap_or_default()
    }
}
