//! The time.
//!
//! The kernel programs note who holds a port by the coarse clock, which costs next to nothing to read and stands still
//! between two ticks. What is compared with that is read from the same clock: so a socket that was noted before a dump
//! of the sockets began has a smaller time than the dump, or the same and counts as noted later, which is the careful
//! side.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use enforcer_core::model::{kernel_ids::BootNanos, now::Now};

/// Number of times that two clocks are read until they were read in about the same instant: whoever reads them may be
/// kept waiting by others.
const TRIES: usize = 8;
const CLOSE: Duration = Duration::from_millis(1);

/// Returns the time now. The monotonic clock counts sleep too: a grace period is over after a suspended night.
#[must_use]
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX), boottime: read(ClockId::Boottime) }
}

/// Returns how long the machine slept since boot, in nanoseconds: what is to be added to a time of the kernel's that
/// leaves sleep out. Nothing on a machine that never slept, else in whole milliseconds, since the two clocks are not
/// read in the same instant.
#[must_use]
pub fn slept() -> u64 {
    let mut slept = Duration::ZERO;
    for _ in 0..TRIES {
        let before = read(ClockId::Monotonic);
        let boot = read(ClockId::Boottime);
        let after = read(ClockId::Monotonic);
        slept = boot.saturating_sub(after);
        if after.saturating_sub(before) < CLOSE {
            break;
        }
    }
    u64::try_from(slept.as_millis()).unwrap_or(u64::MAX).saturating_mul(1_000_000)
}

/// Returns the time of the last tick.
#[must_use]
pub fn coarse() -> BootNanos {
    let awake = read(ClockId::MonotonicCoarse).as_nanos();
    BootNanos::new(u64::try_from(awake).unwrap_or(u64::MAX).saturating_add(slept()))
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coarse_clock_follows_the_exact_one() {
        let exact = || BootNanos::after_boot(now().boottime);
        let before = coarse();
        let between = exact();
        assert!(before <= between, "{before:?} {between:?}");
        // A tick is ten milliseconds at most, and sleep is told in whole ones.
        std::thread::sleep(Duration::from_millis(20));
        let after = coarse();
        assert!(between < after, "{between:?} {after:?}");
    }
}
