//! Parser for the console of a machine: test results, kernel features, warnings and the way it ended.

use serde_json::{Value, json};

use super::virtual_machine::Console;
use crate::test::libtest_output::{OutputParser, Skip, TestReport};

/// Prefix of the lines of the machine's first process (`enforcer/tests/kernel/guest.rs`).
pub(super) const GUEST_PREFIX: &str = "port-enforcer-guest:";
/// Message of a kernel panic.
pub(super) const PANIC: &str = "Kernel panic - not syncing";
/// Start of a kernel warning (`WARN` in include/asm-generic/bug.h), behind the time of the message. No other message
/// begins like this.
const WARNING: &str = "] WARNING: ";
/// Reason of the death of a machine that reports nothing.
const NO_VERDICT: &str = "it ended without a verdict";

/// A kernel feature, as `enforcer probe` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) since: String,
    /// `yes`, `no` or `unknown`.
    pub(super) answer: String,
}

/// Verdict on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every test that ran passed.
    Passed,
    /// Tests failed, or the kernel warned.
    Failed,
    /// The machine ended before the tests did, in this way.
    Died(String),
}

impl Verdict {
    /// Returns the verdict as a word.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Died(_) => "DIED",
        }
    }

    /// Returns the verdict with its reason.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Passed | Self::Failed => self.word().to_owned(),
            Self::Died(reason) => format!("{}: {reason}", self.word()),
        }
    }
}

/// Results of a machine.
#[derive(Debug)]
pub(super) struct ConsoleOutcome {
    features: Vec<Feature>,
    report: TestReport,
    /// Number of test executables that should have ended.
    programs: usize,
    warnings: Vec<String>,
    /// End of the tests, as the first process reports it: `well`, or a reason.
    end: Option<String>,
    /// Reason why the first process did not report the end.
    death: Option<String>,
}

impl ConsoleOutcome {
    /// Parses the console of a machine that ran `programs` test executables.
    pub(super) fn parse(console: &Console, programs: usize) -> Self {
        let mut parser = OutputParser::default();
        parser.feed(console.text.as_bytes());
        let (mut features, mut end, mut death, mut warnings) = (Vec::new(), None, None, Vec::new());
        for line in console.text.lines() {
            if let Some(message) = line.strip_prefix(GUEST_PREFIX).map(str::trim) {
                if let Some(answer) = message.strip_prefix("probe ") {
                    features = parse_features(answer).unwrap_or_default();
                } else if let Some(reason) = message.strip_prefix("ended ") {
                    end = Some(reason.to_owned());
                } else if message.starts_with("not ") || message.starts_with("no ") {
                    death.get_or_insert_with(|| message.to_owned());
                }
            } else if line.contains(PANIC) {
                death.get_or_insert_with(|| line.trim().to_owned());
            } else if line.contains(WARNING) {
                warnings.push(line.trim().to_owned());
            }
        }
        if console.timed_out {
            death = Some("the machine reached its time limit".to_owned());
        } else if end.is_none() && death.is_none() {
            death = Some(NO_VERDICT.to_owned());
        }
        Self { features, report: parser.finish(), programs, warnings, end, death }
    }

    /// Merges the results of two machines with the same kernel. The worse one counts.
    pub(super) fn merge(self, other: Self) -> Self {
        let ended_well = |outcome: &Self| outcome.end.as_deref() == Some("well");
        Self {
            end: if ended_well(&self) { other.end } else { self.end },
            death: self.death.or(other.death),
            features: if self.features.is_empty() || other.features.is_empty() { Vec::new() } else { self.features },
            report: self.report.merge(other.report),
            programs: self.programs + other.programs,
            warnings: [self.warnings, other.warnings].concat(),
        }
    }

    /// Returns true if the machine ended by itself, without a verdict and without a panic.
    pub(super) fn is_silent(&self) -> bool {
        self.end.is_none() && self.death.as_deref() == Some(NO_VERDICT)
    }

    /// Returns the verdict. Passed needs all test executables, at least one test, and no warning.
    pub(super) fn verdict(&self) -> Verdict {
        let Self { report, programs, death, end, warnings, features } = self;
        if let Some(reason) = death {
            return Verdict::Died(reason.clone());
        }
        let complete = report.closing_lines == *programs && report.counts.passed > 0 && !features.is_empty();
        let clean = report.counts.failed == 0 && end.as_deref() == Some("well") && warnings.is_empty();
        if complete && clean { Verdict::Passed } else { Verdict::Failed }
    }

    /// Formats the counts: `58 passed, 0 failed, 2 skipped`.
    pub(super) fn counts(&self) -> String {
        let counts = &self.report.counts;
        let skipped = if counts.ignored > 0 { format!(", {} skipped", counts.ignored) } else { String::new() };
        format!("{} passed, {} failed{skipped}", counts.passed, counts.failed)
    }

    /// Returns the names of failed tests and the kernel's warnings. If it failed without any, the reason.
    pub(super) fn failures(&self) -> Vec<String> {
        let warnings = self.warnings.iter().map(|warning| format!("kernel warning: {warning}"));
        let mut failures: Vec<_> = self.report.failures.iter().cloned().chain(warnings).collect();
        if failures.is_empty() && self.verdict() == Verdict::Failed {
            failures.push(match () {
                () if self.report.counts.passed == 0 => "no test passed".to_owned(),
                () if self.report.closing_lines != self.programs => "a test executable did not end".to_owned(),
                () if self.features.is_empty() => "the output of enforcer probe is not readable".to_owned(),
                () => format!("the tests ended {}", self.end.as_deref().unwrap_or("without a report")),
            });
        }
        failures
    }

