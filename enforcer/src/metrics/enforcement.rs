//! Time without enforcement on a node that is to enforce, and the end of the lease.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

use enforcer_core::{
    model::kernel_ids::BootNanos,
    views::unenforced_time::{GapCause, UnenforcedTime},
};

use crate::{host::clock::now, metrics::labels::cause};

#[derive(Debug, Default)]
struct State {
    unenforced: UnenforcedTime,
    /// `None` is never.
    lease_deadline: Option<BootNanos>,
    /// Time for which a restored boot state was in force before this agent.
    boot_restored: Duration,
}

/// Time without enforcement, and the end of the lease. A clone shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Enforcement(Arc<Mutex<State>>);

impl Enforcement {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Sums are right after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn turn(&self, open: Option<(GapCause, Duration)>, now: Duration) {
        self.lock().unenforced.turn(open, now);
    }

    pub(super) fn add(&self, cause: GapCause, gap: Duration) {
        self.lock().unenforced.add(cause, gap);
    }

    pub(super) fn set_boot_restored(&self, time: Duration) {
        self.lock().boot_restored = time;
    }

    pub(super) fn set_lease(&self, deadline: Option<BootNanos>) {
        self.lock().lease_deadline = deadline;
    }
}

impl Collector for Enforcement {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.lock();
        let now = now();
        let help = "Time in which the node was to deny conflicts and did not.";
        let mut family = encoder.encode_descriptor("unenforced", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for why in GapCause::ALL {
            let seconds = state.unenforced.total(why, now.boottime).as_secs_f64();
            ConstCounter::new(seconds).encode(family.encode_family(&cause(why))?)?;
        }
        let help = "Time for which a boot state that enforcer restore loaded was in force before this agent took over; \
                    0 if none was.";
        let gauge = encoder.encode_descriptor("boot_restored", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        ConstGauge::new(state.boot_restored.as_secs_f64()).encode(gauge)?;
        // A lease that never ends has no series.
        if let Some(deadline) = state.lease_deadline {
            let since_boot = deadline.since_boot().as_secs_f64() - now.boottime.as_secs_f64();
            let wall = Duration::from_micros(u64::try_from(now.wall).unwrap_or_default()).as_secs_f64();
            let help = "When enforcement lapses unless an agent renews the lease.";
            let name = "lease_end_timestamp";
            let gauge = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            ConstGauge::new(wall + since_boot).encode(gauge)?;
        }
        Ok(())
    }
}
