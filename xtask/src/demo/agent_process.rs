//! The enforcer as a child process, and the parser of its log.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

use super::child_process::{ChildProcess, quote_lines};
use super::results::Mode;
use super::wait;

/// Time limit for the enforcer to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for the enforcer to report a conflict.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time before the enforcer is stopped, in which it can report unexpected conflicts.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// A line of the enforcer's log, with the fields that the demo reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LogLine {
    event: Option<String>,
    /// Sentence for people.
    pub(super) message: String,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pod: Option<String>,
    port: Option<u16>,
    pub(super) owner: Option<String>,
}

impl LogLine {
    fn is_event(&self, event: &str) -> bool {
        self.event.as_deref() == Some(event)
    }
}

/// Log of the enforcer.
#[derive(Debug, Default)]
pub(super) struct AgentLog {
    lines: Vec<LogLine>,
}

impl AgentLog {
    fn add_lines(&mut self, lines: &[String]) {
        // Lines that are not JSON do not belong to the log: panics, and libraries that write to standard error.
        self.lines.extend(lines.iter().filter_map(|line| serde_json::from_str(line).ok()));
    }

    /// Returns the first line that reports a conflict of a bind by `pod` (`namespace/name`) to `port`.
    pub(super) fn conflict(&self, pod: &str, port: u16) -> Option<&LogLine> {
        self.lines.iter().find(|line| {
            line.is_event("bind")
                && matches!(line.verdict.as_deref(), Some("audit" | "deny"))
                && line.pod.as_deref() == Some(pod)
                && line.port == Some(port)
        })
    }

    /// Returns the first line that reports a lost claim of `pod`.
    fn claim_conflict(&self, pod: &str) -> Option<&LogLine> {
        self.lines.iter().find(|line| line.is_event("claim_conflict") && line.pod.as_deref() == Some(pod))
    }

    #[cfg(test)]
    pub(super) fn parse(lines: &[impl ToString]) -> Self {
        let mut log = Self::default();
        log.add_lines(&lines.iter().map(ToString::to_string).collect::<Vec<_>>());
        log
    }

    fn is_ready(&self) -> bool {
        self.lines.iter().any(|line| line.is_event("ready"))
    }
}

/// A running enforcer. It is ended when dropped.
#[derive(Debug)]
pub(super) struct AgentProcess {
    process: ChildProcess,
    /// Number of lines of the process that are in the log.
    parsed: usize,
    log: AgentLog,
}

impl AgentProcess {
    /// Starts `enforcer run` and waits until it is ready.
    pub(super) fn start(enforcer: &Path, manifests: &Path, cgroup: &Path, mode: Mode) -> anyhow::Result<Self> {
        let mut source = OsString::from("dir:");
        source.push(manifests);
        let mut arguments: Vec<OsString> = vec!["run".into(), "--mode".into(), mode.as_str().into()];
        arguments.extend(["--source".into(), source, "--cgroup-root".into(), cgroup.into()]);
        // Other programs on this machine may use the default addresses and paths.
        arguments.extend(
            [
                "--node-name",
                "node-1",
                "--log-format",
                "json",
                "--listen",
                "none",
                "--admin-socket",
                "none",
                "--bpffs",
                "/nonexistent",
                "--persist",
                "false",
                "--manage-reserved-ports",
                "false",
            ]
            .map(OsString::from),
        );
        let process = ChildProcess::start_program(None, enforcer, arguments)?;
        let mut agent = Self { process, parsed: 0, log: AgentLog::default() };
        let ready = wait::until("the enforcer to be ready", READY_TIMEOUT, || {
            let exit_status = agent.process.exit_status()?;
            agent.parse_new_lines();
            Ok(if agent.log.is_ready() { Some(Ok(())) } else { exit_status.map(Err) })
        })?;
        if let Err(status) = ready {
            let lines = agent.process.into_lines();
            bail!("the enforcer ended before it was ready ({status}); its output is {}", quote_lines(&lines));
        }
        Ok(agent)
    }

    fn parse_new_lines(&mut self) {
        let lines = self.process.lines();
        self.log.add_lines(&lines[self.parsed..]);
        self.parsed = lines.len();
    }

    /// Waits for the report of a conflict. Returns `None` if there is none in time.
    pub(super) fn wait_for_conflict(&mut self, pod: &str, port: u16) -> anyhow::Result<Option<LogLine>> {
        wait::poll(REPORT_TIMEOUT, || {
            self.parse_new_lines();
            Ok(self.log.conflict(pod, port).cloned())
        })
    }

    /// Waits for the report of a lost claim. Returns `None` if there is none in time.
    pub(super) fn wait_for_claim_conflict(&mut self, pod: &str) -> anyhow::Result<Option<LogLine>> {
        wait::poll(REPORT_TIMEOUT, || {
            self.parse_new_lines();
            Ok(self.log.claim_conflict(pod).cloned())
        })
    }

    /// Ends the enforcer and returns its log.
    pub(super) fn stop(mut self) -> anyhow::Result<AgentLog> {
        wait::poll(SETTLE_TIME, || Ok(None::<()>))?;
        self.parse_new_lines();
        let Self { process, parsed, mut log } = self;
        let (status, lines) = process.end()?;
        if !status.success() {
            bail!("the enforcer ended with {status}; its output is {}", quote_lines(&lines));
        }
        log.add_lines(&lines[parsed..]);
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"timestamp":"2026-01-15T09:00:00Z","level":"INFO","message":"ready","event":"ready",
        "mode":"audit","target":"enforcer::agent"}"#;
    const AUDITED: &str = r#"{"timestamp":"2026-01-15T09:00:00Z","level":"WARN","message":"bind 0.0.0.0:80/tcp by
        default/b audited","event":"bind","verdict":"audit","reason":"claimed","protocol":"tcp","address":"0.0.0.0",
        "port":80,"pod":"default/b","command":"nginx","pid":4711,"owner":"default/a","source":"annotation"}"#;

    #[test]
    fn conflict_is_found_by_pod_and_port() {
        // The constants have line breaks to be readable. In the log each object is one line.
        let audited = AUDITED.replace('\n', " ");
        let log = AgentLog::parse(&["thread 'main' panicked".to_owned(), READY.replace('\n', " "), audited]);
        assert!(log.is_ready());
        let line = log.conflict("default/b", 80).unwrap();
        assert_eq!(line.owner.as_deref(), Some("default/a"));
        assert_eq!((line.verdict.as_deref(), line.reason.as_deref()), (Some("audit"), Some("claimed")));
        assert!(line.message.starts_with("bind 0.0.0.0:80/tcp by"));
        assert_eq!(log.conflict("default/b", 81), None);
        assert_eq!(log.conflict("default/a", 80), None);
        assert_eq!(log.claim_conflict("default/b"), None);
    }

    #[test]
    fn allowed_bind_is_no_conflict() {
        let log = AgentLog::parse(&[
            r#"{"event":"bind","verdict":"allow","message":"","pod":"default/b","port":80}"#,
            r#"{"event":"claim_conflict","message":"claim of default/b loses","pod":"default/b","owner":"default/a"}"#,
        ]);
        assert!(!log.is_ready());
        assert_eq!(log.conflict("default/b", 80), None);
        assert_eq!(log.claim_conflict("default/b").unwrap().message, "claim of default/b loses");
    }
}
