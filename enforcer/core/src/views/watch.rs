//! A bind attempt as `enforcer watch` shows it. The JSON is documented in docs/watch.md.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        actor::{Actor, Audience},
        port_spec::protocol_name,
        text::escape,
    },
    reports::report::Report,
    views::node_snapshot::{API_VERSION, ActorView},
};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum WatchLine {
    /// An attempt.
    BindAttempt(Box<BindAttempt>),
    /// Attempts that this watcher was too slow to receive.
    BindAttemptsDropped(Dropped),
}

/// A bind attempt with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindAttempt {
    /// Version of the API: [`API_VERSION`].
    pub api_version: String,
    /// Time of the attempt.
    pub time: String,
    /// Name of the node.
    pub node: String,
    /// Verdict: `allow`, `audit` or `deny`.
    pub verdict: String,
    /// Reason of the verdict.
    pub reason: String,
    /// Protocol: `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The address asked for.
    pub address: IpAddr,
    /// The port asked for; 0 asks for any.
    pub port: u16,
    /// The socket is IPv6 only, where that could be read.
    pub v6only: Option<bool>,
    /// Caller.
    pub who: ActorView,
    /// Container of the caller.
    pub container: Option<String>,
    /// Command of the caller.
    pub command: String,
    /// Its process id in the node's pid namespace.
    pub pid: u32,
    /// Its user id.
    pub uid: u32,
    /// Id of its cgroup.
    pub cgroup: u64,
    /// Owner of the claim that decided.
    pub owner: Option<ActorView>,
    /// Place where that was declared.
    pub source: Option<String>,
    /// Holder of the port, where that is the reason.
    pub holder: Option<ActorView>,
    /// The sentence, for people; its words may change.
    pub message: String,
}

/// Attempts that were left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Version of the API: [`API_VERSION`].
    pub api_version: String,
    /// Count of attempts.
    pub count: u64,
}

impl WatchLine {
    /// Creates the line of an attempt, at this time in the form of RFC 3339.
    #[must_use]
    pub fn attempt(report: &Report, node: &str, time: String) -> Self {
        let Report { attempt, caller, container, owner, source, holder } = report;
        Self::BindAttempt(Box::new(BindAttempt {
            api_version: API_VERSION.to_owned(),
            time,
            node: escape(node),
            verdict: attempt.verdict.as_str().to_owned(),
            reason: attempt.reason.as_str().to_owned(),
            protocol: protocol_name(attempt.protocol).to_owned(),
            address: attempt.address,
            port: attempt.port,
            v6only: attempt.v6only,
            who: ActorView::from(caller),
            container: container.clone(),
            command: report.command(),
            pid: attempt.pid,
            uid: attempt.uid,
            cgroup: attempt.cgroup.get(),
            owner: owner.clone().map(|name| ActorView::from(&Actor::Known(name))),
            source: source.map(|source| source.to_string()),
            holder: holder.as_ref().map(|holder| ActorView::from(&holder.who)),
            message: report.sentence(node, Audience::Operators),
        }))
    }

    /// Creates the line of attempts that were left out.
    #[must_use]
    pub fn dropped(count: u64) -> Self {
        Self::BindAttemptsDropped(Dropped { api_version: API_VERSION.to_owned(), count })
    }

    /// Formats the line for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::BindAttempt(attempt) => format!("{} {}", attempt.time, attempt.message),
            Self::BindAttemptsDropped(Dropped { count, .. }) => {
                format!("{count} attempts were left out: they came faster than they were read")
            }
        }
    }
}
