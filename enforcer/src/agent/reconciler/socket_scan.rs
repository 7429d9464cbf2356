//! Scans of the node's sockets, the holders of ports that the programs know, and reports, without those about the
//! agent's own sockets.

use std::collections::BTreeSet;

use enforcer_core::{model::now::Now, reports::report::Report};
use enforcer_ebpf::{port_holder::may_replace, wire::Protocol};

use super::Reconciler;
use crate::agent::{output::Output, own_sockets::OwnSockets, socket_tracker::SocketScan};

impl Reconciler {
    /// Compares the table of sockets with the kernel's socket diagnostics.
    pub(super) fn scan_sockets(&mut self, now: Now) -> SocketScan {
        // A socket whose bind is still in the log, and whose release was lost, has to be in the table when the kernel says
        // which sockets there are: otherwise it is taken for open until the next scan.
        let is_log_read = !self.sockets.has_lost_records() || self.drain_many_socket_records(now);
        let (scan, mut changed) = self.sockets.scan(&mut self.index, now.boottime);
        for socket in self.sockets.bound_sockets().iter() {
            if let Some(owner) = socket.cgroup.and_then(|cgroup| self.index.owner_by_cgroup(cgroup)) {
                self.index.note_bound(owner, socket.protocol, socket.port);
            }
        }
        if scan.errors.is_empty() {
            self.index.note_all_sockets_seen();
        }
        let was_named = |protocol, port| self.kernel.was_named(protocol, port).unwrap_or(false);
        self.observed_ports.scanned(self.sockets.bound_sockets(), was_named, &self.index, now);
        self.failing_binds.prune(&self.index, now);
        if scan.errors.is_empty() && self.sockets.take_lost_records() {
            // Of sockets whose records were all lost, only the port holders are left. The sockets that were bound after
            // the scan are in the log: their port holders are right.
            self.drain_many_socket_records(now);
            match self.kernel.held_ports() {
                Ok(ports) => changed.extend(ports),
                Err(error) => self.push(Output::MapFailure(error)),
            }
            if !is_log_read {
                // What is still in the log needs another scan.
                self.sockets.note_lost_records();
            }
        }
        self.publish_port_holders(changed);
        self.refresh_answers(now);
        scan
    }

    /// Sets the sockets of this agent, of which nothing is reported.
    pub fn set_own_sockets(&mut self, own_sockets: OwnSockets) {
        self.own_sockets = own_sockets;
    }

    /// Queues a report, unless it is about a socket of this agent.
    pub(super) fn push_report(&mut self, report: Report, now: Now) {
        if !self.own_sockets.contains(report.attempt.socket) {
            self.failing_binds.record(&report, now);
            self.push(Output::Verdict(Box::new(report)));
        }
    }

    pub(super) fn push_scan(&mut self, SocketScan { mut live_conflicts, errors }: SocketScan) {
        live_conflicts.retain(|conflict| !conflict.sockets().any(|cookie| self.own_sockets.contains(cookie)));
        self.outputs.extend(live_conflicts.into_iter().map(|conflict| Output::LiveConflict(Box::new(conflict))));
        self.push(Output::SocketScan(errors));
    }

    /// Writes the holders of these ports for the programs, after a scan of the sockets.
    fn publish_port_holders(&mut self, ports: BTreeSet<(Protocol, u16)>) {
        for (protocol, port) in ports {
            let holder = self.sockets.port_holder(protocol, port, &self.index);
            self.publish_port_holder(protocol, port, holder);
        }
    }

    /// Writes the holders of these ports for the programs, after their records were read.
    pub(super) fn publish_recorded_port_holders(&mut self, ports: BTreeSet<(Protocol, u16)>) {
        for (protocol, port) in ports {
            let holder = self.sockets.port_holder(protocol, port, &self.index);
            // If the word cannot be read, it cannot be written either, which is reported.
            if self.kernel.port_holder(protocol, port).map_or(true, |found| may_replace(found, holder)) {
                self.publish_port_holder(protocol, port, holder);
            }
        }
    }

    fn publish_port_holder(&mut self, protocol: Protocol, port: u16, holder: u64) {
        if let Err(error) = self.kernel.set_port_holder(protocol, port, holder) {
            self.push(Output::MapFailure(error));
        }
    }
}
