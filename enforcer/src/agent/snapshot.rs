//! Read-only views of the node and the agent, for any publisher: the admin socket and others.
//!
//! They are built from the reconciler's state as it is. Whoever needs the sockets of this moment lets the reconciler scan
//! them first ([`Input::ScanSockets`](crate::agent::input::Input::ScanSockets)).

use std::process;

use enforcer_core::{
    model::{now::Now, port_spec::PortSpec},
    views::{
        node_snapshot::{NodeSnapshot, time},
        status::{AgentView, KernelFeatures, Status, StatusInputs},
    },
};
use enforcer_ebpf::{
    decide::ModeOverride,
    wire::{KernelError, Protocol, Reason, VerdictKind},
};

use crate::{
    agent::{
        reconciler::{Reconciler, Start},
        source_config::SourceConfig,
    },
    kernel::Counters,
};

/// Properties of the agent that do not change while it runs.
pub(super) struct AgentInfo {
    node: String,
    source: String,
    since: String,
    features: KernelFeatures,
    shared_ports: Vec<PortSpec>,
}

impl AgentInfo {
    /// Describes an agent that starts now.
    pub(super) fn new(node: &str, source: &SourceConfig, start: &Start, now: Now) -> Self {
        Self {
            node: node.to_owned(),
            source: match source {
                SourceConfig::Folder(path) => format!("dir:{}", path.display()),
                SourceConfig::Api { .. } => "api".to_owned(),
            },
            since: time(now.wall),
            features: KernelFeatures { errno_choice: start.features.set_retval, v6only: start.features.probe_read },
            shared_ports: start.shared_ports.clone(),
        }
    }
}

/// Returns a view of the node's claims, sockets and policy.
pub(super) fn node_snapshot<'a>(info: &'a AgentInfo, reconciler: &'a Reconciler, now: Now) -> NodeSnapshot<'a> {
    let deadline = reconciler.lease_deadline();
    let stale = deadline.is_some_and(|deadline| deadline.since_boot() < now.boottime);
    NodeSnapshot {
        node: &info.node,
        index: reconciler.index(),
        holders: reconciler.bound_sockets(),
        policy: reconciler.policy(),
        overrule: ModeOverride { local: reconciler.node_mode(), stale },
        shared: &info.shared_ports,
        answered: Some(reconciler.answered_ports()),
        now,
    }
}

/// Returns the status of the node and its agent.
pub(super) fn status(info: &AgentInfo, reconciler: &Reconciler, now: Now) -> Status {
    let (counters, problems) = match reconciler.counters() {
        Ok(counters) => (Some(counters), Vec::new()),
        Err(error) => (None, vec![error.to_string()]),
    };
    let agent = AgentView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        since: info.since.clone(),
        source: info.source.clone(),
        synced: reconciler.is_synced(),
        pods: reconciler.index().pod_count(),
        cgroup: reconciler.root().display().to_string(),
    };
    let inputs = StatusInputs {
        agent: Some(agent),
        features: Some(info.features.clone()),
        lease_deadline: reconciler.lease_deadline(),
        attempts: &|verdict, reason, protocol| attempts(counters.as_ref(), verdict, reason, protocol),
        errors: &|error| errors(counters.as_ref(), error),
        failing: Some(reconciler.failing_binds()),
        problems,
    };
    Status::of(&node_snapshot(info, reconciler, now), inputs)
}

fn attempts(counters: Option<&Counters>, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
    counters.map_or(0, |counters| counters.attempts(verdict, reason, protocol))
}

fn errors(counters: Option<&Counters>, error: KernelError) -> u64 {
    counters.map_or(0, |counters| counters.errors(error))
}
