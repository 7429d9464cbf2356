//! Writer of `docs/kernel-support.md`, which contains only results of runs: a part for each architecture, which a run on
//! that architecture replaces.

use std::fmt::Write as _;

use super::KernelRun;
use super::console_outcome::{ConsoleOutcome, Feature};
use crate::arch::Arch;

/// Distributions whose kernels were not tested, with the versions that are expected to behave alike.
const EXPECTED: [(&str, &str); 3] =
    [("RHEL 9 and its relatives", "5.14 with many backports"), ("Ubuntu 22.04", "5.15"), ("Ubuntu 24.04", "6.8")];

/// Text above the parts.
const HEAD: &str = "\
# Kernels

Written by `cargo xtask kernels --document`, and with `--arch arm64`. In a virtual machine, each kernel ran the tests of
`enforcer/tests/kernel` and the agent's tests of `--scope node`, all with the same BPF object file. Do not edit.

`enforcer probe` describes the effect of each missing feature.
";

/// Renders the page with the results of one architecture. The parts of the others are those of the page so far.
pub(super) fn render(page: &str, arch: Arch, runs: &[KernelRun]) -> String {
    let day = jiff::Zoned::now().date().to_string();
    let columns: Vec<_> = runs.iter().map(|run| (run.image.name.as_str(), &run.outcome)).collect();
    render_columns(page, arch, &day, &columns)
}

fn render_columns(page: &str, arch: Arch, day: &str, columns: &[(&str, &ConsoleOutcome)]) -> String {
    let mut text = HEAD.to_owned();
    for part in Arch::ALL {
        let heading = heading(part);
        if part == arch {
            text.push_str(&heading);
            push_part(&mut text, day, columns);
        } else if let Some((_, after)) = page.split_once(&heading) {
            text.push_str(&heading);
            text.push_str(after.split_once("\n## ").map_or(after, |(part, _)| part));
        }
    }
    text.push_str("\n## Expected\n\nNot tested. These kernels should have the features of their versions:\n\n");
    for (name, version) in EXPECTED {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {name} ({version})");
    }
    text
}

/// Returns the heading of an architecture's part.
fn heading(arch: Arch) -> String {
    format!("\n## {}\n\n", arch.as_str())
}

/// Appends the tables of a part.
fn push_part(text: &mut String, day: &str, columns: &[(&str, &ConsoleOutcome)]) {
    // Writing to a string cannot fail.
    let _ = write!(text, "Run on {day}.\n\n");
    row(text, "", "since", columns.iter().map(|(name, _)| (*name).to_owned()));
    row(text, "---", "---", columns.iter().map(|_| "---".to_owned()));
    row(text, "**tests**", "", columns.iter().map(|(_, outcome)| outcome.verdict().word().to_owned()));
    row(text, "", "", columns.iter().map(|(_, outcome)| outcome.counts()));
    let mut seen: Vec<&Feature> = Vec::new();
    for feature in columns.iter().flat_map(|(_, outcome)| outcome.features()) {
        if !seen.iter().any(|earlier| earlier.name == feature.name) {
            seen.push(feature);
        }
    }
    for Feature { name, since, .. } in seen {
        let answer = |outcome: &ConsoleOutcome| {
            let found = outcome.features().iter().find(|feature| feature.name == *name);
            found.map_or_else(String::new, |feature| feature.answer.clone())
        };
        row(text, name, since, columns.iter().map(|(_, outcome)| answer(outcome)));
    }
    text.push_str("\nSkipped:\n\n");
    let mut skips =
        columns.iter().flat_map(|(name, outcome)| outcome.skips().into_iter().map(move |skip| (name, skip)));
    let first = skips.next();
    if first.is_none() {
        text.push_str("- nothing\n");
    }
    for (name, skip) in first.into_iter().chain(skips) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {name}: `{skip}`");
    }
}

fn row(text: &mut String, name: &str, since: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "| {name} | {since} |");
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::console_outcome::tests::{PASSED, parse};
    use super::*;

    #[test]
    fn kernel_has_its_own_column() {
        let old = parse(PASSED);
        let new = parse(&PASSED.replace(r#""answer":"no""#, r#""answer":"yes""#).replace("ended well", "ended badly"));
        let text = render_columns("", Arch::Amd64, "2026-11-23", &[("5.10", &old), ("6.1", &new)]);
        for line in [
            "|  | since | 5.10 | 6.1 |",
            "| **tests** |  | passed | FAILED |",
            "| rings | 5.8 | yes | yes |",
            "| errno | 6.1 | no | yes |",
            "- 5.10: `b (needs MPTCP)`",
            "- Ubuntu 22.04 (5.15)",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
        assert!(text.contains("Run on 2026-11-23"));
    }

    #[test]
    fn run_replaces_the_part_of_its_architecture_alone() {
        let outcome = parse(PASSED);
        let first = render_columns("", Arch::Amd64, "2026-11-23", &[("5.10", &outcome)]);
        assert!(!first.contains("arm64\n"), "{first}");
        let both = render_columns(&first, Arch::Arm64, "2026-11-24", &[("6.1", &outcome)]);
        for part in ["\n## amd64\n\nRun on 2026-11-23", "\n## arm64\n\nRun on 2026-11-24", "\n## Expected\n"] {
            assert_eq!(both.matches(part).count(), 1, "{part}\n{both}");
        }
        let again = render_columns(&both, Arch::Amd64, "2026-11-25", &[("5.10", &outcome)]);
        assert_eq!(again, both.replace("2026-11-23", "2026-11-25"));
        assert_eq!(render_columns(&again, Arch::Arm64, "2026-11-24", &[("6.1", &outcome)]), again);
    }
}
