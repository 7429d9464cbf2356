//! `docs/kernel-support.md`: what a run showed, and nothing else.

use std::fmt::Write as _;

use super::Run;
use super::console_outcome::{Feature, Outcome};

/// Kernels of distributions that are not among the packages, by whose versions they are expected to behave.
const EXPECTED: [(&str, &str); 3] =
    [("RHEL 9 and its relatives", "5.14, with much ported back"), ("Ubuntu 22.04", "5.15"), ("Ubuntu 24.04", "6.8")];

/// The whole file.
pub(super) fn render(runs: &[Run]) -> String {
    let day = jiff::Zoned::now().date().to_string();
    let columns: Vec<_> = runs.iter().map(|run| (run.image.name.as_str(), &run.outcome)).collect();
    write(&day, &columns)
}

fn write(day: &str, columns: &[(&str, &Outcome)]) -> String {
    let mut text = format!(
        "# Kernels\n\n\
         Written by `cargo xtask kernels --document` on {day}: each kernel booted in a virtual machine, where the tests of\n\
         `enforcer/tests/kernel` ran, and of the agent's those of `--scope node`, with one and the same BPF object. Do not edit.\n\n"
    );
    row(&mut text, "", "since", columns.iter().map(|(name, _)| (*name).to_owned()));
    row(&mut text, "---", "---", columns.iter().map(|_| "---".to_owned()));
    row(&mut text, "**tests**", "", columns.iter().map(|(_, outcome)| outcome.verdict().word().to_owned()));
    row(&mut text, "", "", columns.iter().map(|(_, outcome)| outcome.counts()));
    let mut seen: Vec<&Feature> = Vec::new();
    for feature in columns.iter().flat_map(|(_, outcome)| outcome.features()) {
        if !seen.iter().any(|known| known.name == feature.name) {
            seen.push(feature);
        }
    }
    for Feature { name, since, .. } in seen {
        let answer = |outcome: &Outcome| {
            let known = outcome.features().iter().find(|feature| feature.name == *name);
            known.map_or_else(String::new, |feature| feature.answer.clone())
        };
        row(&mut text, name, since, columns.iter().map(|(_, outcome)| answer(outcome)));
    }
    text.push_str("\nWhat each feature means where it is missing, `enforcer probe` says.\n\n## Skipped\n\n");
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
    text.push_str("\n## Expected\n\nNobody tried these; what their versions have, they should have:\n\n");
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
    use super::super::console_outcome::tests::{GOOD, outcome};
    use super::*;

    #[test]
    fn every_kernel_has_its_column() {
        let old = outcome(GOOD);
        let new = outcome(&GOOD.replace(r#""answer":"no""#, r#""answer":"yes""#).replace("ended well", "ended badly"));
        let text = write("2026-11-23", &[("5.10", &old), ("6.1", &new)]);
        for line in [
            "|  | since | 5.10 | 6.1 |",
            "| **tests** |  | passed | FAILED |",
            "| rings | 5.8 | yes | yes |",
            "| errno | 6.1 | no | yes |",
            "- 5.10: `b (needs MPTCP)`",
            "- Ubuntu 22.04 (5.15)",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\n{text}");
        }
        assert!(text.contains("on 2026-11-23"));
    }
}
