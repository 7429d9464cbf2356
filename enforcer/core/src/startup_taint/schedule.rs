//! Schedule of the reads of the agent's own Node: at once when binds are judged, again soon after errors, and twice a
//! minute for a taint that returned.
//!
//! Times are since boot. No attempt is under way when the next one is asked for.

use std::time::Duration;

use crate::model::jitter::Jitter;

/// Time between two looks at a Node without the taint. A kubelet reads its Node every 10 s, from the same cache.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after the first of several errors. It doubles up to [`LOOK_INTERVAL`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Pause after the first of several conflicts, which doubles too: at the start of a node others change its taints.
const FIRST_CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// Number of conflicts in a row that are nothing to report.
const QUIET_CONFLICTS: u32 = 4;

/// Where the API server reads a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRead {
    /// In its storage: the newest state.
    Fresh,
    /// In its cache: cheap, and possibly a moment old.
    Cached,
}

/// Next step of the remover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextAttempt {
    /// Reads the Node, and removes the taint if it is there.
    Attempt(NodeRead),
    /// Waits until this time.
    Wait(Duration),
    /// Waits until binds are judged.
    Nothing,
}

/// Outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The Node has no such taint.
    Absent,
    /// The taint is removed.
    Removed,
    /// The taints changed between the read and the removal.
    Conflict,
    /// There is no such Node, or no right.
    Unavailable,
    /// An error that passes.
    Failed {
        /// Time for which the API server asks to wait.
        retry_after: Option<Duration>,
    },
}

/// The schedule.
#[derive(Debug)]
pub struct TaintSchedule {
    judges: bool,
    read: NodeRead,
    not_before: Duration,
    failures: u32,
    jitter: Jitter,
}

impl TaintSchedule {
    /// Returns the schedule of an agent that does not judge yet. `seed` makes the times of agents differ.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let jitter = Jitter::new(seed);
        Self { judges: false, read: NodeRead::Fresh, not_before: Duration::ZERO, failures: 0, jitter }
    }

    /// Sets whether the binds of the node's pods are judged. Returns whether that is a change.
    pub fn set_judges(&mut self, judges: bool) -> bool {
        std::mem::replace(&mut self.judges, judges) != judges
    }

    /// Returns whether the binds of the node's pods are judged.
    #[must_use]
    pub const fn judges(&self) -> bool {
        self.judges
    }

    /// Returns the next step.
    #[must_use]
    pub fn poll(&self, now: Duration) -> NextAttempt {
        if !self.judges {
            NextAttempt::Nothing
        } else if now < self.not_before {
            NextAttempt::Wait(self.not_before)
        } else {
            NextAttempt::Attempt(self.read)
        }
    }

    /// Takes the outcome of an attempt. Returns whether a failure is to be reported.
    pub fn handle_outcome(&mut self, outcome: AttemptOutcome, now: Duration) -> bool {
        let failures = std::mem::take(&mut self.failures);
        let doubled = |first: Duration| first.saturating_mul(1 << failures.min(16)).min(LOOK_INTERVAL);
        let (pause, is_failure) = match outcome {
            AttemptOutcome::Absent | AttemptOutcome::Removed => (LOOK_INTERVAL, false),
            AttemptOutcome::Conflict => (doubled(FIRST_CONFLICT_PAUSE), true),
            AttemptOutcome::Unavailable => (LOOK_INTERVAL, true),
            AttemptOutcome::Failed { retry_after } => (doubled(FIRST_PAUSE).max(retry_after.unwrap_or_default()), true),
        };
        self.not_before = now + pause + self.jitter.share_of(pause / 4);
        // What failed once is not trusted to a cache that may be behind.
        self.read = if is_failure { NodeRead::Fresh } else { NodeRead::Cached };
        if is_failure {
            self.failures = failures + 1;
        }
        match outcome {
            AttemptOutcome::Conflict => failures >= QUIET_CONFLICTS,
            _ => is_failure,
        }
    }
}
