//! The agent's metrics, as `OpenMetrics` text.
//!
//! Labels are closed lists: never a pod, a port or a command, so that nobody who makes pods can make series. The one
//! exception is the namespace of who caused a conflict, and those are as many as have pods on the node. Every metric is
//! described in `docs/metrics.md`, and a test compares the two.

mod conflicts;
mod enforcement;
mod events;
mod kernel;
mod labels;
#[cfg(test)]
mod tests;
mod watches;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use enforcer_ebpf::wire::{self, Policy, VerdictKind};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use enforcer_core::{
    index::{Index, MapUsage, Notice},
    model::{kernel_ids::BootNanos, mode::Mode},
    views::unenforced_time::GapCause,
};

use crate::{
    k8s::{ApiErrorKind, ApiResource, EventQueue, LastActivity},
    metrics::{
        conflicts::Conflicts,
        enforcement::Enforcement,
        events::EventsDropped,
        kernel::{KernelCounters, ReadCounters},
        labels::{ClaimStateLabel, Labels, Map, api_error, claim_problem, claim_state, map, mode},
        watches::WatchActivityCollector,
    },
};

/// Media type of [`Metrics::exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the delay's buckets in seconds: from 10 µs, about what an update of one port takes, to 10 s.
const DELAY_BUCKETS: [f64; 19] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0,
    2.5, 5.0, 10.0,
];

/// All metrics. The kernel's counters are read at every scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    counters: Arc<OnceLock<ReadCounters>>,
    event_queue: Arc<OnceLock<EventQueue>>,
    conflicts: Conflicts,
    enforcement: Enforcement,
    ready: Gauge,
    holders: Gauge,
    failing_binds: Gauge,
    ports_answered_by_other: Gauge,
    delay: Histogram,
    api_errors: Family<Labels<2>, Counter>,
    claim_problems: Family<Labels<1>, Counter>,
    log_lines_dropped: Counter,
    map_write_errors: Counter,
    pods: Gauge,
    services: Gauge,
    claims: Family<Labels<1>, Gauge>,
    map_entries: Family<Labels<1>, Gauge>,
    mode: Family<Labels<1>, Gauge>,
    reserved_ports: Gauge,
    unreserved_ports: Gauge,
}

