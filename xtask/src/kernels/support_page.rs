//! Writer of `docs/kernel-support.md`, which contains only results of a run.

use std::fmt::Write as _;

use super::KernelRun;
use super::console_outcome::{ConsoleOutcome, Feature};

/// Distributions whose kernels were not tested, with the versions that are expected to behave alike.
const EXPECTED: [(&str, &str); 3] =
    [("RHEL 9 and its relatives", "5.14 with many backports"), ("Ubuntu 22.04", "5.15"), ("Ubuntu 24.04", "6.8")];

/// Renders the page.
pub(super) fn render(runs: &[KernelRun]) -> String {
    let day = jiff::Zoned::now().date().to_string();
    let columns: Vec<_> = runs.iter().map(|run| (run.image.name.as_str(), &run.outcome)).collect();
    render_columns(&day, &columns)
}

fn render_columns(day: &str, columns: &[(&str, &ConsoleOutcome)]) -> String {
    let mut text = format!(
        "# Kernels\n\n\
         Written by `cargo xtask kernels --document` on {day}. In a virtual machine, each kernel ran the tests of\n\
         `enforcer/tests/kernel` and the agent's tests of `--scope node`, all with the same BPF object file. Do not edit.\n\n"
    );
    row(&mut text, "", "since", columns.iter().map(|(name, _)| (*name).to_owned()));
    row(&mut text, "---", "---", columns.iter().map(|_| "---".to_owned()));
    row(&mut text, "**tests**", "", columns.iter().map(|(_, outcome)| outcome.verdict().word().to_owned()));
    row(&mut text, "", "", columns.iter().map(|(_, outcome)| outcome.counts()));
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
        row(&mut text, name, since, columns.iter().map(|(_, outcome)| answer(outcome)));
    }
    text.push_str("\n`enforcer probe` describes the effect of each missing feature.\n\n## Skipped\n\n");
    let mut skips =
        columns.iter().flat_map(|(name, outcome)| outcome.skips().into_iter().map(move |skip| (name, skip)));
    let first = skips.next();
    if first.is_none() {
        text.push_str("Nothing.\n");
    }
    for (name, skip) in first.into_iter().chain(skips) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "- {name}: `{skip}`");
    }
    text.push_str("\n## Expected\n\nNot tested. These kernels should have the features of their versions:\n\n");
    for (name, version) in EXPECTED {
        let _ = writeln!(text, "- {name} ({version})");
    }
    text
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
        let text = render_columns("2026-11-23", &[("5.10", &old), ("6.1", &new)]);
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
        assert!(text.contains("on 2026-11-23"));
    }
}
