//! Conflicts by the namespace of the pod that caused them. The one label whose values others choose: there are no more
//! series than namespaces with pods on this node.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use enforcer_ebpf::wire::VerdictKind;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use enforcer_core::index::Index;

/// Namespace of a caller that is in no known pod.
const NOBODY: &str = "";

#[derive(Debug, Default)]
struct Counts {
    by_namespace: BTreeMap<String, [u64; VerdictKind::ALL.len()]>,
    /// Generation of the index's pods at the last pruning.
    generation: Option<u64>,
}

/// Counts of conflicts by namespace and verdict. A clone counts the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflicts(Arc<Mutex<Counts>>);

impl Conflicts {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are right after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a conflict that a pod of this namespace caused.
    pub(super) fn count(&self, namespace: Option<&str>, verdict: VerdictKind) {
        let namespace = namespace.unwrap_or(NOBODY);
        let mut counts = self.lock();
        if let Some(counted) = counts.by_namespace.get_mut(namespace) {
            counted[verdict as usize] += 1;
            return;
        }
        let mut counted = [0; VerdictKind::ALL.len()];
        counted[verdict as usize] = 1;
        counts.by_namespace.insert(namespace.to_owned(), counted);
        // Its pod may be gone already.
        counts.generation = None;
    }

    /// Drops the series of the namespaces that have no pod any more.
    pub(super) fn prune(&self, index: &Index) {
        let mut counts = self.lock();
        if counts.generation == Some(index.pods_generation()) {
            return;
        }
        counts.generation = Some(index.pods_generation());
        counts.by_namespace.retain(|namespace, _| namespace == NOBODY || index.has_pods_in(namespace));
    }
}

impl Collector for Conflicts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Conflicts that the kernel programs reported, by the namespace of the pod that caused them.";
        let mut family = encoder.encode_descriptor("conflicts", help, None, MetricType::Counter)?;
        for (namespace, counted) in &self.lock().by_namespace {
            for verdict in VerdictKind::ALL {
                let labels = [("namespace", namespace.as_str()), ("verdict", verdict.as_str())];
                ConstCounter::new(counted[verdict as usize]).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
