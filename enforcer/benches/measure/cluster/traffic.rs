//! Traffic with the API server, counted by the server.

use std::{collections::BTreeMap, fs, time::Duration};

use enforcer_testing::apiserver::Recorded;

use crate::samples::Run;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Volume {
    requests: u64,
    /// Bytes of their bodies.
    received: u64,
    /// Bytes of the bodies of the answers, those of watches that were open before among them.
    sent: u64,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Per {
    /// All of the traffic.
    Agent,
    /// As much as would come in an hour.
    AgentAndHour,
}

/// Requests in some time, by verb and resource.
pub(super) struct Traffic {
    volumes: BTreeMap<(String, String), Volume>,
    time: Duration,
}

impl Traffic {
    /// Returns the traffic between two states of the record.
    pub(super) fn between(before: &[Recorded], after: &[Recorded], time: Duration) -> Self {
        let mut volumes: BTreeMap<_, Volume> = BTreeMap::new();
        for (number, request) in after.iter().enumerate() {
            let volume = volumes.entry((request.verb.clone(), request.resource.clone())).or_default();
            let known = before.get(number);
            volume.sent += request.sent - known.map_or(0, |known| known.sent);
            if known.is_none() {
                volume.requests += 1;
                volume.received += request.bytes as u64;
            }
        }
        volumes.retain(|_, volume| volume.requests > 0 || volume.sent > 0);
        Self { volumes, time }
    }

    /// Returns the bytes of the answers to one kind of request.
    pub(super) fn bytes(&self, verb: &str, resource: &str) -> u64 {
        let key = (verb.to_owned(), resource.to_owned());
        self.volumes.get(&key).map_or(0, |volume| volume.sent)
    }

    /// Reports what one agent of so many makes of it.
    pub(super) fn report(&self, name: &str, agents: u16, per: Per, runs: &mut Vec<Run>) {
        let (factor, requests_unit, bytes_unit) = match per {
            Per::Agent => (1.0, "per agent", "kB per agent"),
            Per::AgentAndHour => (3600.0 / self.time.as_secs_f64(), "per agent and hour", "kB per agent and hour"),
        };
        let share = |count: u64| count as f64 / f64::from(agents) * factor;
        let mut all = 0;
        for ((verb, resource), Volume { requests, received, sent }) in &self.volumes {
            all += requests;
            let name = format!("{name}/{verb} {resource}");
            runs.push(Run::one(name.clone(), requests_unit, share(*requests)));
            if *received > 0 {
                runs.push(Run::one(format!("{name}, received"), bytes_unit, share(*received) / 1000.0));
            }
            runs.push(Run::one(format!("{name}, sent"), bytes_unit, share(*sent) / 1000.0));
        }
        runs.push(Run::one(format!("{name}/requests"), requests_unit, share(all)));
    }
}

/// Counts the TCP connections of this network namespace, which has none but those of the server. Each has two ends here.
pub(super) fn established() -> Option<usize> {
    const ESTABLISHED: &str = "01";
    let text = fs::read_to_string("/proc/self/net/tcp").ok()?;
    Some(text.lines().filter(|line| line.split_whitespace().nth(3) == Some(ESTABLISHED)).count() / 2)
}
