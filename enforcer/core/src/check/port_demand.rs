//! Pods of all objects that want one port of every address, which the scheduler so places on a node each.

use std::collections::{BTreeSet, HashMap};

use enforcer_ebpf::wire::Protocol;

use super::{object::ManifestObject, scheduler_ports::wildcard_port};
/// Most classes of objects that suit the same nodes. Objects beyond them compete with none.
const MAX_CLASSES: usize = 32;

/// Protocol and port of a claim on every address.
type HostPort = (Protocol, u16);

/// Counts of the pods that want a port, by the nodes that suit them.
#[derive(Debug, Default)]
pub(super) struct PortDemand {
    /// Class of each object.
    classes: Vec<Option<usize>>,
    /// Pods that want a port, by class.
    pods: HashMap<(usize, HostPort), u32>,
}

impl PortDemand {
    /// Counts the pods of all objects that have a number of them.
    pub(super) fn of(objects: &[&ManifestObject]) -> Self {
        let mut all = Self::default();
        let mut representatives: Vec<&ManifestObject> = Vec::new();
        for object in objects {
            let is_counted = !object.is_custom() && !object.placement.is_bound();
            let pods = object.scale.replicas().filter(|pods| *pods > 0 && is_counted);
            let ports = wildcard_ports(object);
            let class = pods.filter(|_| !ports.is_empty()).and_then(|_| class_of(object, &mut representatives));
            if let Some((class, pods)) = class.zip(pods) {
                for port in ports {
                    let count = all.pods.entry((class, port)).or_default();
                    *count = count.saturating_add(pods);
                }
            }
            all.classes.push(class);
        }
        all
    }

    /// Returns the most pods that want a port of an object, its own included, on the same nodes; 0 if it has none.
    pub(super) fn of_object(&self, place: usize, object: &ManifestObject) -> u32 {
        let Some(class) = self.classes[place] else {
            return 0;
        };
        wildcard_ports(object).into_iter().filter_map(|port| self.pods.get(&(class, port)).copied()).max().unwrap_or(0)
    }

    /// Returns the most pods that want a port that two objects have in common, their own included, if both suit the
    /// same nodes; else 0.
    pub(super) fn of_pair(&self, (one, other): (usize, usize), objects: &[&ManifestObject]) -> u32 {
        let Some(class) = self.classes[one].filter(|_| self.classes[one] == self.classes[other]) else {
            return 0;
        };
        let [one, other] = [one, other].map(|place| wildcard_ports(objects[place]));
        one.intersection(&other).filter_map(|port| self.pods.get(&(class, *port)).copied()).max().unwrap_or(0)
    }
}

fn wildcard_ports(object: &ManifestObject) -> BTreeSet<HostPort> {
    object.claims.iter().filter_map(|claim| wildcard_port(&object.scheduler_ports, claim)).collect()
}

/// Returns the class of the objects that suit the same nodes, a new one if there is none and there is room.
fn class_of<'a>(object: &'a ManifestObject, representatives: &mut Vec<&'a ManifestObject>) -> Option<usize> {
    let is_equal = |other: &&ManifestObject| {
        object.placement.suits_where(&other.placement) && other.placement.suits_where(&object.placement)
    };
    let found = representatives.iter().position(is_equal);
    found.or_else(|| {
        (representatives.len() < MAX_CLASSES).then(|| {
            representatives.push(object);
            representatives.len() - 1
        })
    })
}
