//! The scenario of the demo: pods of two workloads contend for a port, then two pods share another one.

use std::path::Path;

use anyhow::Context as _;

use super::agent_process::AgentProcess;
use super::child_process::{ChildProcess, quote_lines};
use super::http_client;
use super::pod_cgroups::PodCgroups;
use super::pods::{DemoPods, Pod, short_name};
use super::results::{Attempt, ContestedPort, Mode, REQUESTS, ScenarioResult, SharedPort, errno_in};
use super::servers::{ServerStart, Servers};
use super::terminal::Terminal;

/// Runs the scenario, with the same pods in every mode.
#[derive(Debug)]
pub(super) struct ScenarioRunner<'a> {
    pub(super) terminal: &'a Terminal,
    pub(super) pods: &'a DemoPods,
    pub(super) servers: &'a Servers,
    pub(super) cgroups: &'a PodCgroups,
    pub(super) enforcer: &'a Path,
    /// Folder with the pods' manifests.
    pub(super) manifests: &'a Path,
}

impl ScenarioRunner<'_> {
    /// Runs the scenario in one mode. All of its processes have ended when this returns.
    pub(super) fn run(&self, mode: Mode) -> anyhow::Result<ScenarioResult> {
        let mut agent = match mode {
            Mode::Off => None,
            Mode::Audit | Mode::Enforce => Some(self.start_agent(mode)?),
        };
        let mut attempts = Vec::new();
        let contested = self.contend(agent.as_mut(), &mut attempts)?;
        let shared = self.share(agent.as_mut(), &mut attempts)?;
        if mode == Mode::Off {
            let (web_port, metrics_port) = (contested.port, shared.port);
            self.terminal.paragraph(&format!(
                "No message names the pod that holds port {web_port}, and none reports that port {metrics_port} is \
                 shared."
            ))?;
        }
        if let Some(agent) = agent {
            let log = agent.stop()?;
            for attempt in &mut attempts {
                attempt.add_verdict(&log, self.pods.owner_of(attempt.port));
            }
        }
        Ok(ScenarioResult { mode, attempts, contested, shared })
    }

    fn start_agent(&self, mode: Mode) -> anyhow::Result<AgentProcess> {
        let mut agent = AgentProcess::start(self.enforcer, self.manifests, &self.cgroups.all_pods(), mode)?;
        self.terminal.paragraph("The enforcer is ready. Before any pod binds a port, it reports:")?;
        match agent.wait_for_claim_conflict(&self.pods.squatter.full_name())? {
            Some(line) => self.terminal.enforcer_message(&line.message, false)?,
            None => self.terminal.paragraph("no conflict.")?,
        }
        Ok(agent)
    }

    /// Starts the squatter's server, then the owner's, on the same port.
    fn contend(
        &self,
        mut agent: Option<&mut AgentProcess>,
        attempts: &mut Vec<Attempt>,
    ) -> anyhow::Result<ContestedPort> {
        let DemoPods { owner, squatter, .. } = self.pods;
        let mut running = Vec::new();
        for pod in [squatter, owner] {
            let (attempt, server) = self.start_server(pod, agent.as_deref_mut())?;
            attempts.push(attempt);
            running.extend(server);
        }
        let answered_by = if running.is_empty() { None } else { Some(http_client::pod_that_answers(owner.port)?) };
        let name = answered_by.as_deref().map_or("no pod", short_name);
        self.terminal.paragraph(&format!("A request to port {} reaches {name}.", owner.port))?;
        end_all(running)?;
        Ok(ContestedPort { port: owner.port, answered_by })
    }

    /// Starts two servers of different workloads that allow others to listen on the same port.
    fn share(&self, mut agent: Option<&mut AgentProcess>, attempts: &mut Vec<Attempt>) -> anyhow::Result<SharedPort> {
        let DemoPods { exporter, sidecar, .. } = self.pods;
        let mut running = Vec::new();
        for pod in [exporter, sidecar] {
            let (attempt, server) = self.start_server(pod, agent.as_deref_mut())?;
            attempts.push(attempt);
            running.extend(server);
        }
        let port = exporter.port;
        let requests = if running.is_empty() { 0 } else { REQUESTS };
        let answers = http_client::count_answers(port, requests)?;
        let counts: Vec<_> = answers.iter().map(|(pod, count)| format!("{count} reach {}", short_name(pod))).collect();
        self.terminal.paragraph(&format!("{requests} requests to port {port}: {}.", counts.join(", ")))?;
        end_all(running)?;
        Ok(SharedPort { port, answers })
    }

    /// Starts a pod's server. Returns the attempt, and the server if it listens.
    fn start_server(
        &self,
        pod: &Pod,
        agent: Option<&mut AgentProcess>,
    ) -> anyhow::Result<(Attempt, Option<ChildProcess>)> {
        let name = pod.name();
        let (attempt, server) = match self.servers.start(pod)? {
            ServerStart::Listening(server) => {
                self.terminal.paragraph(&format!("{name} starts and listens on 0.0.0.0:{}.", pod.port))?;
                (Attempt::new(pod, None, None), Some(server))
            }
            ServerStart::Failed(lines) => {
                let message = lines.iter().find(|line| errno_in(line).is_some()).with_context(|| {
                    format!("the server of {name} ended without an error number; its output is {}", quote_lines(&lines))
                })?;
                self.terminal.paragraph(&format!("{name} starts and fails. Its only message:"))?;
                self.terminal.server_message(message)?;
                (Attempt::new(pod, errno_in(message), Some(message.clone())), None)
            }
        };
        let is_owner = self.pods.owner_of(pod.port).full_name() == pod.full_name();
        if let Some(agent) = agent.filter(|_| !is_owner) {
            match agent.wait_for_conflict(&attempt.pod, attempt.port)? {
                Some(line) => {
                    self.terminal.enforcer_message(&line.message, line.verdict.as_deref() == Some("deny"))?;
                }
                None => self.terminal.paragraph("The enforcer reports nothing.")?,
            }
        }
        Ok((attempt, server))
    }
}

fn end_all(servers: Vec<ChildProcess>) -> anyhow::Result<()> {
    for server in servers {
        server.end()?;
    }
    Ok(())
}
