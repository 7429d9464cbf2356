//! Results of the demo, in the form that `--json` prints.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::agent_process::AgentLog;
use super::pods::Pod;

/// Number of requests to the shared port in each scenario.
pub(super) const REQUESTS: u32 = 20;

/// Mode of the enforcer in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Mode {
    /// The enforcer does not run.
    Off,
    Audit,
    Enforce,
}

impl Mode {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// Results of all scenarios.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DemoResults {
    /// Programs read the key `acts`, so it keeps its name.
    #[serde(rename = "acts")]
    pub(super) scenarios: Vec<ScenarioResult>,
}

/// Results of the scenario in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScenarioResult {
    pub(super) mode: Mode,
    /// Attempts in the order in which they were made.
    pub(super) attempts: Vec<Attempt>,
    pub(super) contested: ContestedPort,
    pub(super) shared: SharedPort,
}

/// Port that two replicas contend for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContestedPort {
    pub(super) port: u16,
    /// Pod that answers requests in the end, if one listens.
    pub(super) answered_by: Option<String>,
}

/// Port that two pods try to share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SharedPort {
    pub(super) port: u16,
    /// Number of answered requests by pod.
    pub(super) answers: BTreeMap<String, u32>,
}

/// Attempt of a server to listen on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attempt {
    /// `namespace/name`.
    pub(super) pod: String,
    pub(super) protocol: &'static str,
    pub(super) address: &'static str,
    pub(super) port: u16,
    /// Verdict of the enforcer, if it runs.
    pub(super) verdict: Option<String>,
    /// Symbolic name of the server's error.
    pub(super) errno: Option<String>,
    pub(super) reason: Option<String>,
    /// Owner of the port.
    pub(super) owner: Option<String>,
    /// Message of the server, if it failed.
    pub(super) server_message: Option<String>,
    /// Message of the enforcer, if it reported a conflict.
    pub(super) enforcer_message: Option<String>,
}

impl Attempt {
    /// Creates an attempt without a verdict.
    pub(super) fn new(pod: &Pod, errno: Option<String>, server_message: Option<String>) -> Self {
        Self {
            pod: pod.full_name(),
            protocol: "tcp",
            address: "0.0.0.0",
            port: pod.port,
            verdict: None,
            errno,
            reason: None,
            owner: None,
            server_message,
            enforcer_message: None,
        }
    }

    /// Adds the enforcer's verdict. The enforcer logs conflicts only: it allowed an attempt that it did not log, and the
    /// reason is known if the pod owns the port.
    pub(super) fn add_verdict(&mut self, log: &AgentLog, owner: &Pod) {
        if let Some(line) = log.conflict(&self.pod, self.port) {
            self.verdict.clone_from(&line.verdict);
            self.reason.clone_from(&line.reason);
            self.owner.clone_from(&line.owner);
            self.enforcer_message = Some(line.message.clone());
        } else {
            self.verdict = Some("allow".to_owned());
            if owner.full_name() == self.pod {
                self.reason = Some("owner".to_owned());
                self.owner = Some(self.pod.clone());
            }
        }
    }

    /// Returns true if the server listens.
    pub(super) fn succeeded(&self) -> bool {
        self.errno.is_none()
    }

    pub(super) fn has_verdict(&self, verdict: &str, reason: &str, owner: &Pod) -> bool {
        self.verdict.as_deref() == Some(verdict)
            && self.reason.as_deref() == Some(reason)
            && self.owner == Some(owner.full_name())
    }
}

/// Formats an attempt as `80/tcp by default/nginx: verdict deny, errno EADDRINUSE, reason claimed, owner default/other`.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        write!(
            f,
            "{}/{} by {}: verdict {}, errno {}, reason {}, owner {}",
            self.port,
            self.protocol,
            self.pod,
            or_none(&self.verdict),
            or_none(&self.errno),
            or_none(&self.reason),
            or_none(&self.owner)
        )
    }
}

/// Returns the name of the error number in a server's message. nginx writes `(98: Address already in use)`, programs in
/// Rust write `(os error 98)`.
pub(super) fn errno_in(message: &str) -> Option<String> {
    let number = message.split('(').skip(1).find_map(|part| {
        let part = part.strip_prefix("os error ").unwrap_or(part);
        let end = part.find(|c: char| !c.is_ascii_digit())?;
        if !part[end..].starts_with([':', ')']) {
            return None;
        }
        part[..end].parse::<i32>().ok()
    })?;
    let name = match rustix::io::Errno::from_raw_os_error(number) {
        rustix::io::Errno::ADDRINUSE => "EADDRINUSE",
        rustix::io::Errno::PERM => "EPERM",
        rustix::io::Errno::ACCESS => "EACCES",
        rustix::io::Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        _ => return Some(format!("errno {number}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_number_in_a_message_has_its_name() {
        let cases = [
            ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", Some("EADDRINUSE")),
            ("error: bind to 0.0.0.0:80 failed: Address already in use (os error 98)", Some("EADDRINUSE")),
            ("bind() to 0.0.0.0:80 failed (1: Operation not permitted)", Some("EPERM")),
            ("Permission denied (os error 13)", Some("EACCES")),
            ("(really) failed (os error 105)", Some("errno 105")),
            ("nginx: [emerg] still could not bind()", None),
            ("killed (98 times)", None),
            ("", None),
        ];
        for (message, name) in cases {
            assert_eq!(errno_in(message).as_deref(), name, "{message}");
        }
    }
}
