//! Jitter of times.

use std::time::Duration;

/// Pseudo-random shares of durations, so that the nodes of a cluster do not call at the same time.
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Returns a jitter with its own shares for each seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a duration from zero up to this one. The steps are those of splitmix64.
    pub fn share_of(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let part = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
        most.mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}