impl Metrics {
    /// Returns the metrics of an agent, with those of the API server's watches if there is an `activity`.
    #[must_use]
    pub fn new(activity: Option<LastActivity>) -> Self {
        let (counters, event_queue) = (Arc::default(), Arc::default());
        let mut metrics = Self {
            registry: Registry::with_prefix("port_enforcer"),
            counters: Arc::clone(&counters),
            event_queue: Arc::clone(&event_queue),
            conflicts: Conflicts::default(),
            enforcement: Enforcement::default(),
            ready: Gauge::default(),
            holders: Gauge::default(),
            failing_binds: Gauge::default(),
            ports_answered_by_other: Gauge::default(),
            delay: Histogram::new(DELAY_BUCKETS),
            api_errors: Family::default(),
            claim_problems: Family::default(),
            log_lines_dropped: Counter::default(),
            map_write_errors: Counter::default(),
            pods: Gauge::default(),
            services: Gauge::default(),
            claims: Family::default(),
            map_entries: Family::default(),
            mode: Family::default(),
            reserved_ports: Gauge::default(),
            unreserved_ports: Gauge::default(),
        };
        metrics.register();
        metrics.registry.register_collector(Box::new(KernelCounters(counters)));
        metrics.registry.register_collector(Box::new(metrics.conflicts.clone()));
        metrics.registry.register_collector(Box::new(metrics.enforcement.clone()));
        metrics.registry.register_collector(Box::new(EventsDropped(event_queue)));
        if let Some(activity) = activity {
            // A counter that begins with its first error shows no increase then.
            for resource in ApiResource::ALL {
                for kind in ApiErrorKind::ALL {
                    drop(metrics.api_errors.get_or_create(&api_error(resource, kind)));
                }
            }
            metrics.registry.register_collector(Box::new(WatchActivityCollector(activity)));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("build", "The agent's version", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("mode", "1 for the mode of the node, 0 for the other one", self.mode.clone());
        registry.register("pods", "Pods of this node that are known", self.pods.clone());
        let help = "Services of which a port is taken on this node, as on every other one";
        registry.register("services", help, self.services.clone());
        let help = "Claims, one for each port and address, that are in force or have lost";
        registry.register("claims", help, self.claims.clone());
        let help = "Sockets that are bound to ports of the node, claimed or not, of any process";
        registry.register("holders", help, self.holders.clone());
        let help = "Binds that fail because another one holds the port, until they succeed or nobody tries any more";
        registry.register("failing_binds", help, self.failing_binds.clone());
        let help = "Declared or probed ports of pods that are Ready, and that another pod or a host process answers";
        registry.register("ports_answered_by_other", help, self.ports_answered_by_other.clone());
        let help = "1 once binds are judged and all pods of the node are known, as in /readyz, else 0";
        registry.register("ready", help, self.ready.clone());
        let help = "Ports that are in the kernel's list of reserved ports because of claims";
        registry.register("reserved_ports", help, self.reserved_ports.clone());
        let help = "Ports with claims that are not in that list, because half of the ephemeral ports are";
        registry.register("unreserved_ports", help, self.unreserved_ports.clone());
        let help = "Entries of the kernel's maps in use";
        registry.register("map_entries", help, self.map_entries.clone());
        let capacity = Family::<Labels<1>, Gauge>::default();
        for (name, most) in [
            (Map::Ports, wire::PORT_COUNT),
            // The first slot is nobody's.
            (Map::Owners, wire::MAX_OWNERS - 1),
            (Map::Exact, wire::MAX_ADDRESS_CLAIMS),
            (Map::Uids, wire::MAX_POD_UIDS),
            (Map::Cgroups, wire::MAX_POD_CGROUPS),
        ] {
            capacity.get_or_create(&map(name)).set(most.into());
        }
        registry.register("map_capacity", "Entries that the kernel's maps have room for", capacity);
        let help = "Changes that the kernel refused to write to its maps; each leaves out a claim or an identity";
        registry.register("map_write_errors", help, self.map_write_errors.clone());
        let help =
            "Time from the arrival of an update's last bytes from the API server until the kernel's maps hold it";
        registry.register_with_unit("enforcement_delay", help, Unit::Seconds, self.delay.clone());
        let help = "Failed calls to the API server";
        registry.register("api_errors", help, self.api_errors.clone());
        let help = "Declarations of pods that have no effect: invalid items, too many ports, forged identities";
        for kind in Notice::PROBLEMS {
            drop(self.claim_problems.get_or_create(&claim_problem(kind)));
        }
        registry.register("claim_problems", help, self.claim_problems.clone());
        let help = "Lines of the log that were dropped: its reader is too slow, or its disk is full";
        registry.register("log_lines_dropped", help, self.log_lines_dropped.clone());
    }

    /// Sets the number of binds that fail because another one holds the port.
    pub fn set_failing_binds(&self, count: usize) {
        self.failing_binds.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of ports of Ready pods that others answer.
    pub fn set_ports_answered_by_other(&self, count: usize) {
        self.ports_answered_by_other.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how the kernel's counters are read. Only the first call has an effect.
    pub fn set_counters(&self, read: ReadCounters) {
        // A second one would be read from the same programs.
        let _ = self.counters.set(read);
    }

    /// Sets the queue whose dropped Events are counted. Only the first call has an effect.
    pub fn set_event_queue(&self, event_queue: EventQueue) {
        // There is one for the life of an agent.
        let _ = self.event_queue.set(event_queue);
    }

    /// Counts a conflict that a pod of this namespace caused; `None` for a caller in no known pod.
    pub fn conflict(&self, namespace: Option<&str>, verdict: VerdictKind) {
        self.conflicts.count(namespace, verdict);
    }

    /// Sets since when and why nothing is denied although the node is to enforce; times are since boot.
    pub fn unenforced(&self, open: Option<(GapCause, Duration)>, now: Duration) {
        self.enforcement.turn(open, now);
    }

    /// Adds a gap in enforcement that is over.
    pub fn was_unenforced(&self, cause: GapCause, gap: Duration) {
        self.enforcement.add(cause, gap);
    }

    /// Sets for how long a restored boot state was in force before this agent.
    pub fn boot_restored(&self, time: Duration) {
        self.enforcement.set_boot_restored(time);
    }

    /// Sets when the lease ends; `None` is never.
    pub fn lease_ends(&self, deadline: Option<BootNanos>) {
        self.enforcement.set_lease(deadline);
    }

    /// Sets the readiness.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// Observes the delay of an update from its arrival to the kernel's maps.
    pub fn enforced(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    /// Counts a failed call to the API server.
    pub fn api_error(&self, resource: ApiResource, kind: ApiErrorKind) {
        self.api_errors.get_or_create(&api_error(resource, kind)).inc();
    }

    /// Counts dropped lines of the log.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.log_lines_dropped.inc_by(lines);
    }

    /// Counts a declaration of a pod that has no effect, if the notice is about one.
    pub fn claim_problem(&self, notice: &Notice) {
        if let Some((kind, count)) = notice.problem() {
            self.claim_problems.get_or_create(&claim_problem(kind)).inc_by(count as u64);
        }
    }

    /// Counts a change that the kernel refused.
    pub fn map_write_error(&self) {
        self.map_write_errors.inc();
    }

    /// Sets the numbers of ports that are reserved because of claims, and of those that could not be.
    pub fn reserved(&self, reserved: u32, unreserved: u32) {
        self.reserved_ports.set(reserved.into());
        self.unreserved_ports.set(unreserved.into());
    }

    /// Sets the gauges of pods, claims, sockets, maps and mode.
    pub fn set_gauges(&self, index: &Index, holders: usize, policy: Policy) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.conflicts.prune(index);
        self.holders.set(gauge(holders));
        self.pods.set(gauge(index.pod_count()));
        self.services.set(gauge(index.service_count()));
        let (in_force, lost) = index.claim_counts();
        self.claims.get_or_create(&claim_state(ClaimStateLabel::InForce)).set(gauge(in_force));
        self.claims.get_or_create(&claim_state(ClaimStateLabel::Lost)).set(gauge(lost));
        let MapUsage { ports, owners, exact, uids, cgroups } = index.usage();
        for (name, entries) in [
            (Map::Ports, ports),
            (Map::Owners, owners),
            (Map::Exact, exact),
            (Map::Uids, uids),
            (Map::Cgroups, cgroups),
        ] {
            self.map_entries.get_or_create(&map(name)).set(gauge(entries));
        }
        self.mode.get_or_create(&mode(Mode::Audit)).set(i64::from(!policy.enforce));
        self.mode.get_or_create(&mode(Mode::Enforce)).set(i64::from(policy.enforce));
    }

    /// Encodes all metrics as `OpenMetrics` text.
    ///
    /// # Errors
    ///
    /// If the kernel's counters cannot be read; the cause is logged.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
