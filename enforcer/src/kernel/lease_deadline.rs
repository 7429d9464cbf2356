//! Conversion of the end of the lease between two clocks: elsewhere it is a time of `CLOCK_BOOTTIME`; for the programs
//! ([`enforcer_ebpf::wire::Config::lease_deadline`]) nanoseconds of `CLOCK_MONOTONIC`, which leaves sleep out, since
//! they read that clock for next to nothing. So a lease gets longer by the time that the node sleeps. For the programs,
//! 0 is never.

use enforcer_core::model::kernel_ids::BootNanos;

use crate::host::clock;

/// Returns the word for the programs. `None` is never.
pub(super) fn to_word(deadline: Option<BootNanos>) -> u64 {
    word(deadline, clock::slept())
}

/// Returns the deadline in a word of the programs; `None` is never.
pub(super) fn from_word(word: u64) -> Option<BootNanos> {
    (word != 0).then(|| BootNanos::new(word.saturating_add(clock::slept())))
}

fn word(deadline: Option<BootNanos>, slept: u64) -> u64 {
    // 0 would be never, so a deadline that has passed becomes 1.
    deadline.map_or(0, |deadline| deadline.get().saturating_sub(slept).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_leaves_sleep_out() {
        let at = |nanos| Some(BootNanos::new(nanos));
        assert_eq!([word(None, 5), word(at(4), 5), word(at(7), 5), word(at(7), 0)], [0, 1, 2, 7]);
        assert_eq!(from_word(0), None);
        // Sleep is measured in whole milliseconds.
        let read = from_word(to_word(at(u64::MAX / 2))).map_or(0, BootNanos::get);
        assert!(read.abs_diff(u64::MAX / 2) < 10_000_000);
    }
}
