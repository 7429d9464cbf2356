//! Looks for ports of Ready pods that others answer, after changes and when what was found has held for long enough.

use std::time::{Duration, Instant};

use enforcer_core::{
    model::now::Now,
    sockets::{AnswerInputs, AnsweredPorts},
};

use super::Reconciler;
use crate::agent::{error::ReconcilerError, output::Output};

/// Shortest time between two looks because of changes, and multiple of the time that a look took: pods and sockets may
/// change all the time.
const INTERVAL: Duration = Duration::from_millis(500);
const TIME_FACTOR: u32 = 50;

/// The ports that others answer, and when they are looked for again.
#[derive(Debug, Default)]
pub(super) struct AnswerWatch {
    ports: AnsweredPorts,
    /// Pods or cgroups changed since the last look.
    is_changed: bool,
    /// Generation of the sockets at the last look.
    generation: u64,
    /// Time from which on there may be another look because of changes, since boot.
    not_before: Duration,
}

impl AnswerWatch {
    /// Returns the ports.
    pub(super) const fn ports(&self) -> &AnsweredPorts {
        &self.ports
    }

    /// Notes that pods or cgroups may have changed.
    pub(super) const fn note_change(&mut self) {
        self.is_changed = true;
    }
}

impl Reconciler {
    /// Returns when [`Self::settle_answers`] is due, since boot. On a quiet node it never is.
    pub(super) fn answers_timeout(&self) -> Option<Duration> {
        let change = self.has_changed_answers().then_some(self.answers.not_before);
        change.into_iter().chain(self.answers.ports.poll_timeout()).min()
    }

    fn has_changed_answers(&self) -> bool {
        self.answers.is_changed || self.answers.generation != self.sockets.bound_sockets().generation()
    }

    /// Looks for the ports again, and reports those that have held for long enough, with the sockets of this moment.
    pub(super) fn settle_answers(&mut self, now: Now) -> Result<(), ReconcilerError> {
        let is_settled = self.answers.ports.poll_timeout().is_some_and(|at| at <= now.boottime);
        // Names of holders change without their sockets.
        self.answers.is_changed |= is_settled;
        if is_settled && !self.sockets.is_fresh(now.boottime) {
            self.settle_sockets(now)?;
            let scan = self.scan_sockets(now);
            self.push_scan(scan);
        } else if is_settled && self.answers.ports.needs_scan(now.boottime) {
            self.sockets.request_scan();
        }
        self.refresh_answers(now);
        for answered in self.answers.ports.take_settled(now.boottime) {
            self.push(Output::AnsweredByOther(Box::new(answered)));
        }
        Ok(())
    }

    /// Looks for the ports if pods or sockets changed.
    pub(super) fn refresh_answers(&mut self, now: Now) {
        if !self.has_changed_answers() {
            return;
        }
        let began = Instant::now();
        let sockets = self.sockets.bound_sockets();
        self.answers.is_changed = false;
        self.answers.generation = sockets.generation();
        let is_own = |cookie| self.own_sockets.contains(cookie);
        let (index, shared) = (&self.index, self.sockets.shared_ports());
        self.answers.ports.refresh(&AnswerInputs { sockets, index, shared, is_own: &is_own }, now);
        self.answers.not_before = now.boottime + INTERVAL.max(began.elapsed() * TIME_FACTOR);
    }
}
