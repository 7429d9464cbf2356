//! Samples by case, metric and round, and the measurements that they become.

use std::collections::{BTreeSet, HashMap};

use crate::{
    comparison_programs::Hook,
    samples::{Run, differences, ratios},
};

/// Value that is taken once in each turn of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Metric {
    /// Kernel time of a program, in nanoseconds per run.
    Program(Hook),
    /// Kernel time of all programs, in nanoseconds per cycle.
    Programs,
    /// Time of socket, bind and close, in nanoseconds.
    Cycle,
    /// How often a thread of the agent was woken, per 1000 cycles.
    Wakeups,
    /// Attempts whose record did not fit into the ring, per 1000 cycles.
    Lost,
}

impl Metric {
    /// Those that are compared.
    const TIMES: [Self; 6] = [
        Self::Program(Hook::SockCreate),
        Self::Program(Hook::Bind4),
        Self::Program(Hook::PostBind4),
        Self::Program(Hook::SockRelease),
        Self::Programs,
        Self::Cycle,
    ];

    const COUNTS: [Self; 2] = [Self::Wakeups, Self::Lost];

    fn name(self) -> &'static str {
        match self {
            Self::Program(hook) => hook.name(),
            Self::Programs => "programs",
            Self::Cycle => "cycle",
            Self::Wakeups => "wakeups",
            Self::Lost => "lost",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Program(_) | Self::Programs | Self::Cycle => "ns",
            Self::Wakeups | Self::Lost => "per 1000 binds",
        }
    }
}

/// All samples, each list in the order of the rounds.
#[derive(Default)]
pub(crate) struct Samples(HashMap<(String, Metric), Vec<f64>>);

impl Samples {
    pub(crate) fn add(&mut self, case: &str, metric: Metric, value: f64) {
        self.0.entry((case.to_owned(), metric)).or_default().push(value);
    }

    fn of(&self, case: &str, metric: Metric) -> Option<&Vec<f64>> {
        self.0.get(&(case.to_owned(), metric))
    }

    /// Returns the measurements of every case, and the ratios of these pairs: a case, and what it is divided by. Where
    /// that is an empty program, also the net time.
    pub(crate) fn runs(&self, compared: &[(String, String)]) -> Vec<Run> {
        let mut runs = Vec::new();
        let cases: BTreeSet<&str> = self.0.keys().map(|(case, _)| case.as_str()).collect();
        for case in cases {
            for metric in Metric::TIMES.into_iter().chain(Metric::COUNTS) {
                if let Some(values) = self.of(case, metric) {
                    runs.push(Run::of(format!("{case}/{}", metric.name()), metric.unit(), values.clone()));
                }
            }
        }
        for (case, base) in compared {
            for metric in Metric::TIMES {
                if let (Some(these), Some(those)) = (self.of(case, metric), self.of(base, metric)) {
                    let name = format!("{case}/{} ÷ {base}", metric.name());
                    runs.push(Run::of(name, "ratio", ratios(these, those)));
                }
            }
            if base.starts_with(EMPTY)
                && let Some(net) = self.net(case, base)
            {
                runs.push(Run::of(format!("{case}/net"), "ns", net));
            }
        }
        runs
    }

    /// Returns what a cycle of a case takes in the kernel above the empty programs, by round: the sum over the hooks
    /// that run in the case. A bind that is denied runs no `post_bind`, and is not charged for that it does not.
    fn net(&self, case: &str, base: &str) -> Option<Vec<f64>> {
        let hooks = Hook::ALL.into_iter().filter_map(|hook| {
            let metric = Metric::Program(hook);
            Some(differences(self.of(case, metric)?, self.of(base, metric)?))
        });
        hooks.reduce(|sum, more| sum.iter().zip(more).map(|(sum, more)| sum + more).collect())
    }
}

/// The names of all cases with empty programs begin so.
pub(crate) const EMPTY: &str = "empty";
