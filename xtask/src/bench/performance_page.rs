//! `docs/performance.md` and its plots: what a run showed, and what was tried before.

use std::fmt::Write as _;
use std::fs;

use super::bar_chart::{self, Row};
use super::thresholds::Bar;
use super::{Run, Runs, short, write as write_file};
use crate::process;

/// What no run can tell: how things are measured, and what was tried.
const METHOD: &str = include_str!("measurement_method.md");
const TRIED: &str = include_str!("experiments.md");

/// What is shown as plots: the file, the title, and for each bar its label and its run.
type Plot = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const PLOTS: [Plot; 4] = [
    (
        "performance-bind.svg",
        "Kernel time of the bind program",
        &[
            ("empty program", "hook/empty-refused/bind"),
            ("unclaimed port", "hook/unclaimed/bind"),
            ("owned port", "hook/owned/bind"),
            ("denied, event limited away", "hook/denied/bind"),
            ("denied and told", "hook/denied-told/bind"),
            ("audited and told", "hook/audited/bind"),
            ("list of 1 rule", "hook/rules-1/bind"),
            ("list of 16 rules", "hook/rules-16/bind"),
            ("list of 128 rules", "hook/rules-128/bind"),
        ],
    ),
    (
        "performance-cycle.svg",
        "Socket, bind and close as a process sees them",
        &[
            ("no program", "hook/none/cycle"),
            ("empty programs", "hook/empty/cycle"),
            ("unclaimed port", "hook/bound/cycle"),
            ("owned port", "hook/owned/cycle"),
            ("denied", "hook/denied/cycle"),
            ("adopting bind", "hook/adopted/cycle"),
        ],
    ),
    (
        "performance-memory.svg",
        "Resident memory of the agent",
        &[
            ("folder, no pods", "footprint/folder-0-pods/rss"),
            ("folder, 110 pods", "footprint/folder-110-pods/rss"),
            ("folder, 5,000 pods", "footprint/folder-5000-pods/rss"),
            ("API server, no pods", "footprint/api-0-pods/rss"),
            ("API server, 110 pods", "footprint/api-110-pods/rss"),
            ("API server, 5,000 pods", "footprint/api-5000-pods/rss"),
        ],
    ),
    (
        "performance-way-in.svg",
        "From a pod's change at the API server to the kernel",
        &[
            ("1 pod", "way-in/api-1-pods/change"),
            ("110 pods", "way-in/api-110-pods/change"),
            ("1,000 pods", "way-in/api-1000-pods/change"),
            ("5,000 pods", "way-in/api-5000-pods/change"),
        ],
    ),
];

/// Writes all of it.
pub(super) fn write(bars: &[Bar], runs: &Runs) -> anyhow::Result<()> {
    let docs = process::root().join("docs");
    let mut plots = Vec::new();
    for (file, title, rows) in PLOTS {
        if let Some(svg) = plot(title, rows, runs) {
            write_file(&docs.join(file), &svg)?;
            plots.push((file, title));
        }
    }
    let day = jiff::Zoned::now().date().to_string();
    write_file(&docs.join("performance.md"), &text(&day, &machine(), bars, runs, &plots))
}

/// The plot of those of the runs that were measured; `None` if none was.
fn plot(title: &str, rows: &[(&'static str, &'static str)], runs: &Runs) -> Option<String> {
    let unit = rows.iter().find_map(|(_, run)| runs.get(*run)).map(|run| run.unit.clone())?;
    let row = |(label, run): &(&'static str, &'static str)| {
        let Run { median, low, high, .. } = runs.get(*run)?;
        Some(Row { label, value: *median, low: *low, high: *high })
    };
    let rows: Vec<_> = rows.iter().filter_map(row).collect();
    Some(bar_chart::bars(title, &unit, &rows))
}

/// The kernel and the processor.
fn machine() -> String {
    let kernel = rustix::system::uname();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "Linux {}, {count} processors ({})",
        kernel.release().to_string_lossy(),
        model.unwrap_or("of an unknown model")
    )
}

fn text(day: &str, machine: &str, bars: &[Bar], runs: &Runs, plots: &[(&str, &str)]) -> String {
    let mut text = format!(
        "# What it costs\n\nWritten by `cargo xtask bench --document` on {day}: {machine}. Do not edit.\n\n\
         ## Bars\n\n| what | measured | at most | |\n| --- | --- | --- | --- |\n"
    );
    // Writing to a string cannot fail.
    for Bar { name, value, limit, ok } in bars {
        let verdict = if *ok { "" } else { "**missed**" };
        let _ = writeln!(text, "| {name} | {} | {} | {verdict} |", short(*value), short(*limit));
    }
    text.push('\n');
    for (file, title) in plots {
        let _ = writeln!(text, "![{title}]({file})\n");
    }
    let _ = write!(text, "{METHOD}\n{TRIED}\n## All runs\n");
    let mut part = "";
    for run in runs.values() {
        let (of, name) = run.name.split_once('/').unwrap_or(("", &run.name));
        if of != part {
            part = of;
            let _ = write!(text, "\n### {part}\n\n| run | median | quartiles | unit |\n| --- | --- | --- | --- |\n");
        }
        let quartiles =
            if run.rounds > 1 { format!("{} to {}", short(run.low), short(run.high)) } else { String::new() };
        let _ = writeln!(text, "| {name} | {} | {quartiles} | {} |", short(run.median), run.unit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, median: f64) -> (String, Run) {
        let (low, high) = (median - 1.0, median + 1.0);
        (name.to_owned(), Run { name: name.to_owned(), unit: "ns".to_owned(), median, low, high, rounds: 3 })
    }

    #[test]
    fn what_was_missed_is_said_and_every_run_is_there() {
        let runs = Runs::from([run("hook/owned/bind", 60.0), run("way-in/x", 5.0)]);
        let bars =
            [Bar { name: "a", value: 1.0, limit: 2.0, ok: true }, Bar { name: "b", value: 3.0, limit: 2.0, ok: false }];
        let text = text("2026-11-25", "Linux", &bars, &runs, &[("p.svg", "P")]);
        for line in [
            "| a | 1.00 | 2.00 |  |",
            "| b | 3.00 | 2.00 | **missed** |",
            "![P](p.svg)",
            "### way-in",
            "| owned/bind | 60.0 | 59.0 to 61.0 | ns |",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_plot_shows_what_was_measured() {
        let runs = Runs::from([run("x", 60.0)]);
        let svg = plot("T", &[("seen", "x"), ("unseen", "y")], &runs).unwrap();
        assert!(svg.contains(">seen<") && !svg.contains("unseen"));
        assert!(plot("T", &[("unseen", "y")], &runs).is_none());
    }
}
