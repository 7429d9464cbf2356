//! Budgets of calls: one for each object and one for the agent.

use std::time::Duration;

use crate::model::token_bucket::{RateLimit, TokenBucket};

/// Calls about one object: 25 in a row, then one in 5 minutes, as client-go's own filter has it
/// (`EventSourceObjectSpamFilter` in `tools/record/events_cache.go`).
pub const OBJECT_LIMIT: RateLimit = RateLimit { burst: 25, interval: Duration::from_mins(5) };
/// Calls of the agent: five a second.
pub const CALL_LIMIT: RateLimit = RateLimit { burst: 1, interval: Duration::from_millis(200) };
/// Most series about one object that are kept: as many as its budget allows Events in a row.
const MAX_SERIES_OF_OBJECT: u32 = OBJECT_LIMIT.burst;

/// The budget of an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ObjectBudget {
    calls: TokenBucket,
    /// Count of series about the object that are kept.
    pub(super) series: u32,
}

impl ObjectBudget {
    pub(super) fn has_room_for_series(&self) -> bool {
        self.series < MAX_SERIES_OF_OBJECT
    }

    /// Takes a call out of the budget, or returns the moment from which on there is one.
    pub(super) fn take_call(&mut self, now: Duration) -> Result<(), Duration> {
        if self.calls.take(OBJECT_LIMIT, now) { Ok(()) } else { Err(self.calls.available_at(OBJECT_LIMIT)) }
    }

    /// Puts a call that failed back: else nothing would be left of the budget when the server is back.
    pub(super) fn put_back_call(&mut self) {
        self.calls.put_back(OBJECT_LIMIT);
    }

    /// Checks whether it is as a new one.
    pub(super) fn is_unused(&self, now: Duration) -> bool {
        self.series == 0 && self.calls.is_full(now)
    }
}
