//! The kernel programs' counters, read from their map at every scrape: exact, and never out of step.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use enforcer_ebpf::wire::{KernelError, Protocol, Reason, VerdictKind};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::{
    kernel::{BpfError, CounterMap, Counters},
    metrics::labels::{attempt, kernel_error, ring},
};

/// Function that reads the counters.
pub struct ReadCounters(Box<dyn Fn() -> Result<Counters, BpfError> + Send + Sync>);

impl ReadCounters {
    pub(super) fn new(read: impl Fn() -> Result<Counters, BpfError> + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }
}

impl From<CounterMap> for ReadCounters {
    fn from(map: CounterMap) -> Self {
        Self::new(move || map.read())
    }
}

impl fmt::Debug for ReadCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadCounters")
    }
}

/// The rings of the kernel programs, and the error that counts the records lost in each.
const RINGS: [(&str, KernelError); 3] = [
    ("verdict", KernelError::BindEventLost),
    ("cgroup", KernelError::CgroupEventLost),
    ("socket", KernelError::HolderEventLost),
];

/// Collector of the kernel's counters. It has no series before the counters are set.
#[derive(Debug)]
pub(super) struct KernelCounters(pub(super) Arc<OnceLock<ReadCounters>>);

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(ReadCounters(read)) = self.0.get() else {
            return Ok(());
        };
        let counters = read().map_err(|error| {
            tracing::error!(event = "counters_failed", "metrics cannot be served: {error}");
            fmt::Error
        })?;
        let help = "Calls of bind() that were judged.";
        let mut family = encoder.encode_descriptor("bind_attempts", help, None, MetricType::Counter)?;
        for protocol in Protocol::ALL {
            for verdict in VerdictKind::ALL {
                for reason in Reason::ALL {
                    let count = counters.attempts(verdict, reason, protocol);
                    if count > 0 || is_usual(verdict, reason, protocol) {
                        let labels = attempt(verdict, reason, protocol);
                        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                    }
                }
            }
        }
        let help = "Errors of the kernel programs.";
        let mut family = encoder.encode_descriptor("kernel_errors", help, None, MetricType::Counter)?;
        for kind in KernelError::ALL {
            ConstCounter::new(counters.errors(kind)).encode(family.encode_family(&kernel_error(kind))?)?;
        }
        let help = "Records that the kernel programs could not send to the agent because the ring was full.";
        let mut family = encoder.encode_descriptor("events_lost", help, None, MetricType::Counter)?;
        for (name, kind) in RINGS {
            ConstCounter::new(counters.errors(kind)).encode(family.encode_family(&ring(name))?)?;
        }
        Ok(())
    }
}

/// Checks whether a series exists from the beginning, so that its first attempt is an increase: verdicts that `decide`
/// can return for protocols whose binds are seen. Others exist once they are counted.
fn is_usual(verdict: VerdictKind, reason: Reason, protocol: Protocol) -> bool {
    let is_possible = match reason {
        Reason::Owner | Reason::Unclaimed | Reason::Share | Reason::Sibling | Reason::Handover => {
            verdict == VerdictKind::Allow
        }
        Reason::Claimed | Reason::Reserved | Reason::Undeclared => verdict != VerdictKind::Allow,
        Reason::Error => true,
        Reason::Held | Reason::Stale => false,
    };
    is_possible && protocol.is_enforced()
}
