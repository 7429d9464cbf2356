//! What a machine's serial line says of its kernel.

use serde_json::{Value, json};

use super::virtual_machine::Console;
use crate::test::libtest_output::{Reader, Report, Skip};

/// Begins the lines of the machine's first process (`enforcer/tests/kernel/guest.rs`).
pub(super) const SAYS: &str = "port-enforcer-guest:";
/// What a kernel says that cannot go on.
pub(super) const PANIC: &str = "Kernel panic - not syncing";
/// What a kernel says that can go on and should not have come there (`WARN` in include/asm-generic/bug.h); no line of
/// another kind has it behind its time.
const WARNING: &str = "] WARNING: ";

/// A feature of the kernel as `enforcer probe` told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub(super) name: String,
    pub(super) since: String,
    /// `yes`, `no` or `unknown`.
    pub(super) answer: String,
}

/// The word on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every test that could be run passed.
    Passed,
    /// Tests failed, or the kernel warned.
    Failed,
    /// It came to no end of the tests, and how it ended.
    Died(String),
}

impl Verdict {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Died(_) => "DIED",
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Passed | Self::Failed => self.word().to_owned(),
            Self::Died(how) => format!("{}: {how}", self.word()),
        }
    }
}

/// What is known after a machine's end.
#[derive(Debug)]
pub(super) struct Outcome {
    features: Vec<Feature>,
    report: Report,
    /// How many test executables should have come to their end.
    programs: usize,
    warnings: Vec<String>,
    /// What the first process said of the tests' end.
    end: Option<String>,
    /// Why there is no such word.
    death: Option<String>,
}

impl Outcome {
    /// Reads what came out of a machine that ran so many test executables.
    pub(super) fn read(console: &Console, programs: usize) -> Self {
        let mut reader = Reader::default();
        reader.feed(console.text.as_bytes());
        let (mut features, mut end, mut death, mut warnings) = (Vec::new(), None, None, Vec::new());
        for line in console.text.lines() {
            if let Some(word) = line.strip_prefix(SAYS).map(str::trim) {
                if let Some(answer) = word.strip_prefix("probe ") {
                    features = read_features(answer).unwrap_or_default();
                } else if let Some(how) = word.strip_prefix("ended ") {
                    end = Some(how.to_owned());
                } else if word.starts_with("not ") || word.starts_with("no ") {
                    death.get_or_insert_with(|| word.to_owned());
                }
            } else if line.contains(PANIC) {
                death.get_or_insert_with(|| line.trim().to_owned());
            } else if line.contains(WARNING) {
                warnings.push(line.trim().to_owned());
            }
        }
        if console.stopped {
            death = Some("the time was up".to_owned());
        } else if end.is_none() && death.is_none() {
            death = Some("it ended without a verdict".to_owned());
        }
        Self { features, report: reader.finish(), programs, warnings, end, death }
    }

    /// This and another machine's word on one kernel.
    pub(super) fn and(self, other: Self) -> Self {
        let ended_well = |outcome: &Self| outcome.end.as_deref() == Some("well");
        Self {
            end: if ended_well(&self) { other.end } else { self.end },
            death: self.death.or(other.death),
            features: if self.features.is_empty() || other.features.is_empty() { Vec::new() } else { self.features },
            report: self.report.and(other.report),
            programs: self.programs + other.programs,
            warnings: [self.warnings, other.warnings].concat(),
        }
    }

    /// Whether it ended by itself and said nothing of its end, not even a panic.
    pub(super) fn is_silent(&self) -> bool {
        self.end.is_none() && self.death.as_deref() == Some("it ended without a verdict")
    }

    pub(super) fn verdict(&self) -> Verdict {
        let Self { report, programs, death, end, warnings, features } = self;
        if let Some(how) = death {
            return Verdict::Died(how.clone());
        }
        let whole = report.closings == *programs && report.counts.passed > 0 && !features.is_empty();
        let clean = report.counts.failed == 0 && end.as_deref() == Some("well") && warnings.is_empty();
        if whole && clean { Verdict::Passed } else { Verdict::Failed }
    }

    /// `58 passed, 0 failed, 2 skipped`.
    pub(super) fn counts(&self) -> String {
        let counts = &self.report.counts;
        let skipped = if counts.ignored > 0 { format!(", {} skipped", counts.ignored) } else { String::new() };
        format!("{} passed, {} failed{skipped}", counts.passed, counts.failed)
    }

