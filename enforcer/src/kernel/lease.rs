//! When the lease ends: for all the world in nanoseconds since boot, sleep included, and for the programs without it
//! ([`enforcer_ebpf::wire::Config::lease_deadline`]), since the clocks that they can read for next to nothing stand still then.
//! So a lease goes on for as long as the node sleeps. 0 is never.

use crate::host::clock;

/// For the programs.
pub(super) fn to_word(deadline: u64) -> u64 {
    word(deadline, clock::slept())
}

/// From the programs' word.
pub(super) fn from_word(word: u64) -> u64 {
    if word == 0 { 0 } else { word.saturating_add(clock::slept()) }
}

fn word(deadline: u64, slept: u64) -> u64 {
    // What is over already is not never.
    if deadline == 0 { 0 } else { deadline.saturating_sub(slept).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_left_out() {
        assert_eq!([word(0, 5), word(4, 5), word(7, 5), word(7, 0)], [0, 1, 2, 7]);
        assert_eq!(from_word(0), 0);
        // Sleep is told in whole milliseconds.
        assert!(from_word(to_word(u64::MAX / 2)).abs_diff(u64::MAX / 2) < 10_000_000);
    }
}
