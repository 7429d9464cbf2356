//! Reading the kernel programs' rings and their socket log.

use std::{collections::BTreeSet, time::Duration};

use enforcer_core::{
    cgroups::tree::Insertion,
    model::{actor::Actor, attempt::Attempt, now::Now},
    reports::{
        report::Report,
        ring_records::{CgroupChange, DecodeError, SocketRecord, decode_cgroup, decode_socket, decode_verdict},
    },
};
use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use super::Reconciler;
use crate::{
    agent::{
        error::ReconcilerError,
        output::{Output, RingName},
    },
    host::clock,
};

/// Time after a wake-up within which records come without another one: that of the programs
/// (`INTERVAL_NS` in enforcer-ebpf/src/bpf/emit/wakeup.rs), and a bit.
const WAKEUP_INTERVAL: Duration = Duration::from_millis(60);

/// Most records of one ring that are read at once: a storm of binds must not keep pods waiting.
const BATCH: usize = 512;
/// Most batches of records of sockets that are read at once where it is better to have read all of them.
const MAX_BATCHES: usize = 4;

impl Reconciler {
    /// Applies the cgroups that were made and removed.
    ///
    /// # Errors
    ///
    /// If records were lost and the tree cannot be read instead.
    pub fn drain_cgroup_ring(&mut self, now: Now) -> Result<(), ReconcilerError> {
        self.read_cgroup_ring(now);
        for id in std::mem::take(&mut self.removed_cgroups) {
            self.index.cgroup_removed(id, now);
        }
        self.index.arbitrate_dirty();
        self.flush();
        let lost = self.kernel.counters().cgroup_events_lost()?;
        if std::mem::take(&mut self.unplaced_cgroups) || lost != self.cgroup_events_lost {
            self.cgroup_events_lost = lost;
            self.rescan(now)?;
        }
        Ok(())
    }

    /// Reads the records of cgroups into the index, those of removed ones for [`Self::drain_cgroup_ring`]: a removed
    /// cgroup ends a pod, which arbitrates claims, and no claim may be written before all cgroups that were made are
    /// known.
    pub(super) fn read_cgroup_ring(&mut self, now: Now) {
        while let Some(record) = self.cgroup_ring.next() {
            self.cgroup_events_seen += 1;
            match decode_cgroup(&record) {
                Ok(CgroupChange { made: true, id, parent, name: Some(name), form: _ }) => {
                    self.unplaced_cgroups |= self.index.cgroup_recorded(id, parent, &name, now) == Insertion::Unplaced;
                }
                Ok(CgroupChange { made: true, name: None, .. }) => self.unplaced_cgroups = true,
                Ok(CgroupChange { made: false, id, .. }) => self.removed_cgroups.push(id),
                Err(error) => {
                    let error = error.to_string();
                    self.outputs.push_back(Output::UndecodableRecord { ring: RingName::Cgroup, error });
                    self.unplaced_cgroups = true;
                }
            }
        }
    }

    /// Reads a batch of verdicts. Cgroups and sockets go first, so that callers and holders have their names.
    ///
    /// # Errors
    ///
    /// As [`Self::drain_cgroup_ring`].
    pub fn drain_verdict_ring(&mut self, now: Now) -> Result<(), ReconcilerError> {
        self.drain_cgroup_ring(now)?;
        self.drain_socket_records(now);
        let report_all = self.policy().report_attempts;
        self.verdict_backlog = false;
        for taken in 0..BATCH {
            let Some(record) = self.verdict_ring.next() else {
                if taken > 0 {
                    self.expect_verdicts(now);
                }
                return Ok(());
            };
            let decoded = decode_verdict(&record);
            drop(record);
            match decoded {
                Ok(attempt) => self.handle_attempt(attempt, report_all, now),
                Err(error) => {
                    self.push(Output::UndecodableRecord { ring: RingName::Verdict, error: error.to_string() });
                }
            }
        }
        self.verdict_backlog = true;
        Ok(())
    }

    /// Notes that verdicts may come without a wake-up.
    pub(super) fn expect_verdicts(&mut self, now: Now) {
        self.verdicts_at = Some(now.boottime + WAKEUP_INTERVAL);
    }

