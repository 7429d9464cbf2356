//! Schedule of the calls that keep a node's object in step with its content: few calls, none without a change but for a
//! look now and then, and each again after an error.
//!
//! Times are since boot. No call is under way when the next one is asked for.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::{
    content::{LedgerRoom, fit},
    node_host_ports::NodeHostPortsStatus,
};
use crate::model::{
    jitter::Jitter,
    token_bucket::{RateLimit, TokenBucket},
};

/// Shortest time between two writes of a content.
pub const PACE: Duration = Duration::from_secs(10);
/// Writes of a content: some in a row, and fewer where a node changes all the time. In a cluster of thousands of such
/// nodes the ledgers would be most of what the API server stores.
pub const WRITE_LIMIT: RateLimit = RateLimit { burst: 6, interval: Duration::from_secs(30) };
/// Time between two looks at an object that is not written.
const LOOK_INTERVAL: Duration = Duration::from_mins(10);
/// Time between two tries where the API server has no such objects or grants no right to write them.
const UNAVAILABLE_INTERVAL: Duration = Duration::from_mins(5);
/// Longest time between two tries after errors that pass.
const MAX_BACKOFF: Duration = Duration::from_mins(5);

/// A call to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerCall {
    /// Creates the object, or makes sure that it exists as it should.
    Create,
    /// Writes the status.
    Write(Box<NodeHostPortsStatus>),
    /// Looks whether the object is as it was written.
    Look,
}

/// Next step of the publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextLedgerCall {
    /// Makes a call.
    Call(LedgerCall),
    /// Waits until this time, or for a new content.
    Wait(Duration),
    /// Waits for a content.
    Nothing,
}

/// Outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerOutcome {
    /// It succeeded; the object has this version now.
    Done {
        /// The object's `resourceVersion`.
        version: String,
    },
    /// There is no such object.
    NotFound,
    /// The object is another one than the call expected, or changed meanwhile.
    Conflict,
    /// The object is too large for the API server.
    TooLarge,
    /// The API server has no such kind of objects, or grants no right.
    Unavailable,
    /// An error that passes.
    Failed {
        /// Time for which the API server asks to wait.
        retry_after: Option<Duration>,
    },
}

/// The schedule.
#[derive(Debug)]
pub struct LedgerSchedule {
    content: Option<NodeHostPortsStatus>,
    /// The content that the object has, as far as known.
    written: Option<NodeHostPortsStatus>,
    /// Content of the write under way, before it was cut.
    writing: Option<NodeHostPortsStatus>,
    exists: bool,
    /// Version of the object after the last write.
    version: Option<String>,
    room: LedgerRoom,
    writes: TokenBucket,
    not_before: Duration,
    look_at: Duration,
    failures: u32,
    jitter: Jitter,
}

impl LedgerSchedule {
    /// Returns the schedule of an agent that starts now. `seed` makes the times of agents differ.
    #[must_use]
    pub fn new(seed: u64, now: Duration) -> Self {
        let mut jitter = Jitter::new(seed);
        // A rollout starts many agents at once.
        let not_before = now + jitter.share_of(PACE);
        Self {
            content: None,
            written: None,
            writing: None,
            exists: false,
            version: None,
            room: LedgerRoom::default(),
            writes: TokenBucket::default(),
            not_before,
            look_at: Duration::MAX,
            failures: 0,
            jitter,
        }
    }

    /// Sets the content. One that is as before changes nothing.
    pub fn set_content(&mut self, content: NodeHostPortsStatus) {
        self.content = Some(content);
    }

    /// Returns whether this content is what the object has already.
    #[must_use]
    pub fn is_written(&self, content: &NodeHostPortsStatus) -> bool {
        self.written.as_ref() == Some(content)
    }

    /// Returns the next call. `wall` is the time in microseconds since 1970, for the content.
    pub fn poll_call(&mut self, now: Duration, wall: i64) -> NextLedgerCall {
        let Some(content) = &self.content else { return NextLedgerCall::Nothing };
        let is_due = now >= self.not_before;
        if self.written.as_ref() == Some(content) {
            return if now >= self.look_at && is_due {
                NextLedgerCall::Call(LedgerCall::Look)
            } else {
                NextLedgerCall::Wait(self.look_at.max(self.not_before))
            };
        }
        if !is_due {
            return NextLedgerCall::Wait(self.not_before);
        }
        if !self.exists {
            return NextLedgerCall::Call(LedgerCall::Create);
        }
        let mut status = content.clone();
        self.writing = Some(content.clone());
        super::content::set_updated(&mut status, wall);
        fit(&mut status, self.room);
        NextLedgerCall::Call(LedgerCall::Write(Box::new(status)))
    }

    /// Takes the outcome of a call.
    pub fn handle_outcome(&mut self, call: &LedgerCall, outcome: LedgerOutcome, now: Duration) {
        let failures = std::mem::take(&mut self.failures);
        match (call, outcome) {
            (LedgerCall::Create, LedgerOutcome::Done { .. }) => {
                self.exists = true;
                // The write that follows decides whether this was a success.
                self.failures = failures;
            }
            (LedgerCall::Write(_), LedgerOutcome::Done { version }) => {
                self.written = self.writing.take();
                self.version = Some(version);
                // There is one: the write waited for it.
                self.writes.take(WRITE_LIMIT, now);
                let next = self.writes.available_at(WRITE_LIMIT).max(now + PACE);
                self.not_before = next + self.jitter.share_of(PACE / 4);
                self.plan_look(now);
            }
            (LedgerCall::Look, LedgerOutcome::Done { version }) => {
                if self.version.as_ref() != Some(&version) {
                    // Somebody else wrote it.
                    self.written = None;
                }
                self.plan_look(now);
            }
            (LedgerCall::Look, LedgerOutcome::NotFound) => self.forget_object(),
            (LedgerCall::Write(_), LedgerOutcome::NotFound) => {
                self.forget_object();
                self.failures = failures + 1;
                // Deleted meanwhile: made again at once, and later if that happens again and again.
                if failures > 0 {
                    self.back_off(now, None);
                }
            }
            (_, LedgerOutcome::Conflict | LedgerOutcome::NotFound) => {
                self.forget_object();
                self.failures = failures + 1;
                self.back_off(now, None);
            }
            (_, LedgerOutcome::TooLarge) => {
                if let Some(room) = self.room.halved() {
                    self.room = room;
                    self.not_before = now + PACE;
                } else {
                    self.wait_long(now);
                }
            }
            (_, LedgerOutcome::Unavailable) => {
                self.forget_object();
                self.wait_long(now);
            }
            (_, LedgerOutcome::Failed { retry_after }) => {
                self.failures = failures + 1;
                self.back_off(now, retry_after);
            }
        }
    }

    fn forget_object(&mut self) {
        self.exists = false;
        self.written = None;
        self.version = None;
    }

    fn plan_look(&mut self, now: Duration) {
        self.look_at = now + LOOK_INTERVAL + self.jitter.share_of(LOOK_INTERVAL / 4);
    }

    fn back_off(&mut self, now: Duration, retry_after: Option<Duration>) {
        let steps = self.failures.saturating_sub(1).min(6);
        let pause = (PACE * 2_u32.pow(steps)).min(MAX_BACKOFF).max(retry_after.unwrap_or_default());
        self.not_before = now + pause + self.jitter.share_of(pause / 2);
    }

    fn wait_long(&mut self, now: Duration) {
        self.not_before = now + UNAVAILABLE_INTERVAL + self.jitter.share_of(UNAVAILABLE_INTERVAL / 4);
    }
}
