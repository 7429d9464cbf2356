//! What agents ask of the server: Events, the ledger and the startup taint, each by its schedule and within its pace.

use std::time::Duration;

use super::{super::*, Simulation};
use crate::{
    k8s_events::{CALL_LIMIT, Call, CallOutcome, NextCall, OBJECT_LIMIT},
    ledger::{
        node_host_ports::NodeHostPortsStatus,
        schedule::{LedgerCall, LedgerOutcome, NextLedgerCall, PACE, WRITE_LIMIT},
    },
    startup_taint::{AttemptOutcome, NextAttempt},
};

const SECOND: Duration = Duration::from_secs(1);

/// Calls of one kind that failed in a row because the server could not be reached. They become few, however long it
/// takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FailedCalls {
    began: u64,
    count: u64,
}

impl FailedCalls {
    /// More calls than the steps of any backoff.
    const FIRST: u64 = 9;

    /// Counts one of an agent whose longest pause is this, in seconds.
    fn add(&mut self, second: u64, longest_pause: u64) {
        if self.count == 0 {
            self.began = second;
        }
        self.count += 1;
        let most = Self::FIRST + (second - self.began) / longest_pause;
        assert!(self.count <= most, "{} calls in vain since second {}", self.count, self.began);
    }
}

/// The longest pauses between calls about Events, the ledger and the taint, in seconds.
const LONGEST_PAUSES: [u64; 3] = [30, 300, 30];

impl Simulation {
    /// Makes the calls of this second.
    pub(super) fn publish(&mut self) {
        self.publish_events();
        self.publish_ledger();
        self.remove_taint();
    }

    fn publish_events(&mut self) {
        let Some(agent) = self.agent.as_mut() else { return };
        let begin = agent.rig.now();
        for notice in std::mem::take(&mut agent.rig.notices) {
            agent.events.notice(&notice, begin);
        }
        let second = self.cluster.second;
        let (mut at, mut calls) = (begin.boottime, 0);
        while at < begin.boottime + SECOND && agent.events_at <= second {
            let passed = i64::try_from(at.saturating_sub(begin.boottime).as_micros()).expect("less than a second");
            let now = Now { wall: begin.wall + passed, boottime: at };
            match agent.events.poll_call(now) {
                NextCall::Call(call) => {
                    calls += 1;
                    let is_well = self.cluster.is_well();
                    let outcome = match &call {
                        _ if !is_well => CallOutcome::Failed,
                        Call::Count { .. } if self.cluster.dice.once_in(10) => CallOutcome::NotFound,
                        Call::Create(_) if self.cluster.dice.once_in(50) => CallOutcome::Refused,
                        _ => CallOutcome::Done,
                    };
                    if let (Call::Create(event), CallOutcome::Done) = (&call, outcome) {
                        let (first, count) = self.published.entry(event.regarding.clone()).or_insert((at, 0));
                        *count += 1;
                        let intervals = at.saturating_sub(*first).div_duration_f64(OBJECT_LIMIT.interval);
                        let most = f64::from(OBJECT_LIMIT.burst + 1) + intervals;
                        assert!(
                            f64::from(u32::try_from(*count).expect("few")) <= most,
                            "{count} Events about one object"
                        );
                    }
                    if outcome == CallOutcome::Failed {
                        agent.failed[0].add(second, LONGEST_PAUSES[0]);
                        agent.events_at = second + agent.events_pause;
                        agent.events_pause = (2 * agent.events_pause).min(LONGEST_PAUSES[0]);
                        self.figures.add("event_calls_failed", 1);
                    } else {
                        agent.failed[0] = FailedCalls::default();
                        agent.events_pause = 1;
                        self.figures.add("events_published", u64::from(outcome == CallOutcome::Done));
                    }
                    agent.events.handle_outcome(outcome, now);
                }
                NextCall::Wait(next) => at = next.max(at + Duration::from_millis(1)),
                NextCall::Nothing => break,
            }
        }
        let most = SECOND.div_duration_f64(CALL_LIMIT.interval);
        assert!(f64::from(calls) <= most, "{calls} calls about Events in a second");
        self.figures.raise("most_event_series", agent.events.series_count() as u64);
    }

