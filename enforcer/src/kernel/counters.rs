//! Reading of the exact counters.

use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use enforcer_ebpf::wire::{self, KernelError, Protocol, Reason, VerdictKind};

use crate::kernel::{error::BpfError, map_names::COUNTERS};

/// Exact counters of the running programs. A clone reads the same ones.
#[derive(Clone)]
pub struct CounterMap(Arc<PerCpuArray<MapData, u64>>);

impl CounterMap {
    /// Reads from this map, which is `COUNTERS`.
    #[must_use]
    pub fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self(Arc::new(map))
    }

    /// Reads all counters, summed over the CPUs: a system call for each.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn read(&self) -> Result<Counters, BpfError> {
        (0..wire::COUNTER_COUNT)
            .map(|index| self.count(index))
            .collect::<Result<_, _>>()
            .map(|counts| Counters { counts })
    }

    /// Reads how many records of cgroups were lost.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn cgroup_events_lost(&self) -> Result<u64, BpfError> {
        self.count(wire::error_counter(KernelError::CgroupEventLost))
    }

    /// Reads how many records of sockets were lost.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn socket_records_lost(&self) -> Result<u64, BpfError> {
        self.count(wire::error_counter(KernelError::HolderEventLost))
    }

    fn count(&self, index: u32) -> Result<u64, BpfError> {
        let per_cpu = self.0.get(&index, 0).map_err(BpfError::map("read", COUNTERS))?;
        Ok(per_cpu.iter().fold(0, |sum: u64, count| sum.wrapping_add(*count)))
    }
}

/// Snapshot of the exact counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Wrapping sums: a program can take a count back on another CPU than the one that added it.
    counts: Vec<u64>,
}

impl Counters {
    /// Returns the attempts with this verdict, reason and protocol.
    #[must_use]
    pub fn attempts(&self, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
        let reported = self.counts[wire::counter(verdict, reason, protocol) as usize];
        let sum = reported.wrapping_add(self.unreported(verdict, reason, protocol));
        u64::try_from(sum.cast_signed()).unwrap_or(0)
    }

    /// Returns the attempts with this verdict and reason, of all protocols.
    #[must_use]
    pub fn of(&self, verdict: VerdictKind, reason: Reason) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| self.attempts(verdict, reason, protocol)).sum()
    }

    /// Returns the errors of this kind.
    #[must_use]
    pub fn errors(&self, error: KernelError) -> u64 {
        let own = self.counts[wire::error_counter(error) as usize];
        match error {
            KernelError::BindEventLost => own + self.all_unreported(),
            _ => own,
        }
    }

    fn unreported(&self, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
        self.counts[wire::unreported_counter(verdict, reason, protocol) as usize]
    }

    fn all_unreported(&self) -> u64 {
        let of = |verdict, reason| Protocol::ALL.map(|protocol| self.unreported(verdict, reason, protocol));
        VerdictKind::ALL
            .iter()
            .flat_map(|verdict| Reason::ALL.into_iter().flat_map(move |reason| of(*verdict, reason)))
            .sum()
    }

    /// Makes counters with the function's count at each index.
    #[cfg(test)]
    pub(crate) fn from_fn(count: impl Fn(u32) -> u64) -> Self {
        Self { counts: (0..wire::COUNTER_COUNT).map(count).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (VerdictKind, Reason, Protocol) = (VerdictKind::Audit, Reason::Claimed, Protocol::Tcp);

    fn counters(reported: u64, unreported: u64) -> Counters {
        let (verdict, reason, protocol) = KEY;
        Counters::from_fn(|index| match index {
            _ if index == wire::counter(verdict, reason, protocol) => reported,
            _ if index == wire::unreported_counter(verdict, reason, protocol) => unreported,
            _ if index == wire::error_counter(KernelError::BindEventLost) => 1,
            _ => 0,
        })
    }

    #[test]
    fn unreported_attempt_counts_as_attempt_and_as_lost() {
        let counters = counters(5, 7);
        assert_eq!((counters.attempts(KEY.0, KEY.1, KEY.2), counters.of(KEY.0, KEY.1)), (12, 12));
        assert_eq!(counters.errors(KernelError::BindEventLost), 8);
        assert_eq!(counters.errors(KernelError::CgroupEventLost), 0);
    }

    #[test]
    fn count_taken_back_may_be_of_an_unreported_attempt() {
        let counters = counters(u64::MAX, 7);
        assert_eq!(counters.attempts(KEY.0, KEY.1, KEY.2), 6);
        assert_eq!(counters.errors(KernelError::BindEventLost), 8);
    }
}
