//! The cgroups below the attached root: which pod each belongs to.

use std::collections::HashMap;

use enforcer_ebpf::wire::UidKey;

use crate::{
    cgroups::path::{container_in, pod_of},
    model::kernel_ids::CgroupId,
};

/// Most cgroups that are remembered. A container with a writable cgroup tree can make as many as it likes; what is
/// beyond this is forgotten, except pods' own cgroups.
const MAX_CGROUPS: usize = 1 << 16;
/// Deepest path that is followed upwards.
const MAX_DEPTH: usize = 64;

/// A pod's own cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedPodCgroup {
    /// Cgroup id.
    pub id: CgroupId,
    /// Level below the attached root; 1 is a child of the root.
    pub level: u8,
    /// UID of the pod, from the cgroup's name.
    pub key: UidKey,
}

/// Owner of a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CgroupPlace {
    /// It is above all pods.
    AbovePods,
    /// It is a pod's own.
    Pod(PlacedPodCgroup),
    /// It is below a pod's cgroup, whatever its own name says.
    InPod(PlacedPodCgroup),
}

#[derive(Debug)]
struct TreeNode {
    /// `None` where it is not known and not needed.
    parent: Option<CgroupId>,
    level: u8,
    name: String,
    place: CgroupPlace,
}

/// Result of inserting a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It is a pod's own.
    Pod(PlacedPodCgroup),
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
    root: CgroupId,
    nodes: HashMap<CgroupId, TreeNode>,
}

impl CgroupTree {
    /// Creates an empty tree below the root with this id.
    #[must_use]
    pub fn new(root: CgroupId) -> Self {
        Self { root, nodes: HashMap::new() }
    }

    /// Takes in a cgroup. One that is known already is placed anew.
    pub fn insert(&mut self, id: CgroupId, parent: CgroupId, name: &str) -> Insertion {
        let (level, above) = if parent == self.root {
            (1, CgroupPlace::AbovePods)
        } else {
            match self.nodes.get(&parent) {
                Some(node) => (node.level.saturating_add(1), node.place),
                None => return Insertion::Unplaced,
            }
        };
        let place = match above {
            // The outermost pod counts.
            CgroupPlace::Pod(pod) | CgroupPlace::InPod(pod) => CgroupPlace::InPod(pod),
            CgroupPlace::AbovePods => match pod_of(name) {
                Some(pod) => CgroupPlace::Pod(PlacedPodCgroup { id, level, key: pod.key }),
                None => CgroupPlace::AbovePods,
            },
        };
        let made = match place {
            CgroupPlace::Pod(pod) => Insertion::Pod(pod),
            CgroupPlace::AbovePods | CgroupPlace::InPod(_)
                if self.nodes.len() >= MAX_CGROUPS && !self.nodes.contains_key(&id) =>
            {
                return Insertion::Full;
            }
            CgroupPlace::AbovePods | CgroupPlace::InPod(_) => Insertion::Other,
        };
        self.nodes.insert(id, TreeNode { parent: Some(parent), level, name: name.to_owned(), place });
        made
    }

    /// Takes in a pod's cgroup that was there once and may be there no more, if nothing is known of it.
    pub fn remember(&mut self, cgroup: PlacedPodCgroup) {
        let node = TreeNode { parent: None, level: cgroup.level, name: String::new(), place: CgroupPlace::Pod(cgroup) };
        self.nodes.entry(cgroup.id).or_insert(node);
    }

    /// Forgets a cgroup. Returns the pod whose own it was, if any.
    pub fn remove(&mut self, id: CgroupId) -> Option<PlacedPodCgroup> {
        match self.nodes.remove(&id)?.place {
            CgroupPlace::Pod(pod) => Some(pod),
            CgroupPlace::AbovePods | CgroupPlace::InPod(_) => None,
        }
    }

