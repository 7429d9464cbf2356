//! One act: the same pods, each time under another judge.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::agent_process::Agent;
use super::child_process::{Process, in_quotes};
use super::expectations::{Act, Attempt, Contested, Mode, REQUESTS, Shared, errno_in};
use super::http_client;
use super::pod_cgroups::Subtree;
use super::pods::{Cast, Pod, short};
use super::servers::{Programs, Start};
use super::terminal::Stage;

/// All that the acts share.
#[derive(Debug)]
pub(super) struct Theatre<'a> {
    pub(super) stage: &'a Stage,
    pub(super) cast: &'a Cast,
    pub(super) programs: &'a Programs,
    pub(super) subtree: &'a Subtree,
    pub(super) enforcer: &'a Path,
    /// The folder with the pods' manifests.
    pub(super) manifests: PathBuf,
}

impl Theatre<'_> {
    /// Plays one act to its end; no process of it is left then.
    pub(super) fn play(&self, mode: Mode) -> anyhow::Result<Act> {
        let mut agent = match mode {
            Mode::Off => None,
            Mode::Audit | Mode::Enforce => Some(self.start_agent(mode)?),
        };
        let mut attempts = Vec::new();
        let contested = self.compete(agent.as_mut(), &mut attempts)?;
        let shared = self.share(agent.as_mut(), &mut attempts)?;
        if mode == Mode::Off {
            let (web, metrics) = (contested.port, shared.port);
            self.stage.say(&format!("Nobody says who holds port {web}, and nobody that port {metrics} is shared."))?;
        }
        if let Some(agent) = agent {
            let log = agent.stop()?;
            for attempt in &mut attempts {
                attempt.judge(&log, self.cast.owner_of(attempt.port));
            }
        }
        Ok(Act { mode, attempts, contested, shared })
    }

    fn start_agent(&self, mode: Mode) -> anyhow::Result<Agent> {
        let mut agent = Agent::start(self.enforcer, &self.manifests, &self.subtree.pods(), mode)?;
        self.stage.say("The enforcer is ready. Before any pod binds anything it tells:")?;
        match agent.claim_conflict(&self.cast.squatter.full_name())? {
            Some(line) => self.stage.told(&line.message, false)?,
            None => self.stage.say("nothing.")?,
        }
        Ok(agent)
    }

    /// Two replicas want one port; the wrong one is quicker.
    fn compete(&self, mut agent: Option<&mut Agent>, attempts: &mut Vec<Attempt>) -> anyhow::Result<Contested> {
        let Cast { owner, squatter, .. } = self.cast;
        let mut servers = Vec::new();
        for pod in [squatter, owner] {
            let (attempt, server) = self.attempt(pod, agent.as_deref_mut())?;
            attempts.push(attempt);
            servers.extend(server);
        }
        let answered_by = if servers.is_empty() { None } else { Some(http_client::who_answers(owner.port)?) };
        let who = answered_by.as_deref().map_or("nobody", short);
        self.stage.say(&format!("A request to port {} is answered by {who}.", owner.port))?;
        end(servers)?;
        Ok(Contested { port: owner.port, answered_by })
    }

    /// Two pods of different workloads let others share their port.
    fn share(&self, mut agent: Option<&mut Agent>, attempts: &mut Vec<Attempt>) -> anyhow::Result<Shared> {
        let Cast { exporter, guest, .. } = self.cast;
        let mut servers = Vec::new();
        for pod in [exporter, guest] {
            let (attempt, server) = self.attempt(pod, agent.as_deref_mut())?;
            attempts.push(attempt);
            servers.extend(server);
        }
        let requests = if servers.is_empty() { 0 } else { REQUESTS };
        let answers = http_client::who_answers_how_often(exporter.port, requests)?;
        let counts: Vec<_> = answers.iter().map(|(pod, count)| format!("{count} by {}", short(pod))).collect();
        let port = exporter.port;
        self.stage.say(&format!("{requests} requests to port {port} are answered: {}.", counts.join(", ")))?;
        end(servers)?;
        Ok(Shared { port, answers })
    }

    /// A pod's server starts and tries to listen; the server is there if it does.
    fn attempt(&self, pod: &Pod, agent: Option<&mut Agent>) -> anyhow::Result<(Attempt, Option<Process>)> {
        let name = pod.name();
        let (attempt, server) = match self.programs.start(pod)? {
            Start::Listening(server) => {
                self.stage.say(&format!("{name} starts and listens on 0.0.0.0:{}.", pod.port))?;
                (Attempt::new(pod, None, None), Some(server))
            }
            Start::Failed(words) => {
                let words = words.iter().find(|line| errno_in(line).is_some()).with_context(|| {
                    format!("the server of {name} ended and named no error; it said {}", in_quotes(&words))
                })?;
                self.stage.say(&format!("{name} starts and fails. All it says:"))?;
                self.stage.quote(words)?;
                (Attempt::new(pod, errno_in(words), Some(words.clone())), None)
            }
        };
        let is_owner = self.cast.owner_of(pod.port).full_name() == pod.full_name();
        if let Some(agent) = agent.filter(|_| !is_owner) {
            match agent.conflict(&attempt.pod, attempt.port)? {
                Some(line) => self.stage.told(&line.message, line.verdict.as_deref() == Some("deny"))?,
                None => self.stage.say("The enforcer tells nothing of it.")?,
            }
        }
        Ok((attempt, server))
    }
}

fn end(servers: Vec<Process>) -> anyhow::Result<()> {
    for server in servers {
        server.end()?;
    }
    Ok(())
}