    fn publish_ledger(&mut self) {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.rig.index.is_synced()) else { return };
        let mut content = NodeHostPortsStatus::default();
        content.counts.claims = agent.content;
        agent.ledger.set_content(content);
        let now = agent.rig.now();
        if self.server.ledger.is_some()
            && self.cluster.is_well()
            && self.cluster.dice.once_in(5000)
            && !self.cluster.quiet
        {
            self.server.ledger = None;
            self.figures.add("ledgers_deleted", 1);
        }
        // A created object is written at once.
        for _ in 0..3 {
            let NextLedgerCall::Call(call) = agent.ledger.poll_call(now.boottime, now.wall) else { break };
            let retry_after = Some(Duration::from_secs(1 + self.cluster.dice.below(20)));
            let version = self.server.version + 1;
            let outcome = match (&call, self.server.ledger.as_mut()) {
                _ if self.cluster.is_cut_off() => LedgerOutcome::Failed { retry_after: None },
                _ if !self.cluster.is_well() => LedgerOutcome::Failed { retry_after },
                (LedgerCall::Create, ledger) => {
                    if ledger.is_none() {
                        self.server.ledger = Some((version, 0));
                        self.server.version = version;
                    }
                    LedgerOutcome::Done { version: version.to_string() }
                }
                (_, None) => LedgerOutcome::NotFound,
                (LedgerCall::Write(_), Some(_)) if self.cluster.dice.once_in(100) => LedgerOutcome::Conflict,
                (LedgerCall::Write(status), Some(ledger)) => {
                    *ledger = (version, status.counts.claims);
                    self.server.version = version;
                    LedgerOutcome::Done { version: version.to_string() }
                }
                (LedgerCall::Look, Some((version, _))) => LedgerOutcome::Done { version: version.to_string() },
            };
            if matches!((&call, &outcome), (LedgerCall::Write(_), LedgerOutcome::Done { .. })) {
                let last = agent.writes.last().copied();
                assert!(last.is_none_or(|last| now.boottime >= last + PACE), "two writes of a ledger in {PACE:?}");
                agent.writes.push(now.boottime);
                let window = 20 * WRITE_LIMIT.interval;
                agent.writes.retain(|write| *write + window > now.boottime);
                assert!(agent.writes.len() <= (20 + WRITE_LIMIT.burst) as usize, "{:?}", agent.writes);
                self.figures.add("ledger_writes", 1);
            }
            if matches!(outcome, LedgerOutcome::Failed { .. }) {
                self.figures.add("ledger_calls_failed", 1);
                agent.failed[1].add(self.cluster.second, LONGEST_PAUSES[1]);
            } else {
                agent.failed[1] = FailedCalls::default();
            }
            agent.ledger.handle_outcome(&call, outcome, now.boottime);
        }
    }

    fn remove_taint(&mut self) {
        let second = self.cluster.second;
        if self.server.tainted_at.is_none() && self.cluster.dice.once_in(2000) && !self.cluster.quiet {
            self.server.tainted_at = Some(second);
            self.figures.add("taints", 1);
        }
        let Some(agent) = self.agent.as_mut() else { return };
        let (judges, now) = (agent.rig.index.is_synced(), agent.rig.now().boottime);
        agent.taint.set_judges(judges);
        if let NextAttempt::Attempt(_) = agent.taint.poll(now) {
            assert!(judges, "an agent that does not know its pods looks for the taint");
            let outcome = match self.server.tainted_at {
                _ if self.cluster.is_cut_off() => AttemptOutcome::Failed { retry_after: None },
                _ if !self.cluster.is_well() => AttemptOutcome::Failed { retry_after: Some(5 * SECOND) },
                None => AttemptOutcome::Absent,
                Some(_) if self.cluster.dice.once_in(4) => AttemptOutcome::Conflict,
                Some(_) => AttemptOutcome::Removed,
            };
            if outcome == AttemptOutcome::Removed {
                self.server.tainted_at = None;
                self.figures.add("taints_removed", 1);
            }
            if matches!(outcome, AttemptOutcome::Failed { .. }) {
                agent.failed[2].add(second, LONGEST_PAUSES[2]);
            } else {
                agent.failed[2] = FailedCalls::default();
            }
            agent.taint.handle_outcome(outcome, now);
        }
    }
}