    /// Returns the skipped tests with their reasons.
    pub(super) fn skips(&self) -> Vec<String> {
        let reason = |skip: &Skip| skip.reason.clone().unwrap_or_else(|| "no reason given".to_owned());
        self.report.skips.iter().map(|skip| format!("{} ({})", skip.name, reason(skip))).collect()
    }

    pub(super) fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Returns the names of the features that this kernel does not have.
    pub(super) fn missing_features(&self) -> Vec<&str> {
        self.features.iter().filter(|feature| feature.answer != "yes").map(|feature| feature.name.as_str()).collect()
    }

    pub(super) fn json(&self) -> Value {
        let features: Vec<_> = self
            .features
            .iter()
            .map(|Feature { name, since, answer }| json!({ "name": name, "since": since, "answer": answer }))
            .collect();
        let verdict = self.verdict();
        json!({
            "verdict": verdict.word().to_lowercase(),
            "death": if let Verdict::Died(reason) = &verdict { Some(reason) } else { None },
            "passed": self.report.counts.passed,
            "failed": self.report.counts.failed,
            "skipped": self.report.counts.ignored,
            "failures": self.failures(),
            "skips": self.skips(),
            "features": features,
        })
    }
}

/// Parses the features in the output of `enforcer probe -o json`.
fn parse_features(answer: &str) -> Option<Vec<Feature>> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    answer["features"]
        .as_array()?
        .iter()
        .map(|feature| {
            Some(Feature {
                name: text(feature, "name")?,
                since: text(feature, "since")?,
                answer: text(feature, "answer")?,
            })
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::kernels) const PASSED: &str = r#"port-enforcer-guest: kernel 5.10.0-46-cloud-amd64
port-enforcer-guest: probe {"features":[{"name":"rings","since":"5.8","answer":"yes"},{"name":"errno","since":"6.1","answer":"no"}]}
test a ... ok
test b ... ignored (needs MPTCP)
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.00s
port-enforcer-guest: ended well
[    4.2] reboot: Power down
"#;

    pub(in crate::kernels) fn parse(text: &str) -> ConsoleOutcome {
        ConsoleOutcome::parse(&Console { text: text.to_owned(), timed_out: false }, 1)
    }

    #[test]
    fn passed_kernel_has_counts_skips_and_features() {
        let outcome = parse(PASSED);
        assert_eq!(outcome.verdict(), Verdict::Passed);
        assert_eq!(outcome.counts(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(outcome.skips(), ["b (needs MPTCP)"]);
        assert_eq!((outcome.missing_features(), outcome.failures().len()), (vec!["errno"], 0));
    }

    #[test]
    fn any_defect_prevents_a_pass() {
        for (line, replacement, verdict) in [
            ("ended well", "ended badly: /init with code 101", "FAILED"),
            ("test result: ok.", "test result: ok. 1 passed; 0 failed; 0 ignored\ntest result: ok.", "FAILED"),
            ("port-enforcer-guest: ended well", "", "DIED"),
            ("port-enforcer-guest: ended well", "[ 9.0] Kernel panic - not syncing: Fatal exception", "DIED"),
            ("port-enforcer-guest: ended well", "port-enforcer-guest: not ready: no such file", "DIED"),
            ("test a ... ok", "[    3.1] WARNING: CPU: 0 PID: 70 at kernel/bpf/verifier.c:1", "FAILED"),
            ("test result: ok. 1 passed; 0 failed", "test result: FAILED. 0 passed; 1 failed", "FAILED"),
            ("test result: ok. 1 passed", "test result: ok. 0 passed", "FAILED"),
            ("test result: ok.", "test res", "FAILED"),
            ("port-enforcer-guest: probe", "port-enforcer-guest: no probe:", "DIED"),
        ] {
            let text = PASSED.replace(line, replacement);
            assert_ne!(text, PASSED);
            let outcome = parse(&text);
            assert_eq!(outcome.verdict().word(), verdict, "{replacement}");
            assert!(verdict == "DIED" || !outcome.failures().is_empty(), "{replacement}: a failure is named");
        }
        let outcome = ConsoleOutcome::parse(&Console { text: PASSED.to_owned(), timed_out: true }, 1);
        assert_eq!(outcome.verdict(), Verdict::Died("the machine reached its time limit".to_owned()));
    }

    #[test]
    fn worse_of_two_machines_counts() {
        let both = parse(PASSED).merge(parse(PASSED));
        assert_eq!((both.verdict(), both.counts().as_str()), (Verdict::Passed, "2 passed, 0 failed, 2 skipped"));
        for (line, replacement) in [
            ("ended well", "ended badly: /init with code 101"),
            ("port-enforcer-guest: ended well", ""),
            ("test result: ok.", "test res"),
            ("port-enforcer-guest: probe", "port-enforcer-guest: never:"),
            ("test a ... ok", "[    3.1] WARNING: CPU: 0 PID: 70 at kernel/bpf/verifier.c:1"),
        ] {
            let bad = || parse(&PASSED.replace(line, replacement));
            assert_ne!(bad().verdict(), Verdict::Passed, "{replacement}");
            assert_eq!(parse(PASSED).merge(bad()).verdict(), bad().verdict(), "{replacement}");
            assert_eq!(bad().merge(parse(PASSED)).verdict(), bad().verdict(), "{replacement}");
        }
    }

    #[test]
    fn machine_without_a_verdict_or_a_panic_is_silent() {
        assert!(parse("").is_silent());
        assert!(parse("qemu-system-x86_64: error: failed to set MSR").is_silent());
        assert!(!parse(PASSED).is_silent());
        assert!(!parse("[ 9.0] Kernel panic - not syncing: Fatal exception").is_silent());
        assert!(!ConsoleOutcome::parse(&Console { text: String::new(), timed_out: true }, 1).is_silent());
    }
}
