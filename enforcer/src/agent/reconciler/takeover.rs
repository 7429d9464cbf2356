//! Takeover of the previous agent's state, programs and unread verdicts.

use aya::maps::{MapData, RingBuf};

use enforcer_core::{
    index::{Index, RestoredFrom},
    model::now::Now,
    plan::recover::{RecoveredOwner, RecoveredState},
    reports::{report::Report, ring_records::decode_verdict},
    views::unenforced_time::PredecessorState,
};

use super::{Reconciler, deadline};
use crate::agent::{
    error::ReconcilerError,
    output::{Output, RingName, TakeoverFrom, TakeoverProblem, TakeoverSummary},
};

/// Most verdicts of the previous agent's programs that are read: more than fit into its ring.
const MAX_LEFT_REPORTS: usize = 65_536;

/// Reads all verdicts of a ring that no program fills any more, or not for long.
fn drain_predecessor_ring(ring: &mut RingBuf<MapData>, index: &Index, reports: &mut Vec<Report>) -> Vec<Output> {
    let mut undecodable = Vec::new();
    while reports.len() < MAX_LEFT_REPORTS
        && let Some(record) = ring.next()
    {
        match decode_verdict(&record) {
            Ok(attempt) => reports.push(Report::new(attempt, index)),
            Err(error) => {
                undecodable.push(Output::UndecodableRecord { ring: RingName::Verdict, error: error.to_string() });
            }
        }
    }
    undecodable
}

impl Reconciler {
    /// Restores the previous agent's owners, or those of a boot state if no agent left anything. Runs before the cgroup
    /// tree is read: a restored pod without a cgroup ended in between.
    pub(super) fn restore(&mut self, boot_state: Option<Vec<RecoveredOwner>>, now: Now) {
        let recovered = match (&self.previous, boot_state) {
            (Some(previous), _) => previous.recover().and_then(|state| Ok((state, previous.boot_restore()?))),
            (None, Some(owners)) if self.predecessor == PredecessorState::BootState => {
                let restored = self.index.restore(owners, RestoredFrom::BootState, now);
                self.flush();
                self.restored = true;
                self.takeover =
                    Some(TakeoverSummary { restored, unreadable: Vec::new(), from: TakeoverFrom::BootState });
                return;
            }
            (None, _) => return,
        };
        match recovered {
            Ok((RecoveredState { owners, unreadable }, boot_restore)) => {
                let from = if boot_restore.is_some() { RestoredFrom::BootState } else { RestoredFrom::Agent };
                let restored = self.index.restore(owners, from, now);
                self.flush();
                self.restored = true;
                self.boot_restored_at = boot_restore;
                let from = boot_restore.map_or(TakeoverFrom::Agent, |at| TakeoverFrom::BootRestore(at.since_boot()));
                self.takeover = Some(TakeoverSummary { restored, unreadable, from });
            }
            Err(error) => self.push(Output::TakeoverProblem(TakeoverProblem::Unreadable(error.to_string()))),
        }
    }

    /// Attaches the programs, in place of the previous agent's if there are any. From here on binds are judged by this
    /// agent's programs. The verdicts that the previous agent had not read become outputs.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a link.
    pub fn attach(&mut self) -> Result<(), ReconcilerError> {
        let (mut reports, mut problems) = (Vec::new(), Vec::new());
        if let Some(previous) = &mut self.previous {
            problems.extend(drain_predecessor_ring(&mut previous.bind_events, &self.index, &mut reports));
        }
        // Loading can take longer than a short lease.
        self.kernel.renew(deadline(self.lease));
        self.kernel.attach()?;
        if let Some(mut previous) = self.previous.take() {
            if let Err(error) = previous.wait_for_programs() {
                problems.push(Output::TakeoverProblem(TakeoverProblem::EventsLost(error.to_string())));
            }
            problems.extend(drain_predecessor_ring(&mut previous.bind_events, &self.index, &mut reports));
        }
        if let Err(error) = self.kernel.retire_previous() {
            problems.push(Output::TakeoverProblem(TakeoverProblem::NotRetired(error.to_string())));
        }
        reports.retain(|report| !self.own_sockets.contains(report.attempt.socket));
        if let Some(summary) = self.takeover.take() {
            self.push(Output::Takeover { summary, conflicts: reports.len() });
        }
        self.outputs.extend(reports.into_iter().map(|report| Output::Verdict(Box::new(report))));
        self.outputs.extend(problems);
        self.observe_node_mode();
        Ok(())
    }
}
