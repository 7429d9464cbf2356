//! The enforcer, as a child process whose log is read.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

use super::child_process::{Process, in_quotes};
use super::expectations::Mode;
use super::wait;

/// How long the enforcer may take until it judges.
const STARTING: Duration = Duration::from_secs(30);
/// How long a conflict may take until it is told.
const TELLING: Duration = Duration::from_secs(10);
/// How long is waited for more before the enforcer is stopped: a conflict that nobody expects has that long.
const SETTLING: Duration = Duration::from_millis(500);

/// A line of the enforcer's log, as far as the story needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct LogLine {
    event: Option<String>,
    /// The sentence for people.
    pub(super) message: String,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<String>,
    pod: Option<String>,
    port: Option<u16>,
    pub(super) owner: Option<String>,
}

impl LogLine {
    fn is(&self, event: &str) -> bool {
        self.event.as_deref() == Some(event)
    }
}

/// What the enforcer said.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: Vec<LogLine>,
}

impl Log {
    fn read(&mut self, lines: &[String]) {
        // What is no JSON is no part of the log: a panic, or a library that writes by itself.
        self.lines.extend(lines.iter().filter_map(|line| serde_json::from_str(line).ok()));
    }

    /// The first line that tells of a bind of `pod` (`namespace/name`) on `port` as of a conflict.
    pub(super) fn conflict(&self, pod: &str, port: u16) -> Option<&LogLine> {
        self.lines.iter().find(|line| {
            line.is("bind")
                && matches!(line.verdict.as_deref(), Some("audit" | "deny"))
                && line.pod.as_deref() == Some(pod)
                && line.port == Some(port)
        })
    }

    /// The first line that tells that the claim of `pod` lost.
    fn claim_conflict(&self, pod: &str) -> Option<&LogLine> {
        self.lines.iter().find(|line| line.is("claim_conflict") && line.pod.as_deref() == Some(pod))
    }

    #[cfg(test)]
    pub(super) fn of(lines: &[impl ToString]) -> Self {
        let mut log = Self::default();
        log.read(&lines.iter().map(ToString::to_string).collect::<Vec<_>>());
        log
    }

    fn is_ready(&self) -> bool {
        self.lines.iter().any(|line| line.is("ready"))
    }
}

/// The running enforcer. Ended when dropped.
#[derive(Debug)]
pub(super) struct Agent {
    process: Process,
    /// How many lines of the process are in the log.
    read: usize,
    log: Log,
}

impl Agent {
    /// Starts `enforcer run` and waits until it judges.
    pub(super) fn start(enforcer: &Path, manifests: &Path, cgroup: &Path, mode: Mode) -> anyhow::Result<Self> {
        let mut source = OsString::from("dir:");
        source.push(manifests);
        let mut arguments: Vec<OsString> = vec!["run".into(), "--mode".into(), mode.as_str().into()];
        arguments.extend(["--source".into(), source, "--cgroup-root".into(), cgroup.into()]);
        // Whatever else runs on this machine may have the usual address.
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
        let process = Process::start_program(None, enforcer, arguments)?;
        let mut agent = Self { process, read: 0, log: Log::default() };
        let ready = wait::until("the enforcer to be ready", STARTING, || {
            let ended = agent.process.ended()?;
            agent.hear();
            Ok(if agent.log.is_ready() { Some(Ok(())) } else { ended.map(Err) })
        })?;
        if let Err(status) = ready {
            let said = agent.process.last_words();
            bail!("the enforcer ended before it was ready ({status}); it said {}", in_quotes(&said));
        }
        Ok(agent)
    }

    fn hear(&mut self) {
        let said = self.process.said();
        self.log.read(&said[self.read..]);
        self.read = said.len();
    }

    /// Waits for the line that tells of a conflict; `None` if there is none.
    pub(super) fn conflict(&mut self, pod: &str, port: u16) -> anyhow::Result<Option<LogLine>> {
        wait::poll(TELLING, || {
            self.hear();
            Ok(self.log.conflict(pod, port).cloned())
        })
    }

    /// Waits for the line that tells of a claim that lost; `None` if there is none.
    pub(super) fn claim_conflict(&mut self, pod: &str) -> anyhow::Result<Option<LogLine>> {
        wait::poll(TELLING, || {
            self.hear();
            Ok(self.log.claim_conflict(pod).cloned())
        })
    }

    /// Ends it; all that it said.
    pub(super) fn stop(mut self) -> anyhow::Result<Log> {
        wait::poll(SETTLING, || Ok(None::<()>))?;
        self.hear();
        let Self { process, read, mut log } = self;
        let (status, said) = process.end()?;
        if !status.success() {
            bail!("the enforcer ended with {status}; it said {}", in_quotes(&said));
        }
        log.read(&said[read..]);
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
        // One JSON object per line; here they are broken for reading.
        let audited = AUDITED.replace('\n', " ");
        let log = Log::of(&["thread 'main' panicked".to_owned(), READY.replace('\n', " "), audited]);
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
    fn allowed_binds_and_other_events_are_no_conflicts() {
        let log = Log::of(&[
            r#"{"event":"bind","verdict":"allow","message":"","pod":"default/b","port":80}"#,
            r#"{"event":"claim_conflict","message":"claim of default/b loses","pod":"default/b","owner":"default/a"}"#,
        ]);
        assert!(!log.is_ready());
        assert_eq!(log.conflict("default/b", 80), None);
        assert_eq!(log.claim_conflict("default/b").unwrap().message, "claim of default/b loses");
    }
}
