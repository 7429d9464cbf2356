//! Shares of the space for records: a cgroup whose processes bind in a loop cannot crowd out the records of others.
//!
//! Who comes first may fill the first half. In the second half each cgroup has a share for each span of time, which is so
//! long that the agent reads once in it. A cgroup that wants more loses records, which are counted.
//!
//! The word of a share is the number of the span (32 bits), a part of the cgroup's id (16 bits) and a count (16 bits).

/// Shares of one ring or log. Cgroups are numbered in the order in which they were made, so that two of one share are far
/// apart.
pub const SHARES: u32 = 1 << SHARE_BITS;
const SHARE_BITS: u32 = 10;

/// Records that a cgroup may write in the second half within one span.
pub const SHARE_RECORDS: u64 = 128;
/// Length of a span in nanoseconds, as a power of two: 67 ms, a bit more than the agent takes between two readings.
const SPAN_SHIFT: u32 = 26;
/// Bits of the count.
const COUNT_MASK: u64 = 0xffff;

/// Returns whether the first half of so many bytes has space, so that nobody needs a share.
#[must_use]
#[inline(always)]
pub const fn is_half_free(used: u64, bytes: u32) -> bool {
    used < bytes as u64 / 2
}

/// Returns the index of a cgroup's share, less than [`SHARES`].
#[must_use]
#[inline(always)]
pub const fn share_index(cgroup: u64) -> u32 {
    cgroup as u32 & (SHARES - 1)
}

/// Counts a record of this cgroup at this time, in nanoseconds. Returns the share's new word, or `None` if the cgroup has
/// used its share. Where another cgroup has the share in this span, the word stays as it is: the second one loses nothing
/// by the first.
#[must_use]
#[inline(always)]
pub const fn take_share(word: u64, cgroup: u64, now: u64) -> Option<u64> {
    let mark = (now >> SPAN_SHIFT) << 32 | (cgroup >> SHARE_BITS & 0xffff) << 16;
    if word >> 32 != mark >> 32 {
        // The first one in this span.
        return Some(mark | 1);
    }
    if word & !COUNT_MASK != mark {
        return Some(word);
    }
    if word & COUNT_MASK < SHARE_RECORDS { Some(word + 1) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 1 << SPAN_SHIFT;
    /// Two cgroups with one share.
    const CGROUP: u64 = 5000;
    const OTHER: u64 = CGROUP + SHARES as u64;

    /// Takes so many shares, each of which there is.
    fn take(word: u64, cgroup: u64, now: u64, times: u64) -> u64 {
        (0..times).fold(word, |word, _| take_share(word, cgroup, now).expect("there is some left"))
    }

    #[test]
    fn cgroup_has_its_share_in_each_span_and_no_more() {
        let mut word = 0;
        for now in [SPAN, 2 * SPAN - 1, 3 * SPAN] {
            let used = if now == 2 * SPAN - 1 { SHARE_RECORDS } else { 0 };
            word = take(word, CGROUP, now, SHARE_RECORDS - used);
            assert_eq!(take_share(word, CGROUP, now), None, "{now}");
        }
    }

    #[test]
    fn cgroup_loses_nothing_by_another_one_with_the_same_share() {
        assert_eq!(share_index(CGROUP), share_index(OTHER));
        let full = take(0, CGROUP, SPAN, SHARE_RECORDS);
        assert_eq!(take(full, OTHER, SPAN, 10 * SHARE_RECORDS), full);
        assert_eq!(take_share(full, CGROUP, SPAN), None, "nor gives it anything");
    }

    #[test]
    fn shares_begin_at_half() {
        assert_eq!([0, 49, 50, 100].map(|used| is_half_free(used, 100)), [true, true, false, false]);
    }
}
