//! Repetitions of one report.

use std::{borrow::Cow, net::IpAddr, time::Duration};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use crate::{
    model::{actor::Actor, attempt::Attempt, owner::OwnerId},
    reports::{bounded_map::BoundedMap, report::Report},
};

/// Time for which repetitions of a report are suppressed.
pub const REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// Most different reports that are remembered at once.
const MAX_REMEMBERED: usize = 4096;

/// Caller, target, owner and verdict: reports that are equal in these are repetitions.
type Repeated = (Actor, IpAddr, u16, Protocol, Option<OwnerId>, VerdictKind, Reason);

#[derive(Debug, Default)]
struct Repetitions {
    last_admitted: Option<Duration>,
    suppressed: u64,
}

/// Admits the first report of its kind and suppresses its repetitions for [`REPEAT_INTERVAL`]. None is lost: the next one
/// that is admitted comes with their number, and the counters of the kernel programs are exact anyway.
#[derive(Debug)]
pub struct Deduplicator {
    seen: BoundedMap<Repeated, Repetitions>,
}

impl Default for Deduplicator {
    fn default() -> Self {
        Self { seen: BoundedMap::new(MAX_REMEMBERED) }
    }
}

impl Deduplicator {
    /// Returns how many repetitions were suppressed before this report; `None` if this one is suppressed too. `now` is on
    /// a monotonic clock.
    pub fn admit(&mut self, report: &Report, now: Duration) -> Option<u64> {
        let Attempt { address, port, protocol, verdict, reason, owner, .. } = report.attempt;
        let key = (report.caller.clone(), address, port, protocol, owner, verdict, reason);
        self.seen.update(Cow::Owned(key), |repetitions| {
            if repetitions.last_admitted.is_some_and(|last| now.saturating_sub(last) < REPEAT_INTERVAL) {
                repetitions.suppressed += 1;
                return None;
            }
            repetitions.last_admitted = Some(now);
            Some(std::mem::take(&mut repetitions.suppressed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::messages::tests::report;

    #[test]
    fn repetitions_are_counted_and_suppressed() {
        let mut deduplicator = Deduplicator::default();
        let one = report(Reason::Claimed, VerdictKind::Deny);
        let other = report(Reason::Claimed, VerdictKind::Audit);
        assert_eq!(deduplicator.admit(&one, Duration::ZERO), Some(0));
        assert_eq!(deduplicator.admit(&other, Duration::ZERO), Some(0));
        for second in 1..60 {
            assert_eq!(deduplicator.admit(&one, Duration::from_secs(second)), None);
        }
        assert_eq!(deduplicator.admit(&one, REPEAT_INTERVAL), Some(59));
        assert_eq!(deduplicator.admit(&one, REPEAT_INTERVAL * 2), Some(0));
    }

    #[test]
    fn memory_for_repetitions_is_bounded() {
        let mut deduplicator = Deduplicator::default();
        let mut one = report(Reason::Claimed, VerdictKind::Deny);
        for owner in 1..=2 * u32::try_from(MAX_REMEMBERED).unwrap() {
            one.attempt.owner = OwnerId::new(owner);
            deduplicator.admit(&one, Duration::ZERO);
        }
        assert_eq!(deduplicator.seen.len(), MAX_REMEMBERED);
    }
}
