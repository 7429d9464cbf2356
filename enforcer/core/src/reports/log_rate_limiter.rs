//! How many log lines there are about one pod: whoever makes a pod must not be able to fill the node's disk with them.

use std::{borrow::Cow, time::Duration};

use crate::{
    model::{
        actor::Actor,
        token_bucket::{RateLimit, TokenBucket},
    },
    reports::bounded_map::BoundedMap,
};

/// Log lines about one pod, or another actor.
pub const LOG_LIMIT: RateLimit = RateLimit { burst: 64, interval: Duration::from_secs(1) };
/// Most actors that are remembered.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
struct PodLines {
    bucket: TokenBucket,
    suppressed: u64,
}

/// Suppresses log lines about an actor of whom there are too many. None is lost: the next line that is admitted comes
/// with their number.
#[derive(Debug)]
pub struct LogRateLimiter {
    lines: BoundedMap<Actor, PodLines>,
}

impl Default for LogRateLimiter {
    fn default() -> Self {
        Self { lines: BoundedMap::new(MAX_REMEMBERED) }
    }
}

impl LogRateLimiter {
    /// Returns how many lines about the actor were suppressed before this one, which stands for `stands_for`; `None` if
    /// it is suppressed too. `now` is on a monotonic clock.
    pub fn admit(&mut self, about: &Actor, stands_for: u64, now: Duration) -> Option<u64> {
        self.lines.update(Cow::Borrowed(about), |lines| {
            if !lines.bucket.take(LOG_LIMIT, now) {
                lines.suppressed += stands_for;
                return None;
            }
            Some(std::mem::take(&mut lines.suppressed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Name;

    fn pod(name: &str) -> Actor {
        Actor::Known(Name {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            mirror: None,
            handover: None,
            service: false,
        })
    }

    #[test]
    fn one_pod_takes_no_line_from_another() {
        let mut limiter = LogRateLimiter::default();
        let start = Duration::from_secs(100);
        let admitted = (0..1000).filter(|_| limiter.admit(&pod("loud"), 1, start).is_some()).count();
        assert_eq!(admitted, LOG_LIMIT.burst as usize);
        assert_eq!(limiter.admit(&pod("quiet"), 1, start), Some(0));
        assert_eq!(limiter.admit(&pod("loud"), 5, start + LOG_LIMIT.interval / 2), None);
        let suppressed = 1000 - u64::from(LOG_LIMIT.burst) + 5;
        assert_eq!(
            limiter.admit(&pod("loud"), 1, start + LOG_LIMIT.interval),
            Some(suppressed),
            "the number of suppressed lines comes with the next one"
        );
        assert_eq!(limiter.admit(&pod("loud"), 1, start + LOG_LIMIT.interval), None, "one in that time");
        let later = start + Duration::from_hours(1);
        let admitted = (0..1000).filter(|_| limiter.admit(&pod("loud"), 1, later).is_some()).count();
        assert_eq!(admitted, LOG_LIMIT.burst as usize, "and no more for having been quiet");
    }

    #[test]
    fn memory_of_the_limiter_is_bounded() {
        let mut limiter = LogRateLimiter::default();
        for number in 0..3 * MAX_REMEMBERED {
            assert_eq!(limiter.admit(&pod(&number.to_string()), 1, Duration::ZERO), Some(0));
        }
        assert_eq!(limiter.lines.len(), MAX_REMEMBERED);
    }
}