    /// What failed, by name.
    pub(super) fn failures(&self) -> Vec<String> {
        let warnings = self.warnings.iter().map(|warning| format!("the kernel warned: {warning}"));
        let mut failures: Vec<_> = self.report.failures.iter().cloned().chain(warnings).collect();
        if failures.is_empty() && self.verdict() == Verdict::Failed {
            failures.push(match () {
                () if self.report.counts.passed == 0 => "no test passed".to_owned(),
                () if self.report.closings != self.programs => "a test executable came to no end".to_owned(),
                () if self.features.is_empty() => "enforcer probe told nothing that can be read".to_owned(),
                () => format!("the tests ended {}", self.end.as_deref().unwrap_or("without a word")),
            });
        }
        failures
    }

    /// Which tests were not run, and why.
    pub(super) fn skips(&self) -> Vec<String> {
        let reason = |skip: &Skip| skip.reason.clone().unwrap_or_else(|| "no reason given".to_owned());
        self.report.skips.iter().map(|skip| format!("{} ({})", skip.name, reason(skip))).collect()
    }

    pub(super) fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Names of the features that this kernel has not.
    pub(super) fn lacking(&self) -> Vec<&str> {
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
            "death": if let Verdict::Died(how) = &verdict { Some(how) } else { None },
            "passed": self.report.counts.passed,
            "failed": self.report.counts.failed,
            "skipped": self.report.counts.ignored,
            "failures": self.failures(),
            "skips": self.skips(),
            "features": features,
        })
    }
}

/// The features in what `enforcer probe -o json` prints.
fn read_features(answer: &str) -> Option<Vec<Feature>> {
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

    pub(in crate::kernels) const GOOD: &str = r#"port-enforcer-guest: kernel 5.10.0-46-cloud-amd64
port-enforcer-guest: probe {"features":[{"name":"rings","since":"5.8","answer":"yes"},{"name":"errno","since":"6.1","answer":"no"}]}
test a ... ok
test b ... ignored (needs MPTCP)
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.00s
port-enforcer-guest: ended well
[    4.2] reboot: Power down
"#;

    pub(in crate::kernels) fn outcome(text: &str) -> Outcome {
        Outcome::read(&Console { text: text.to_owned(), stopped: false }, 1)
    }

    #[test]
    fn a_kernel_that_passed() {
        let outcome = outcome(GOOD);
        assert_eq!(outcome.verdict(), Verdict::Passed);
        assert_eq!(outcome.counts(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(outcome.skips(), ["b (needs MPTCP)"]);
        assert_eq!((outcome.lacking(), outcome.failures().len()), (vec!["errno"], 0));
    }

    #[test]
    fn whatever_is_not_all_right_is_no_pass() {
        for (was, is, verdict) in [
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
            let text = GOOD.replace(was, is);
            assert_ne!(text, GOOD);
            let outcome = outcome(&text);
            assert_eq!(outcome.verdict().word(), verdict, "{is}");
            assert!(verdict == "DIED" || !outcome.failures().is_empty(), "{is}: what failed is named");
        }
        let outcome = Outcome::read(&Console { text: GOOD.to_owned(), stopped: true }, 1);
        assert_eq!(outcome.verdict(), Verdict::Died("the time was up".to_owned()));
    }

    #[test]
    fn of_two_machines_the_worse_one_counts() {
        let whole = outcome(GOOD).and(outcome(GOOD));
        assert_eq!((whole.verdict(), whole.counts().as_str()), (Verdict::Passed, "2 passed, 0 failed, 2 skipped"));
        for (was, is) in [
            ("ended well", "ended badly: /init with code 101"),
            ("port-enforcer-guest: ended well", ""),
            ("test result: ok.", "test res"),
            ("port-enforcer-guest: probe", "port-enforcer-guest: never:"),
            ("test a ... ok", "[    3.1] WARNING: CPU: 0 PID: 70 at kernel/bpf/verifier.c:1"),
        ] {
            let bad = || outcome(&GOOD.replace(was, is));
            assert_ne!(bad().verdict(), Verdict::Passed, "{is}");
            assert_eq!(outcome(GOOD).and(bad()).verdict(), bad().verdict(), "{is}");
            assert_eq!(bad().and(outcome(GOOD)).verdict(), bad().verdict(), "{is}");
        }
    }

    #[test]
    fn only_a_machine_that_says_nothing_of_its_end_is_silent() {
        assert!(outcome("").is_silent());
        assert!(outcome("qemu-system-x86_64: error: failed to set MSR").is_silent());
        assert!(!outcome(GOOD).is_silent());
        assert!(!outcome("[ 9.0] Kernel panic - not syncing: Fatal exception").is_silent());
        assert!(!Outcome::read(&Console { text: String::new(), stopped: true }, 1).is_silent());
    }
}
