//! A token bucket with the time as an argument.
//!
//! The crate `governor` is not used: it cannot put a token back, and its keyed limiter grows with the number of keys,
//! which tenants choose here.

use std::time::Duration;

/// Rate at which something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens of a full bucket: how often in a row. At least 1.
    pub burst: u32,
    /// Time until an empty bucket has one more token.
    pub interval: Duration,
}

/// Tokens that are left. A new bucket is full.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket {
    /// Time at which the bucket will be full. All times are on one monotonic clock.
    full_at: Duration,
}

impl TokenBucket {
    /// Returns the moment from which on there is a token.
    #[must_use]
    pub fn available_at(&self, limit: RateLimit) -> Duration {
        self.full_at.saturating_sub(limit.interval.saturating_mul(limit.burst - 1))
    }

    /// Takes a token out, if there is one. Returns whether there was.
    pub fn take(&mut self, limit: RateLimit, now: Duration) -> bool {
        let available = self.available_at(limit) <= now;
        if available {
            self.full_at = self.full_at.max(now) + limit.interval;
        }
        available
    }

    /// Puts back a token that was taken for nothing.
    pub fn put_back(&mut self, limit: RateLimit) {
        self.full_at = self.full_at.saturating_sub(limit.interval);
    }

    /// Checks whether no token is missing, as in a new bucket.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { burst: 3, interval: Duration::from_secs(10) };

    #[test]
    fn tokens_come_back_one_by_one_up_to_the_burst() {
        let mut bucket = TokenBucket::default();
        let taken = |bucket: &mut TokenBucket, second| {
            (0..9).filter(|_| bucket.take(LIMIT, Duration::from_secs(second))).count()
        };
        assert_eq!([0, 9, 10, 19, 35, 1000].map(|second| taken(&mut bucket, second)), [3, 0, 1, 0, 2, 3]);
        assert_eq!(bucket.available_at(LIMIT), Duration::from_secs(1010));
        assert!(!bucket.is_full(Duration::from_secs(1029)) && bucket.is_full(Duration::from_secs(1030)));
    }

    #[test]
    fn token_that_was_put_back_is_available_at_once() {
        let mut bucket = TokenBucket::default();
        let now = Duration::from_secs(5);
        assert!((0..3).all(|_| bucket.take(LIMIT, now)) && !bucket.take(LIMIT, now));
        bucket.put_back(LIMIT);
        assert!(bucket.take(LIMIT, now) && !bucket.take(LIMIT, now));
    }
}
