//! What the programs cost: in the kernel by its own statistics, and as a process sees it.
//!
//! Everything that is compared exists at once, each in a cgroup of its own, and takes turns in an order that rotates. So
//! whatever else happens on the machine happens to all of them, and each pays for the cold cache as often as the others.

mod cases;

use std::{collections::HashMap, fs};

use anyhow::Context as _;
use aya::sys::{Stats, enable_stats};

use self::cases::{Case, Cases};
use crate::{
    comparison_programs::Hook,
    samples::{Run, ratios},
};

/// Binds per turn: few enough that what the programs tell of them fits into the rings.
const TURN: u32 = 1000;

/// Nanoseconds per run of each program of a case, or per whole cycle in user space, by round.
type Samples = HashMap<(&'static str, Metric), Vec<f64>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Metric {
    /// Kernel time of a program.
    Program(Hook),
    /// Kernel time of all programs.
    Programs,
    /// Time of socket, bind and close.
    Cycle,
}

impl Metric {
    const ALL: [Self; 5] = [
        Self::Program(Hook::Bind4),
        Self::Program(Hook::PostBind4),
        Self::Program(Hook::SockRelease),
        Self::Programs,
        Self::Cycle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Program(Hook::Bind4) => "bind",
            Self::Program(Hook::PostBind4) => "post_bind",
            Self::Program(Hook::SockRelease) => "release",
            Self::Programs => "programs",
            Self::Cycle => "cycle",
        }
    }
}

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let (sittings, rounds) = if quick { (3, 15) } else { (10, 30) };
    let mut samples = Samples::new();
    for sitting in 1..=sittings {
        // All is loaded anew each time, since where the kernel puts a program makes it faster or slower.
        eprintln!("hook: loading what is compared, {sitting} of {sittings}");
        let mut cases = Cases::new(sitting)?;
        // Statistics cost time themselves, so user space is measured without them.
        for kernel in [true, false] {
            eprintln!("hook: {rounds} rounds {}", if kernel { "in the kernel" } else { "as a process sees it" });
            let _statistics =
                kernel.then(|| enable_stats(Stats::RunTime)).transpose().context("run-time statistics")?;
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..cases.count()).collect();
                order.rotate_left(round % cases.count());
                for place in order {
                    measure_turn(cases.case(place), kernel, &mut samples)?;
                }
            }
        }
    }
    Ok(runs(&samples))
}

/// Lets one case play, and adds what it took.
fn measure_turn(mut case: Case<'_>, kernel: bool, samples: &mut Samples) -> anyhow::Result<()> {
    case.prepare()?;
    // The first ones bring everything back into the caches.
    case.run(TURN / 10)?;
    case.prepare()?;
    let before = case.statistics()?;
    let done = case.run(TURN)?;
    let after = case.statistics()?;
    case.check(done, TURN)?;
    let mut add = |what, value| samples.entry((case.name(), what)).or_default().push(value);
    if !kernel {
        add(Metric::Cycle, done.nanos as f64 / f64::from(TURN));
        return Ok(());
    }
    let mut all = 0.0;
    for (hook, before) in before {
        let (nanos, count) = (after[&hook].0 - before.0, after[&hook].1 - before.1);
        // A bind that is denied runs no `post_bind`.
        if count > 0 {
            add(Metric::Program(hook), nanos as f64 / count as f64);
            all += nanos as f64 / f64::from(TURN);
        }
    }
    if all > 0.0 {
        add(Metric::Programs, all);
    }
    Ok(())
}

/// What the kernel counts for a program: nanoseconds, and runs.
fn statistics(descriptor: i32) -> anyhow::Result<(u64, u64)> {
    let path = format!("/proc/self/fdinfo/{descriptor}");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let number = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("{path} says no {name}"))
    };
    Ok((number("run_time_ns:")?, number("run_cnt:")?))
}

fn runs(samples: &Samples) -> Vec<Run> {
    let mut runs = Vec::new();
    let of = |case, what| samples.get(&(case, what));
    let mut cases: Vec<_> = samples.keys().map(|(case, _)| *case).collect();
    cases.sort_unstable();
    cases.dedup();
    for case in cases {
        for what in Metric::ALL {
            if let Some(values) = of(case, what) {
                runs.push(Run::of(format!("{case}/{}", what.name()), "ns", values.clone()));
            }
        }
    }
    for (case, base) in cases::COMPARED {
        for what in Metric::ALL {
            if let (Some(these), Some(those)) = (of(case, what), of(base, what)) {
                let name = format!("{case}/{} ÷ {base}", what.name());
                runs.push(Run::of(name, "ratio", ratios(these, those)));
            }
        }
    }
    runs
}
