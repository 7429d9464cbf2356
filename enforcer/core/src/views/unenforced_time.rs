//! For how long binds were not denied although the node was to deny them: the gap that people should hear of.
//!
//! Only the node's own mode counts here: the mode that the agent was given, or that an operator set on the node. Where
//! that is audit, there is no gap, whatever single namespaces say.

use std::time::Duration;

use enforcer_ebpf::wire::NodeMode;

use crate::model::kernel_ids::BootNanos;

/// Reason for which nothing was denied. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// The node ran, and no agent had left anything.
    Boot,
    /// The agent started, and nothing of an earlier one can outlive that.
    Start,
    /// Binds are judged, but no pod of the node is known, and nothing was taken over from an earlier agent.
    Unsynced,
    /// No agent had renewed the lease.
    Stale,
}

impl GapCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::Boot, Self::Start, Self::Unsynced, Self::Stale];

    /// Returns the word in the metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Start => "start",
            Self::Unsynced => "unsynced",
            Self::Stale => "stale",
        }
    }
}

/// State that an agent finds when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredecessorState {
    /// No state was left, although what agents do outlives them here.
    Nothing,
    /// No state is kept here.
    NotKept,
    /// A boot state, which the agent restores itself: no programs judged before.
    BootState,
    /// State that an earlier agent left.
    Left {
        /// The earlier agent denied.
        enforced: bool,
        /// Time at which it lapsed, or will; `None` is never.
        lease_deadline: Option<BootNanos>,
    },
}

/// Checks whether the node is to deny.
#[must_use]
pub const fn should_enforce(told: bool, local: NodeMode) -> bool {
    match local {
        NodeMode::Unset => told,
        NodeMode::Audit => false,
        NodeMode::Enforce => true,
    }
}

/// Returns the time since when nothing is denied on the node, as an agent finds it that is to enforce and started at
/// `started`. All times are since boot.
#[must_use]
pub fn gap_before(found: PredecessorState, started: Duration, now: Duration) -> Option<(GapCause, Duration)> {
    match found {
        PredecessorState::Nothing | PredecessorState::BootState => Some((GapCause::Boot, Duration::ZERO)),
        PredecessorState::NotKept => Some((GapCause::Start, started)),
        PredecessorState::Left { enforced, lease_deadline } => {
            let lapsed = lease_deadline.map(BootNanos::since_boot).filter(|lapsed| enforced && *lapsed < now);
            lapsed.map(|lapsed| (GapCause::Stale, lapsed))
        }
    }
}

/// Returns the same once binds are judged. What an earlier agent had in force is in force again, from its maps or from a
/// boot state, and so is no gap.
#[must_use]
pub fn gap_after(found: PredecessorState, synced: bool, now: Duration) -> Option<(GapCause, Duration)> {
    let is_restored = matches!(found, PredecessorState::Left { .. } | PredecessorState::BootState);
    (!synced && !is_restored).then_some((GapCause::Unsynced, now))
}

/// Adds up the gaps.
#[derive(Debug, Default)]
pub struct UnenforcedTime {
    ended: [Duration; GapCause::ALL.len()],
    open: Option<(GapCause, Duration)>,
}

impl UnenforcedTime {
    /// Records that from this moment on, nothing is denied for this cause, or all is well. A gap that is open already
    /// goes on since it opened, if the cause is the same.
    pub fn turn(&mut self, open: Option<(GapCause, Duration)>, now: Duration) {
        if let (Some((before, _)), Some((cause, _))) = (self.open, open)
            && before == cause
        {
            return;
        }
        if let Some((cause, since)) = self.open {
            self.ended[cause as usize] += now.saturating_sub(since);
        }
        self.open = open;
    }

    /// Adds a gap that was over before anybody saw it.
    pub fn add(&mut self, cause: GapCause, gap: Duration) {
        self.ended[cause as usize] += gap;
    }

    /// Sums a cause's gaps until now.
    #[must_use]
    pub fn total(&self, cause: GapCause, now: Duration) -> Duration {
        let open =
            self.open.filter(|(open, _)| *open == cause).map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since));
        self.ended[cause as usize] + open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_operators_word_stands_above_the_flag() {
        for told in [false, true] {
            assert_eq!(should_enforce(told, NodeMode::Unset), told);
            assert!(!should_enforce(told, NodeMode::Audit));
            assert!(should_enforce(told, NodeMode::Enforce));
        }
    }

    #[test]
    fn the_gap_begins_where_enforcement_ended() {
        let gap = |found| gap_before(found, seconds(90), seconds(100));
        assert_eq!(gap(PredecessorState::Nothing), Some((GapCause::Boot, seconds(0))));
        assert_eq!(gap(PredecessorState::BootState), Some((GapCause::Boot, seconds(0))), "its programs come only now");
        assert_eq!(gap(PredecessorState::NotKept), Some((GapCause::Start, seconds(90))));
        let left = |enforced, deadline: Option<u64>| PredecessorState::Left {
            enforced,
            lease_deadline: deadline.map(|deadline| BootNanos::after_boot(seconds(deadline))),
        };
        assert_eq!(gap(left(true, Some(40))), Some((GapCause::Stale, seconds(40))));
        assert_eq!(gap(left(true, Some(101))), None, "it still denies");
        assert_eq!(gap(left(true, None)), None, "it never lapses");
        assert_eq!(gap(left(false, Some(40))), None, "nobody wanted that");
    }

    #[test]
    fn once_judged_only_unknown_pods_are_a_gap() {
        let now = seconds(100);
        let left = PredecessorState::Left { enforced: true, lease_deadline: None };
        assert_eq!(gap_after(PredecessorState::Nothing, false, now), Some((GapCause::Unsynced, now)));
        assert_eq!(gap_after(PredecessorState::NotKept, false, now), Some((GapCause::Unsynced, now)));
        assert_eq!(gap_after(left, false, now), None, "what was in force is in force again");
        assert_eq!(gap_after(PredecessorState::BootState, false, now), None, "likewise");
        assert_eq!(gap_after(PredecessorState::Nothing, true, now), None);
    }

    #[test]
    fn gaps_add_up_by_cause() {
        let mut sum = UnenforcedTime::default();
        sum.turn(Some((GapCause::Boot, seconds(0))), seconds(30));
        assert_eq!(sum.total(GapCause::Boot, seconds(31)), seconds(31), "also while it is open");
        sum.turn(Some((GapCause::Unsynced, seconds(40))), seconds(40));
        sum.turn(Some((GapCause::Unsynced, seconds(45))), seconds(45));
        assert_eq!(sum.total(GapCause::Unsynced, seconds(50)), seconds(10), "since it opened");
        sum.turn(None, seconds(60));
        sum.turn(None, seconds(70));
        sum.add(GapCause::Stale, seconds(5));
        let totals = GapCause::ALL.map(|cause| sum.total(cause, seconds(99)));
        assert_eq!(totals, [seconds(40), seconds(0), seconds(20), seconds(5)]);
    }
}
