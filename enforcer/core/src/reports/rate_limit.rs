//! How much the log says of one pod: whoever makes a pod must not be able to fill the node's disk with what is told of it.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::report::Actor;

/// Lines about one pod, or whoever else it is, that are told at once.
pub const BURST: u32 = 64;
/// After that, one line in this time.
pub const PACE: Duration = Duration::from_secs(1);
/// Most pods that are remembered; those that were heard of first are forgotten first.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Bucket {
    /// How many lines may be told.
    left: u32,
    /// When it had so many.
    at: Duration,
    held_back: u64,
}

/// Holds back what is told too often of one pod. Nothing is lost without a word: the next line says how many there were.
#[derive(Debug, Default)]
pub struct LogRateLimiter {
    buckets: HashMap<Actor, Bucket>,
    order: VecDeque<Actor>,
}

impl LogRateLimiter {
    /// Whether to tell a line about this one, which stands for so many; and if so, how many were held back before it. `now`
    /// is on the monotonic clock.
    pub fn admit(&mut self, about: &Actor, stands_for: u64, now: Duration) -> Option<u64> {
        if !self.buckets.contains_key(about) {
            if self.order.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.buckets.remove(&oldest);
            }
            self.order.push_back(about.clone());
            self.buckets.insert(about.clone(), Bucket { left: BURST, at: now, held_back: 0 });
        }
        let bucket = self.buckets.get_mut(about)?;
        let passed = now.saturating_sub(bucket.at).as_nanos() / PACE.as_nanos();
        if passed > 0 {
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            bucket.left = bucket.left.saturating_add(passed).min(BURST);
            bucket.at += PACE.saturating_mul(passed);
        }
        if bucket.left == 0 {
            bucket.held_back += stands_for;
            return None;
        }
        bucket.left -= 1;
        Some(std::mem::take(&mut bucket.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Name;

    fn pod(name: &str) -> Actor {
        Actor::Known(Name { namespace: "default".to_owned(), name: name.to_owned(), uid: String::new(), mirror: None })
    }

    #[test]
    fn one_pod_takes_no_line_from_another() {
        let mut restraint = LogRateLimiter::default();
        let start = Duration::from_secs(100);
        let told = (0..1000).filter(|_| restraint.admit(&pod("loud"), 1, start).is_some()).count();
        assert_eq!(told, BURST as usize);
        assert_eq!(restraint.admit(&pod("quiet"), 1, start), Some(0));
        assert_eq!(restraint.admit(&pod("loud"), 5, start + PACE / 2), None);
        let held_back = 1000 - u64::from(BURST) + 5;
        assert_eq!(restraint.admit(&pod("loud"), 1, start + PACE), Some(held_back), "what was held back is told");
        assert_eq!(restraint.admit(&pod("loud"), 1, start + PACE), None, "one in that time");
        let later = start + Duration::from_hours(1);
        let told = (0..1000).filter(|_| restraint.admit(&pod("loud"), 1, later).is_some()).count();
        assert_eq!(told, BURST as usize, "and no more for having been quiet");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut restraint = LogRateLimiter::default();
        for number in 0..3 * REMEMBERED {
            assert_eq!(restraint.admit(&pod(&number.to_string()), 1, Duration::ZERO), Some(0));
        }
        assert_eq!((restraint.buckets.len(), restraint.order.len()), (REMEMBERED, REMEMBERED));
    }
}
