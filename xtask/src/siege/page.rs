//! Writer of `docs/reliability.md`, which contains only figures of a run.

use std::fmt::Write as _;
use std::time::Duration;

use super::PartRun;
use super::parts::{Expected, Limit};

/// Renders the page.
pub(super) fn render(day: &str, machine: &str, quick: bool, runs: &[PartRun]) -> String {
    let command = if quick { "cargo xtask siege --quick" } else { "cargo xtask siege --document" };
    let mut text = format!("# Reliability\n\nWritten by `{command}` on {day}: {machine}. Do not edit.\n\n");
    if quick {
        text.push_str("**Short forms: these are not the figures of a siege.**\n\n");
    }
    text.push_str(
        "Each figure was printed by a test of this run. A test that fails, a figure that is missing, and one outside of its\n\
         limit would have failed the run, and this page would not have been written.\n",
    );
    for PartRun { part, tests, figures, expected, duration } in runs {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| figure | | limit |\n| --- | --- | --- |\n",
            part.title(),
            part.description()
        );
        for Expected { name, text: words, limit } in expected {
            // A number of any size is a name, such as a seed.
            let format = |value: u64| if matches!(limit, Limit::Any) { value.to_string() } else { thousands(value) };
            let value = figures.get(&part.figure(name)).map_or_else(String::new, format);
            let _ = writeln!(text, "| {words} | {value} | {} |", limit.words(thousands));
        }
        let tests: Vec<String> = tests.iter().map(|test| format!("`{}`", test.name)).collect();
        let _ = writeln!(text, "\n{} in {}: {}.", part.name(), minutes(*duration), tests.join(", "));
    }
    text
}

/// Formats a number with a comma between thousands.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::parse_all;
    use super::super::parts::Part;
    use super::*;

    #[test]
    fn page_has_a_row_for_each_figure() {
        let figures = "figure races.kinds 7\nfigure races.rounds 1400000\nfigure races.one_holder 1400000\n\
                       figure races.two_holders 0\nfigure races.no_holder 0\n";
        let run = PartRun {
            part: Part::Races,
            tests: Part::Races.tests(false),
            figures: parse_all(figures).unwrap(),
            expected: Part::Races.expected(false),
            duration: Duration::from_secs(601),
        };
        let text = render("2026-11-30", "Linux 6.1", false, &[run]);
        for line in [
            "Written by `cargo xtask siege --document` on 2026-11-30: Linux 6.1. Do not edit.",
            "## Races",
            "| kinds of sockets | 7 | 7 |",
            "| races | 1,400,000 | ≥ 700,000 |",
            "| races with one holder | 1,400,000 | all |",
            "| races with two | 0 | 0 |",
            "races in 10 min: `socket_holds::one_of_two_racing_pods_holds_port`.",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
        assert!(!text.contains("Short forms"));
        assert!(render("", "", true, &[]).contains("Short forms"));
    }

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 999, 1000, 12_345, 123_456, 1_234_567];
        assert_eq!(numbers.map(thousands), ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
        assert_eq!(
            [59, 119, 120, 1830].map(|seconds| minutes(Duration::from_secs(seconds))),
            ["59 s", "119 s", "2 min", "31 min"]
        );
    }
}
