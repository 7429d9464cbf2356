//! Points in time.

use std::time::Duration;

/// The present, by two clocks that the caller reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, in microseconds since 1970: ranks claims by arrival.
    pub wall: i64,
    /// Time of `CLOCK_BOOTTIME`: time since boot, sleep included. Ends grace periods.
    pub boottime: Duration,
}
