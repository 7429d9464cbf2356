//! The cgroups below the attached root: which pod each belongs to.

use std::collections::HashMap;

use enforcer_ebpf::abi::UidKey;

use crate::cgroups::path::{container_in, pod_of};

/// Most cgroups that are remembered. A container with a writable cgroup tree can make as many as it likes; what is
/// beyond this is forgotten, except pods' own cgroups.
const MAX_CGROUPS: usize = 1 << 16;
/// Deepest path that is followed upwards.
const MAX_DEPTH: usize = 64;

/// A pod's own cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Cgroup id.
    pub id: u64,
    /// Level below the attached root; 1 is a child of the root.
    pub level: u8,
    /// UID of the pod, from the cgroup's name.
    pub key: UidKey,
}

/// Whose a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is above all pods.
    AbovePods,
    /// It is a pod's own.
    Pod(PodCgroup),
    /// It is below a pod's cgroup, whatever its own name says.
    InPod(PodCgroup),
}

#[derive(Debug)]
struct Node {
    parent: u64,
    level: u8,
    name: String,
    place: Place,
}

/// What became of a cgroup that was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is a pod's own.
    Pod(PodCgroup),
    /// It is something else.
    Other,
    /// Its parent is unknown: a report was lost, and the tree should be read anew.
    Unplaced,
    /// There are too many to remember.
    Full,
}

/// The tree.
#[derive(Debug)]
pub struct CgroupTree {
    root: u64,
    nodes: HashMap<u64, Node>,
}

impl CgroupTree {
    /// An empty tree below the root with this id.
    #[must_use]
    pub fn new(root: u64) -> Self {
        Self { root, nodes: HashMap::new() }
    }

    /// Takes in a cgroup. One that is known already is placed anew.
    pub fn made(&mut self, id: u64, parent: u64, name: &str) -> Made {
        let (level, above) = if parent == self.root {
            (1, Place::AbovePods)
        } else {
            match self.nodes.get(&parent) {
                Some(node) => (node.level.saturating_add(1), node.place),
                None => return Made::Unplaced,
            }
        };
        let place = match above {
            // The outermost pod counts.
            Place::Pod(pod) | Place::InPod(pod) => Place::InPod(pod),
            Place::AbovePods => match pod_of(name) {
                Some(pod) => Place::Pod(PodCgroup { id, level, key: pod.key }),
                None => Place::AbovePods,
            },
        };
        let made = match place {
            Place::Pod(pod) => Made::Pod(pod),
            Place::AbovePods | Place::InPod(_) if self.nodes.len() >= MAX_CGROUPS && !self.nodes.contains_key(&id) => {
                return Made::Full;
            }
            Place::AbovePods | Place::InPod(_) => Made::Other,
        };
        self.nodes.insert(id, Node { parent, level, name: name.to_owned(), place });
        made
    }

    /// Takes in a pod's cgroup that was there once and may be there no more, if nothing is known of it.
    pub fn remember(&mut self, cgroup: PodCgroup) {
        let node = Node { parent: 0, level: cgroup.level, name: String::new(), place: Place::Pod(cgroup) };
        self.nodes.entry(cgroup.id).or_insert(node);
    }

    /// Forgets a cgroup. Tells whose it was if it was a pod's own.
    pub fn removed(&mut self, id: u64) -> Option<PodCgroup> {
        match self.nodes.remove(&id)?.place {
            Place::Pod(pod) => Some(pod),
            Place::AbovePods | Place::InPod(_) => None,
        }
    }

