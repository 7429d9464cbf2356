//! `COUNTERS`, read at any time.

use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use enforcer_ebpf::abi::{self, KernelError, Protocol, Reason, VerdictKind};

use crate::bpf::{BpfError, map_error};

/// The exact counters of the running programs. A clone reads the same ones.
#[derive(Clone)]
pub struct CounterMap(Arc<PerCpuArray<MapData, u64>>);

impl CounterMap {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self(Arc::new(map))
    }

    /// Reads all counters, summed over the CPUs: a system call for each.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn read(&self) -> Result<Counters, BpfError> {
        (0..abi::COUNTERS).map(|index| self.count(index)).collect::<Result<_, _>>().map(|counts| Counters { counts })
    }

    /// Reads how many errors of this kind the programs met.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn errors(&self, error: KernelError) -> Result<u64, BpfError> {
        self.count(abi::error_counter(error))
    }

    fn count(&self, index: u32) -> Result<u64, BpfError> {
        let per_cpu = self.0.get(&index, 0).map_err(|source| map_error("read", "COUNTERS", source))?;
        // The programs take a count back where they find out more, on whatever CPU they run then.
        let sum = per_cpu.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        Ok(u64::try_from(sum.cast_signed()).unwrap_or(0))
    }
}

/// A snapshot of the exact counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: Vec<u64>,
}

impl Counters {
    /// Attempts with this verdict, reason and protocol.
    #[must_use]
    pub fn attempts(&self, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
        self.counts[abi::counter(verdict, reason, protocol) as usize]
    }

    /// Attempts with this verdict and reason, of all protocols.
    #[must_use]
    pub fn of(&self, verdict: VerdictKind, reason: Reason) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| self.attempts(verdict, reason, protocol)).sum()
    }

    /// Errors of the programs of this kind.
    #[must_use]
    pub fn errors(&self, error: KernelError) -> u64 {
        self.counts[abi::error_counter(error) as usize]
    }

    /// Counters whose count at each index is what the function says.
    #[cfg(test)]
    pub(crate) fn from_fn(count: impl Fn(u32) -> u64) -> Self {
        Self { counts: (0..abi::COUNTERS).map(count).collect() }
    }
}
