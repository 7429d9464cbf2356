//! Reports of pods whose names are not known yet.

use std::{collections::HashMap, time::Duration};

use crate::{
    index::Index,
    model::{actor::Actor, kernel_ids::CgroupId, now::Now, text::escape},
    reports::report::Report,
};

/// Time that the Events about an attempt wait for the name of its caller.
pub const NAME_WAIT: Duration = Duration::from_mins(1);
/// Most pods that wait for their name.
pub(super) const MAX_PODS: usize = 256;
/// Most reports of one pod that wait.
pub(super) const MAX_REPORTS: usize = 8;

/// Outcome of a report.
pub(super) enum Held {
    /// It waits.
    Waiting,
    /// There are too many of its pod.
    Dropped,
    /// There are too many pods: it is to be published without the name.
    NoRoom,
}

#[derive(Debug)]
struct PodReports {
    until: Duration,
    /// Reports with their times, in microseconds since 1970.
    reports: Vec<(Report, i64)>,
}

/// Reports by cgroup of the calling pod.
#[derive(Debug, Default)]
pub(super) struct UnnamedReports {
    pods: HashMap<CgroupId, PodReports>,
}

impl UnnamedReports {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// Keeps a report until its caller has a name.
    pub(super) fn hold(&mut self, cgroup: CgroupId, report: &Report, now: Now) -> Held {
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(&cgroup) {
            return Held::NoRoom;
        }
        let new = || PodReports { until: now.boottime + NAME_WAIT, reports: Vec::new() };
        let pod = self.pods.entry(cgroup).or_insert_with(new);
        if pod.reports.len() >= MAX_REPORTS {
            return Held::Dropped;
        }
        pod.reports.push((report.clone(), now.wall));
        Held::Waiting
    }

    /// Removes the reports whose callers have names now, and those that have waited for long enough.
    pub(super) fn take_ready(&mut self, index: &Index, now: Now) -> Vec<(Report, i64)> {
        let is_ready = |cgroup: &CgroupId, pod: &mut PodReports| {
            index.name_by_cgroup(*cgroup).is_some() || pod.until <= now.boottime
        };
        let ready = self.pods.extract_if(is_ready).flat_map(|(cgroup, pod)| {
            pod.reports.into_iter().map(move |(mut report, time)| {
                if let Some(name) = index.name_by_cgroup(cgroup) {
                    report.caller = Actor::Known(name.clone());
                    report.container = index.container(report.attempt.cgroup).map(|name| escape(&name));
                }
                (report, time)
            })
        });
        ready.collect()
    }
}