    /// Ids of all cgroups that are remembered.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.keys().copied()
    }

    /// Whether the cgroup is remembered.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.nodes.contains_key(&id)
    }

    /// The pod that a cgroup belongs to: its own, or one below it.
    #[must_use]
    pub fn pod(&self, id: u64) -> Option<PodCgroup> {
        match self.nodes.get(&id)?.place {
            Place::Pod(pod) | Place::InPod(pod) => Some(pod),
            Place::AbovePods => None,
        }
    }

    /// The id of the container that a cgroup belongs to, as the runtime named it.
    #[must_use]
    pub fn container(&self, id: u64) -> Option<&str> {
        let mut at = id;
        let mut below = None;
        for _ in 0..MAX_DEPTH {
            let node = self.nodes.get(&at)?;
            // The runtime makes the direct children of a pod's cgroup; what lies deeper is the container's own making.
            if let Place::Pod(_) = node.place {
                return container_in(&node.name, below);
            }
            below = Some(node.name.as_str());
            at = node.parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::abi::Form;

    use super::*;
    use crate::cgroups::path::container_id;

    const ROOT: u64 = 5;
    const POD: &str = "kubepods-besteffort-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice";
    const CONTAINER: &str = "cri-containerd-5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f.scope";

    fn tree() -> CgroupTree {
        let mut tree = CgroupTree::new(ROOT);
        assert_eq!(tree.made(6, ROOT, "kubepods-besteffort.slice"), Made::Other);
        assert!(matches!(tree.made(7, 6, POD), Made::Pod(PodCgroup { id: 7, level: 2, .. })));
        assert_eq!(tree.made(8, 7, CONTAINER), Made::Other);
        tree
    }

    #[test]
    fn a_container_belongs_to_its_pod() {
        let tree = tree();
        let pod = tree.pod(7).unwrap();
        assert_eq!(pod.key.form, Form::Api as u8);
        assert_eq!(tree.pod(8), Some(pod));
        assert_eq!(tree.pod(6), None);
        assert_eq!(tree.container(8).map(str::len), Some(64));
        assert_eq!(tree.container(7), None);
    }

    /// Found by fuzzing: what lies below a cgroup that is pod and container at once was asked for the name of another one.
    #[test]
    fn pod_and_container_in_one_segment() {
        let mut tree = tree();
        let own = format!("{POD}:cri-containerd:{}", "c0".repeat(32));
        assert!(matches!(tree.made(20, ROOT, &own), Made::Pod(_)));
        assert_eq!(tree.made(21, 20, "container"), Made::Other);
        assert_eq!(tree.made(22, 20, CONTAINER), Made::Other);
        // No runtime makes such a child of a pod's own cgroup.
        assert_eq!(tree.made(23, 7, &own), Made::Other);
        for (id, path) in [
            (20, own.clone()),
            (21, format!("{own}/container")),
            (22, format!("{own}/{CONTAINER}")),
            (23, format!("{POD}/{own}")),
        ] {
            assert_eq!(tree.container(id), container_id(&path), "{path}");
            assert_eq!(tree.container(id).is_some(), id != 23, "{path}");
        }
    }

    #[test]
    fn what_lies_below_a_pod_is_that_pod_whatever_its_name() {
        let mut tree = tree();
        let pod = tree.pod(7);
        assert_eq!(tree.made(9, 8, "pod0a1b2c3d4e5f60718293a4b5c6d7e8f9"), Made::Other);
        assert_eq!(tree.made(10, 9, "kubepods-podffffffffffffffffffffffffffffffff.slice"), Made::Other);
        let other = CONTAINER.replace("5f2b", "ffff");
        assert_eq!(tree.made(11, 8, &other), Made::Other);
        assert_eq!(tree.container(11), tree.container(8));
        assert_eq!(tree.pod(9), pod);
        assert_eq!(tree.pod(10), pod);
    }

    #[test]
    fn comings_and_goings() {
        let mut tree = tree();
        assert_eq!(tree.made(20, 19, "x"), Made::Unplaced);
        assert_eq!(tree.removed(8), None);
        assert_eq!(tree.removed(7).map(|pod| pod.id), Some(7));
        assert_eq!(tree.removed(7), None);
        assert_eq!(tree.pod(7), None);
    }

    #[test]
    fn memory_is_bounded_and_pods_are_not_crowded_out() {
        let mut tree = tree();
        for id in 100..100 + MAX_CGROUPS as u64 {
            tree.made(id, 8, "x");
        }
        assert_eq!(tree.nodes.len(), MAX_CGROUPS);
        assert_eq!(tree.made(99, 8, "x"), Made::Full);
        assert!(matches!(tree.made(98, ROOT, "pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fa"), Made::Pod(_)));
    }
}
