//! Pods that come, change and go.

use std::time::Instant;

use enforcer_core::{index::Staged, model::now::Now, pods::pod::Pod};

use super::Reconciler;

/// Multiple of the time of reading socket records that is left to pods after it: while pods change, a storm of binds has
/// no more than a quarter of the time.
const TIME_FACTOR: u32 = 3;

impl Reconciler {
    /// Applies a pod that was added or changed.
    pub fn apply(&mut self, pod: Pod, now: Now) {
        self.update_cgroups(now);
        self.index.stage(pod, now);
        self.commit(Staged::default(), now);
    }

    /// Removes a pod.
    pub fn delete(&mut self, namespace: &str, name: &str, now: Now) {
        self.drain_socket_records_for_pods(now);
        self.index.delete(namespace, name, now);
        self.flush();
    }

    /// Replaces all pods by these.
    pub fn reset(&mut self, pods: Vec<Pod>, now: Now) {
        self.update_cgroups(now);
        let staged = self.index.stage_all(pods, now);
        self.commit(staged, now);
    }

    /// Writes the identities of staged pods, reads the cgroup ring, and writes their claims.
    ///
    /// The programs note a cgroup that is made before they know its pod's UID as nobody's. The pod would then be denied
    /// on its own port from the moment its claim is written until the record of that cgroup is read. So the UID is
    /// written first: a cgroup that is made from then on is noted as the pod's. Then the records of earlier ones are
    /// read, and only then the claims are written. The last step is for a cgroup that was being made, whose record came
    /// after the others.
    fn commit(&mut self, staged: Staged, now: Now) {
        self.flush();
        self.read_cgroup_ring(now);
        self.drain_socket_records_for_pods(now);
        self.index.commit(staged, now);
        // In the order in which they were made: cgroups before claims.
        self.flush();
        self.update_cgroups(now);
    }

    /// Reads a batch of socket records: which ports a pod bound decides what is kept for its workload when it goes. On a
    /// node with thousands of binds a second, the record of a port that was bound within the last half second may come too
    /// late for that, as pods do not wait for whoever binds in a loop.
    fn drain_socket_records_for_pods(&mut self, now: Now) {
        let began = Instant::now();
        if self.drain_for_pods_at.is_none_or(|at| at <= began) {
            self.drain_socket_records(now);
            let took = began.elapsed();
            self.drain_for_pods_at = Some(began + took * (1 + TIME_FACTOR));
        }
    }
}
