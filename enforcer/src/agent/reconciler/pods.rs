//! Pods that come, change and go.

use enforcer_core::{index::Staged, model::now::Now, pods::pod::Pod};

use super::Reconciler;

impl Reconciler {
    /// Applies a pod that was added or changed.
    pub fn apply(&mut self, pod: Pod, now: Now) {
        self.update_cgroups(now);
        self.index.stage(pod, now);
        self.commit(Staged::default(), now);
    }

    /// Removes a pod.
    pub fn delete(&mut self, namespace: &str, name: &str, now: Now) {
        // Which ports the pod bound decides what is kept for its workload.
        self.drain_socket_records(now);
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
        self.drain_socket_records(now);
        self.index.commit(staged, now);
        // In the order in which they were made: cgroups before claims.
        self.flush();
        self.update_cgroups(now);
    }
}
