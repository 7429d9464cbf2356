//! The ports of Ready pods that another one answers, from the moment on in which that has held for a while.
//!
//! Pods that start and end pass through states that look like it for a moment. So each must hold for half a period of the
//! pod's probes, and be confirmed by the kernel's diagnostics.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use crate::{
    model::{actor::Actor, now::Now},
    sockets::{
        AnswerInputs, AnsweredByOther, NamedSocket,
        answered_by_other::{AnswerKey, Finding, find},
    },
};

/// Longest time that it must hold: with a default period of 10 s, and [a scan of the sockets](super::table) in every 5 s,
/// it is reported within one period.
const MAX_SETTLE_TIME: Duration = Duration::from_secs(4);
/// Most ports that are kept. Others have to wait until there is room.
pub const MAX_ANSWERED: usize = 1024;

#[derive(Debug)]
struct AnsweredEntry {
    answered: AnsweredByOther,
    /// Time from which on it holds, in microseconds since 1970.
    first: i64,
    /// Time at which it has held for long enough, since boot.
    settled_at: Duration,
    is_confirmed: bool,
    /// Nothing confirmed it at that time: it waits for whatever does.
    is_doubtful: bool,
    is_reported: bool,
    /// Number of the look that found it last.
    seen: u64,
}

/// Ports that another one answers, each reported once for as long as it holds.
#[derive(Debug, Default)]
pub struct AnsweredPorts {
    entries: HashMap<AnswerKey, AnsweredEntry>,
    looks: u64,
}

impl AnsweredPorts {
    /// Finds which ports another one answers now. What does not hold any more is gone.
    pub fn refresh(&mut self, inputs: &AnswerInputs<'_>, now: Now) {
        self.looks += 1;
        for pod in inputs.index.ready_pods() {
            let settle_time = (Duration::from_secs(pod.probes.period.into()) / 2).min(MAX_SETTLE_TIME);
            find(inputs, &pod, |key, finding: Finding<'_>| {
                let is_known = self.entries.contains_key(&key);
                if !is_known && self.entries.len() >= MAX_ANSWERED {
                    return;
                }
                let answered = AnsweredByOther {
                    pod: Actor::Known(pod.name.clone()),
                    port: finding.port,
                    holder: NamedSocket::new(finding.holder, inputs.sockets),
                    is_shared: finding.is_shared,
                };
                let known = self.entries.remove(&key);
                let entry = AnsweredEntry {
                    answered,
                    first: known.as_ref().map_or(now.wall, |known| known.first),
                    settled_at: known.as_ref().map_or(now.boottime + settle_time, |known| known.settled_at),
                    is_confirmed: finding.is_confirmed,
                    is_doubtful: known.as_ref().is_some_and(|known| known.is_doubtful),
                    is_reported: known.is_some_and(|known| known.is_reported),
                    seen: self.looks,
                };
                self.entries.insert(key, entry);
            });
        }
        self.entries.retain(|_, entry| entry.seen == self.looks);
    }

    /// Returns when [`Self::take_settled`] is due; `None` if nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let waiting = self.entries.values().filter(|entry| !entry.is_reported);
        waiting.filter(|entry| entry.is_confirmed || !entry.is_doubtful).map(|entry| entry.settled_at).min()
    }

    /// Checks whether one that is due is not confirmed: the kernel's diagnostics have to be asked.
    #[must_use]
    pub fn needs_scan(&self, now: Duration) -> bool {
        self.entries.values().any(|entry| entry.is_due(now) && !entry.is_confirmed && !entry.is_doubtful)
    }

    /// Takes those that have held for long enough. To be called right after [`Self::refresh`].
    pub fn take_settled(&mut self, now: Duration) -> Vec<AnsweredByOther> {
        let mut settled = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.is_due(now)) {
            if entry.is_confirmed {
                entry.is_reported = true;
                settled.push(entry.answered.clone());
            } else {
                entry.is_doubtful = true;
            }
        }
        settled
    }

    /// Returns the number of those that were reported and still hold.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_reported).count()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns those that were reported and still hold, each with the time from which on it does, in microseconds since 1970,
    /// the first one in front.
    #[must_use]
    pub fn sorted(&self) -> Vec<(&AnsweredByOther, i64)> {
        let reported = self.entries.values().filter(|entry| entry.is_reported);
        let mut all: Vec<_> = reported.map(|entry| (&entry.answered, entry.first)).collect();
        all.sort_by_cached_key(|(answered, first)| (*first, answered.pod.to_string(), answered.port.to_string()));
        all
    }
}

impl AnsweredEntry {
    fn is_due(&self, now: Duration) -> bool {
        !self.is_reported && self.settled_at <= now
    }
}