    fn handle_attempt(&mut self, attempt: Attempt, report_all: bool, now: Now) {
        let allowed = attempt.verdict == VerdictKind::Allow && attempt.reason != Reason::Error;
        if attempt.held && allowed {
            self.sockets.add_pending(attempt.clone(), now.boottime);
        }
        if report_all || !allowed {
            let report = Report::new(attempt, &self.index);
            let report = self.sockets.bound_sockets().with_incumbent_name(report, &self.index);
            self.push_report(report, now);
        }
    }

    /// Reads a batch of records of bound and released sockets. Returns whether there may be more.
    pub(super) fn drain_socket_records(&mut self, now: Now) -> bool {
        let mut changed = BTreeSet::new();
        let slept = clock::slept();
        let mut in_log = 0;
        while in_log < BATCH
            && let Some(record) = self.socket_log.next()
        {
            in_log += 1;
            self.handle_socket_record(decode_socket(record.bytes(), slept), RingName::SocketLog, &mut changed, now);
        }
        let mut in_ring = 0;
        while in_ring < BATCH
            && let Some(decoded) = self.socket_ring.next().map(|record| decode_socket(&record, slept))
        {
            in_ring += 1;
            self.handle_socket_record(decoded, RingName::Socket, &mut changed, now);
        }
        let is_more = in_log == BATCH || in_ring == BATCH;
        if in_log + in_ring > 0 {
            self.sockets.expect_more(is_more, now.boottime);
        }
        self.publish_recorded_port_holders(changed);
        is_more
    }

    /// Reads the records of bound and released sockets to the end, but not for ever: they may come faster than they are
    /// read. Returns whether it came to the end.
    pub(super) fn drain_many_socket_records(&mut self, now: Now) -> bool {
        (0..MAX_BATCHES).any(|_| !self.drain_socket_records(now))
    }

    fn handle_socket_record(
        &mut self,
        record: Result<SocketRecord, DecodeError>,
        ring: RingName,
        changed: &mut BTreeSet<(Protocol, u16)>,
        now: Now,
    ) {
        match record {
            Ok(SocketRecord::Bound(binding)) => {
                changed.insert((binding.protocol, binding.port));
                let caller = Actor::of_cgroup(binding.cgroup, &self.index);
                self.failing_binds.bound(&caller, binding.protocol, binding.port);
                if let Some(owner) = self.index.owner_by_cgroup(binding.cgroup) {
                    self.index.note_bound(owner, binding.protocol, binding.port);
                }
                // If the map cannot be read, the write of the holder below fails too, and is reported.
                let named = self.kernel.was_named(binding.protocol, binding.port).unwrap_or(false);
                self.observed_ports.bound(&binding, named, &self.index, now);
                self.outputs.push_back(Output::Bound(Box::new(binding.clone())));
                self.sockets.bound(binding, &self.index);
            }
            Ok(SocketRecord::Released(release)) => {
                changed.insert((release.protocol, release.port));
                self.sockets.released(release);
            }
            Ok(SocketRecord::Attempt(attempt)) => self.sockets.add_pending(attempt, now.boottime),
            Ok(SocketRecord::Wakeup) => {}
            Err(error) => self.outputs.push_back(Output::UndecodableRecord { ring, error: error.to_string() }),
        }
    }

    /// Reads a batch of socket records and reports the attempts that failed because another socket holds the port.
    ///
    /// # Errors
    ///
    /// As [`Self::drain_cgroup_ring`].
    pub fn settle_sockets(&mut self, now: Now) -> Result<(), ReconcilerError> {
        self.drain_cgroup_ring(now)?;
        self.sockets.read_expected(now.boottime);
        // If there are more, they are read before an attempt is due that came with them: the loop begins again at once.
        self.drain_socket_records(now);
        let lost = self.kernel.counters().socket_records_lost()?;
        if std::mem::replace(&mut self.socket_records_lost, lost) != lost {
            self.sockets.note_lost_records();
        }
        let before = self.sockets.needs_scan(now.boottime).then(|| self.scan_sockets(now));
        for report in self.sockets.failed_binds(&self.index, now.boottime) {
            self.push_report(report, now);
        }
        let after = self.sockets.take_scan_request(now.boottime).then(|| self.scan_sockets(now));
        before.into_iter().chain(after).for_each(|scan| self.push_scan(scan));
        Ok(())
    }
}
