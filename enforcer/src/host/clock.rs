//! The time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::core::index::Now;

/// The time now. The monotonic clock counts sleep too: a grace period is over after a suspended night.
#[must_use]
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = clock_gettime(ClockId::Boottime);
    let monotonic =
        Duration::new(u64::try_from(boot.tv_sec).unwrap_or_default(), u32::try_from(boot.tv_nsec).unwrap_or_default());
    Now { wall: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX), monotonic }
}
