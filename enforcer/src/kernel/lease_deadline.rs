//! Conversion of the end of the lease between two clocks: elsewhere it is nanoseconds of `CLOCK_BOOTTIME`; for the programs
//! ([`enforcer_ebpf::wire::Config::lease_deadline`]) nanoseconds of `CLOCK_MONOTONIC`, which leaves sleep out, since they
//! read that clock for next to nothing. So a lease gets longer by the time that the node sleeps. 0 is never.

use crate::host::clock;

/// Returns the word for the programs.
pub(super) fn to_word(deadline: u64) -> u64 {
    word(deadline, clock::slept())
}

/// Returns the deadline in a word of the programs: nanoseconds since boot, sleep included; 0 is never.
pub(super) fn from_word(word: u64) -> u64 {
    if word == 0 { 0 } else { word.saturating_add(clock::slept()) }
}

fn word(deadline: u64, slept: u64) -> u64 {
    // 0 would be never, so a deadline that has passed becomes 1.
    if deadline == 0 { 0 } else { deadline.saturating_sub(slept).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_leaves_sleep_out() {
        assert_eq!([word(0, 5), word(4, 5), word(7, 5), word(7, 0)], [0, 1, 2, 7]);
        assert_eq!(from_word(0), 0);
        // Sleep is measured in whole milliseconds.
        assert!(from_word(to_word(u64::MAX / 2)).abs_diff(u64::MAX / 2) < 10_000_000);
    }
}