    /// Returns the ids of all cgroups that are remembered.
    pub fn ids(&self) -> impl Iterator<Item = CgroupId> + '_ {
        self.nodes.keys().copied()
    }

    /// Checks whether the cgroup is remembered.
    #[must_use]
    pub fn contains(&self, id: CgroupId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Returns the pod that a cgroup belongs to: its own, or one below it.
    #[must_use]
    pub fn pod(&self, id: CgroupId) -> Option<PlacedPodCgroup> {
        match self.nodes.get(&id)?.place {
            CgroupPlace::Pod(pod) | CgroupPlace::InPod(pod) => Some(pod),
            CgroupPlace::AbovePods => None,
        }
    }

    /// Returns the id of the container that a cgroup belongs to, as the runtime named it.
    #[must_use]
    pub fn container(&self, id: CgroupId) -> Option<&str> {
        let mut at = id;
        let mut below = None;
        for _ in 0..MAX_DEPTH {
            let node = self.nodes.get(&at)?;
            // The runtime makes the direct children of a pod's cgroup; what lies deeper is the container's own making.
            if let CgroupPlace::Pod(_) = node.place {
                return container_in(&node.name, below);
            }
            below = Some(node.name.as_str());
            at = node.parent?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use enforcer_ebpf::wire::UidForm;

    use super::*;
    use crate::cgroups::path::container_id;

    const ROOT: CgroupId = CgroupId::new(5);
    const POD: &str = "kubepods-besteffort-pod0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9.slice";
    const CONTAINER: &str = "cri-containerd-5f2b6e2a8c1d4e3f9a0b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f.scope";

    const fn cgroup(id: u64) -> CgroupId {
        CgroupId::new(id)
    }

    fn tree() -> CgroupTree {
        let mut tree = CgroupTree::new(ROOT);
        assert_eq!(tree.insert(cgroup(6), ROOT, "kubepods-besteffort.slice"), Insertion::Other);
        assert!(
            matches!(tree.insert(cgroup(7), cgroup(6), POD), Insertion::Pod(PlacedPodCgroup { id, level: 2, .. }) if id == cgroup(7))
        );
        assert_eq!(tree.insert(cgroup(8), cgroup(7), CONTAINER), Insertion::Other);
        tree
    }

    #[test]
    fn a_container_belongs_to_its_pod() {
        let tree = tree();
        let pod = tree.pod(cgroup(7)).unwrap();
        assert_eq!(pod.key.form, UidForm::Api as u8);
        assert_eq!(tree.pod(cgroup(8)), Some(pod));
        assert_eq!(tree.pod(cgroup(6)), None);
        assert_eq!(tree.container(cgroup(8)).map(str::len), Some(64));
        assert_eq!(tree.container(cgroup(7)), None);
    }

    /// Found by fuzzing: what lies below a cgroup that is pod and container at once was asked for the name of another
    /// one.
    #[test]
    fn pod_and_container_in_one_segment() {
        let mut tree = tree();
        let own = format!("{POD}:cri-containerd:{}", "c0".repeat(32));
        assert!(matches!(tree.insert(cgroup(20), ROOT, &own), Insertion::Pod(_)));
        assert_eq!(tree.insert(cgroup(21), cgroup(20), "container"), Insertion::Other);
        assert_eq!(tree.insert(cgroup(22), cgroup(20), CONTAINER), Insertion::Other);
        // No runtime makes such a child of a pod's own cgroup.
        assert_eq!(tree.insert(cgroup(23), cgroup(7), &own), Insertion::Other);
        for (id, path) in [
            (20, own.clone()),
            (21, format!("{own}/container")),
            (22, format!("{own}/{CONTAINER}")),
            (23, format!("{POD}/{own}")),
        ] {
            assert_eq!(tree.container(cgroup(id)), container_id(&path), "{path}");
            assert_eq!(tree.container(cgroup(id)).is_some(), id != 23, "{path}");
        }
    }

    #[test]
    fn what_lies_below_a_pod_is_that_pod_whatever_its_name() {
        let mut tree = tree();
        let pod = tree.pod(cgroup(7));
        assert_eq!(tree.insert(cgroup(9), cgroup(8), "pod0a1b2c3d4e5f60718293a4b5c6d7e8f9"), Insertion::Other);
        assert_eq!(
            tree.insert(cgroup(10), cgroup(9), "kubepods-podffffffffffffffffffffffffffffffff.slice"),
            Insertion::Other
        );
        let other = CONTAINER.replace("5f2b", "ffff");
        assert_eq!(tree.insert(cgroup(11), cgroup(8), &other), Insertion::Other);
        assert_eq!(tree.container(cgroup(11)), tree.container(cgroup(8)));
        assert_eq!(tree.pod(cgroup(9)), pod);
        assert_eq!(tree.pod(cgroup(10)), pod);
    }

    #[test]
    fn comings_and_goings() {
        let mut tree = tree();
        assert_eq!(tree.insert(cgroup(20), cgroup(19), "x"), Insertion::Unplaced);
        assert_eq!(tree.remove(cgroup(8)), None);
        assert_eq!(tree.remove(cgroup(7)).map(|pod| pod.id), Some(cgroup(7)));
        assert_eq!(tree.remove(cgroup(7)), None);
        assert_eq!(tree.pod(cgroup(7)), None);
    }

    #[test]
    fn memory_is_bounded_and_pods_are_not_crowded_out() {
        let mut tree = tree();
        for id in 100..100 + MAX_CGROUPS as u64 {
            tree.insert(cgroup(id), cgroup(8), "x");
        }
        assert_eq!(tree.nodes.len(), MAX_CGROUPS);
        assert_eq!(tree.insert(cgroup(99), cgroup(8), "x"), Insertion::Full);
        assert!(matches!(tree.insert(cgroup(98), ROOT, "pod0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8fa"), Insertion::Pod(_)));
    }
}
