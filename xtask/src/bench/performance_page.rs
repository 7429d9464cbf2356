//! Writer of `docs/performance.md` and its charts: measurements, and the experiments behind them.

use std::fmt::Write as _;
use std::fs;

use super::bar_chart::{self, Row};
use super::thresholds::{ThresholdResult, Verdict};
use super::{Measurement, Measurements, round, write_file};
use crate::process;

/// Sections that no measurement fills: the method, and earlier experiments.
const METHOD: &str = include_str!("measurement_method.md");
const EXPERIMENTS: &str = include_str!("experiments.md");

/// The comparison with the programs of others: what it means, and the table that `cargo xtask bench peers --document`
/// wrote last.
const PEERS: &str = concat!(include_str!("peers_method.md"), "\n", include_str!("peers_table.md"));

/// A chart: its file, its title, and for each bar the label and the measurement.
type Chart = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CHARTS: [Chart; 5] = [
    (
        "performance-net.svg",
        "Kernel time from socket to close above empty programs",
        &[
            ("port never bound before", "hook/fresh/net"),
            ("unclaimed port", "hook/unclaimed/net"),
            ("one port again and again", "hook/again/net"),
            ("owned port", "hook/owned/net"),
            ("port that the kernel refuses", "hook/refused/net"),
            ("denied, ring full", "hook/denied/net"),
            ("denied and reported", "hook/denied-paced/net"),
            ("audited and reported", "hook/audited/net"),
            ("adopting bind", "hook/adopted/net"),
            ("unbound socket", "hook/unbound/net"),
        ],
    ),
    (
        "performance-bind.svg",
        "Kernel time of the bind program",
        &[
            ("empty program", "hook/empty/bind"),
            ("unclaimed port", "hook/unclaimed/bind"),
            ("owned port", "hook/owned/bind"),
            ("denied, event rate-limited", "hook/denied/bind"),
            ("C twin, unclaimed port", "hook/twin-unclaimed/bind"),
            ("C twin, owned port", "hook/twin-owned/bind"),
            ("C twin, denied", "hook/twin-denied/bind"),
            ("list of 1 rule", "hook/rules-1/bind"),
            ("list of 16 rules", "hook/rules-16/bind"),
            ("list of 128 rules", "hook/rules-128/bind"),
        ],
    ),
    (
        "performance-cycle.svg",
        "Time of socket, bind and close in a process",
        &[
            ("no program", "hook/none/cycle"),
            ("empty programs", "hook/empty/cycle"),
            ("unclaimed port", "hook/unclaimed/cycle"),
            ("owned port", "hook/owned/cycle"),
            ("denied, ring full", "hook/denied/cycle"),
            ("SO_REUSEPORT, empty programs", "hook/empty-reuse/cycle"),
            ("SO_REUSEPORT, adopting bind", "hook/adopted/cycle"),
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
        "performance-claim-latency.svg",
        "Latency from a pod's change at the API server to the kernel",
        &[
            ("1 pod", "claim-latency/api-1-pods/change"),
            ("110 pods", "claim-latency/api-110-pods/change"),
            ("1,000 pods", "claim-latency/api-1000-pods/change"),
            ("5,000 pods", "claim-latency/api-5000-pods/change"),
        ],
    ),
];

/// Writes the page and its charts into `docs`.
pub(super) fn write(results: &[ThresholdResult], measurements: &Measurements) -> anyhow::Result<()> {
    let docs = process::workspace_root().join("docs");
    let mut charts = Vec::new();
    for (file, title, bars) in CHARTS {
        if let Some(svg) = chart(title, bars, measurements) {
            write_file(&docs.join(file), &svg)?;
            charts.push((file, title));
        }
    }
    write_file(&docs.join("performance.md"), &page(&day(), &machine(), results, measurements, &charts))
}

/// Returns today's date.
pub(crate) fn day() -> String {
    jiff::Zoned::now().date().to_string()
}

/// Draws the bars whose measurements exist. Returns `None` if none does.
fn chart(title: &str, bars: &[(&'static str, &'static str)], measurements: &Measurements) -> Option<String> {
    let unit = bars.iter().find_map(|(_, name)| measurements.get(*name)).map(|found| found.unit.clone())?;
    let row = |(label, name): &(&'static str, &'static str)| {
        let Measurement { median, low, high, .. } = measurements.get(*name)?;
        Some(Row { label, value: *median, low: *low, high: *high })
    };
    let rows: Vec<_> = bars.iter().filter_map(row).collect();
    Some(bar_chart::draw(title, &unit, &rows))
}

/// Describes the kernel and the processors of this machine, and the mitigations in force: what a helper call costs
/// differs fivefold between processors with them and without.
pub(crate) fn machine() -> String {
    let kernel = rustix::system::uname();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let files = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().filter_map(Result::ok);
    let vulnerabilities = files.filter_map(|file| {
        Some((file.file_name().into_string().ok()?, fs::read_to_string(file.path()).ok()?.trim().to_owned()))
    });
    format!(
        "Linux {}, {count} processors ({}); mitigations: {}",
        kernel.release().to_string_lossy(),
        model.unwrap_or("unknown model"),
        mitigations(vulnerabilities.collect())
    )
}

/// Lists vulnerabilities that this processor has, each with what the kernel does about it.
fn mitigations(mut vulnerabilities: Vec<(String, String)>) -> String {
    vulnerabilities.retain(|(_, state)| state != "Not affected");
    vulnerabilities.sort();
    let known = vulnerabilities
        .iter()
        .map(|(name, state)| format!("{name} ({})", state.strip_prefix("Mitigation: ").unwrap_or(state)));
    let known: Vec<_> = known.collect();
    if known.is_empty() { "none known".to_owned() } else { known.join(", ") }
}

fn page(
    day: &str,
    machine: &str,
    results: &[ThresholdResult],
    measurements: &Measurements,
    charts: &[(&str, &str)],
) -> String {
    let mut text = format!(
        "# Performance\n\nWritten by `cargo xtask bench --document` on {day}: {machine}. Do not edit.\n\n\
         ## Thresholds\n\n| threshold | measured | limit | |\n| --- | --- | --- | --- |\n"
    );
    // Writing to a string cannot fail.
    for ThresholdResult { name, value, limit, verdict } in results {
        let verdict = match verdict {
            Verdict::Ok => String::new(),
            Verdict::Exceeded => "**exceeded**".to_owned(),
            Verdict::Skipped(reason) => format!("skipped: {reason}"),
        };
        let number = |number: &Option<f64>| number.map_or_else(String::new, round);
        let _ = writeln!(text, "| {name} | {} | {} | {verdict} |", number(value), number(limit));
    }
    text.push('\n');
    for (file, title) in charts {
        let _ = writeln!(text, "![{title}]({file})\n");
    }
    let _ = write!(text, "{METHOD}\n{PEERS}\n{EXPERIMENTS}\n## All measurements\n");
    let mut part = "";
    for measurement in measurements.values() {
        let (its_part, name) = measurement.name.split_once('/').unwrap_or(("", &measurement.name));
        if its_part != part {
            part = its_part;
            let head = "| measurement | median | quartiles | unit |\n| --- | --- | --- | --- |\n";
            let _ = write!(text, "\n### {part}\n\n{head}");
        }
        let Measurement { median, unit, .. } = measurement;
        let _ = writeln!(text, "| {name} | {} | {} | {unit} |", round(*median), measurement.quartiles());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(name: &str, median: f64) -> (String, Measurement) {
        let (low, high) = (median - 1.0, median + 1.0);
        (name.to_owned(), Measurement { name: name.to_owned(), unit: "ns".to_owned(), median, low, high, rounds: 3 })
    }

    #[test]
    fn page_marks_exceeded_thresholds_and_lists_all_measurements() {
        let measurements =
            Measurements::from([measurement("hook/owned/bind", 60.0), measurement("claim-latency/x", 5.0)]);
        let results = [
            ThresholdResult { name: "a", value: Some(1.0), limit: Some(2.0), verdict: Verdict::Ok },
            ThresholdResult { name: "b", value: Some(3.0), limit: Some(2.0), verdict: Verdict::Exceeded },
            ThresholdResult { name: "c", value: None, limit: None, verdict: Verdict::Skipped("no clang") },
        ];
        let text = page("2026-11-25", "Linux", &results, &measurements, &[("p.svg", "P")]);
        for line in [
            "| a | 1.00 | 2.00 |  |",
            "| b | 3.00 | 2.00 | **exceeded** |",
            "| c |  |  | skipped: no clang |",
            "![P](p.svg)",
            "### claim-latency",
            "| owned/bind | 60.0 | 59.0 to 61.0 | ns |",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
    }

    #[test]
    fn mitigations_leave_out_what_the_processor_does_not_have() {
        let states =
            [("spectre_v2", "Mitigation: Retpolines; STIBP: disabled"), ("mds", "Not affected"), ("a", "Vulnerable")];
        let states = states.map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(mitigations(states.into()), "a (Vulnerable), spectre_v2 (Retpolines; STIBP: disabled)");
        assert_eq!(mitigations(Vec::new()), "none known");
    }

    #[test]
    fn chart_shows_only_bars_with_a_measurement() {
        let measurements = Measurements::from([measurement("x", 60.0)]);
        let svg = chart("T", &[("seen", "x"), ("unseen", "y")], &measurements).unwrap();
        assert!(svg.contains(">seen<") && !svg.contains("unseen"));
        assert!(chart("T", &[("unseen", "y")], &measurements).is_none());
    }
}
