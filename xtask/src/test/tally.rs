//! Counts of `cargo xtask test`, with the names of failed and skipped tests.

use std::process::ExitStatus;

use super::libtest_output::{Skip, TestReport};

/// Numbers of tests by result.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Totals and names so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    totals: Totals,
    failures: Vec<String>,
    skips: Vec<Skip>,
}

impl Totals {
    /// Returns the verdict on the tests between `before` and now.
    pub(super) fn verdict_since(self, before: Self) -> &'static str {
        if self.failed > before.failed {
            "FAILED"
        } else if self.passed == before.passed && self.skipped > before.skipped {
            "SKIPPED"
        } else {
            "passed"
        }
    }
}

impl Tally {
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn has_failures(&self) -> bool {
        self.totals.failed > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, name: &str) {
        self.totals.failed += 1;
        self.failures.push(name.to_owned());
    }

    /// Counts a step as one test.
    pub(super) fn add_check(&mut self, name: &str, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.totals.passed += 1,
            Err(error) => {
                println!("error: {error:#}");
                self.fail(name);
            }
        }
    }

    /// Runs a step that is one test, or skips it if there is an obstacle.
    pub(super) fn check_or_skip(
        &mut self,
        name: &str,
        obstacle: Option<String>,
        check: impl FnOnce() -> anyhow::Result<()>,
    ) {
        if let Some(reason) = obstacle {
            println!("skipped: {reason}");
            self.totals.skipped += 1;
            self.skips.push(Skip { name: name.to_owned(), reason: Some(reason) });
        } else {
            self.add_check(name, check());
        }
    }

    /// Counts each fuzz target as one test. The bool is true if there was no finding.
    pub(super) fn add_fuzz_targets(&mut self, results: Vec<(String, bool)>) {
        for (target, clean) in results {
            if clean {
                self.totals.passed += 1;
            } else {
                self.fail(&format!("fuzz: {target}"));
            }
        }
    }

    /// Adds the report and the exit status of a test executable.
    pub(super) fn add_report(&mut self, name: &str, report: TestReport, status: ExitStatus) {
        let TestReport { closing_lines, counts, failures, skips } = report;
        self.totals.passed += counts.passed;
        self.totals.failed += counts.failed;
        self.totals.skipped += counts.ignored;

        let unnamed = |total: usize, named: usize| total.saturating_sub(named);
        let nameless = unnamed(counts.failed, failures.len());
        self.failures.extend(failures.into_iter().map(|failure| format!("{name}: {failure}")));
        self.failures.extend((0..nameless).map(|_| format!("{name}: a test whose name was not printed")));
        let nameless = unnamed(counts.ignored, skips.len());
        self.skips.extend(skips.into_iter().map(|skip| Skip { name: format!("{name}: {}", skip.name), ..skip }));
        let skip = Skip { name: format!("{name}: a test whose name was not printed"), reason: None };
        self.skips.extend((0..nameless).map(|_| skip.clone()));

        if closing_lines == 0 {
            self.fail(&format!("{name}: ended without a test result ({status})"));
        } else if !status.success() && counts.failed == 0 {
            self.fail(&format!("{name}: no test failed, but it ended with {status}"));
        }
    }

    /// Prints skipped and failed tests by name, then the closing line.
    pub(super) fn print(&self) {
        println!();
        if !self.skips.is_empty() {
            println!("skipped:");
            for Skip { name, reason } in &self.skips {
                println!("    {name} ({})", reason.as_deref().unwrap_or("no reason given"));
            }
        }
        if !self.failures.is_empty() {
            println!("failed:");
            for name in &self.failures {
                println!("    {name}");
            }
        }
        println!("{}", self.closing_line());
    }

    fn closing_line(&self) -> String {
        let Totals { passed, failed, skipped } = self.totals;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            skipped => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use anyhow::bail;

    use super::super::libtest_output::TestCounts;
    use super::*;

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    fn report(passed: usize, failed: usize, ignored: usize) -> TestReport {
        TestReport { closing_lines: 1, counts: TestCounts { passed, failed, ignored }, ..TestReport::default() }
    }

    #[test]
    fn closing_line_counts_skips_only_if_there_are_any() {
        let mut tally = Tally::default();
        tally.add_report("a", report(3, 0, 0), exit(0));
        assert_eq!(tally.closing_line(), "3 passed, 0 failed");
        tally.add_report("b", report(2, 1, 4), exit(101));
        assert_eq!(tally.closing_line(), "5 passed, 1 failed, 4 skipped");
        assert_eq!(tally.failures, ["b: a test whose name was not printed"]);
        assert_eq!(tally.skips.len(), 4);
    }

    #[test]
    fn executable_without_a_clean_end_is_a_failure() {
        let mut tally = Tally::default();
        tally.add_report("silent", TestReport::default(), exit(0));
        tally.add_report("liar", report(1, 0, 0), exit(1));
        tally.add_report("aborted", TestReport::default(), ExitStatus::from_raw(6));
        assert_eq!(tally.totals, Totals { passed: 1, failed: 3, skipped: 0 });
        assert!(tally.failures[0].starts_with("silent: ended without a test result"), "{:?}", tally.failures);
        assert!(tally.failures[1].starts_with("liar: no test failed, but it ended with"), "{:?}", tally.failures);
        assert!(tally.failures[2].contains("signal: 6"), "{:?}", tally.failures);
    }

    #[test]
    fn fuzz_target_counts_as_a_test() {
        let mut tally = Tally::default();
        tally.add_fuzz_targets(vec![("ring".into(), true), ("text".into(), false), ("pod".into(), true)]);
        assert_eq!(tally.closing_line(), "2 passed, 1 failed");
        assert_eq!(tally.failures, ["fuzz: text"]);
    }

    #[test]
    fn check_with_an_obstacle_is_skipped_by_name() {
        let mut tally = Tally::default();
        tally.check_or_skip("windows", Some("no target".into()), || unreachable!("there is an obstacle"));
        assert_eq!(tally.closing_line(), "0 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skips, [Skip { name: "windows".into(), reason: Some("no target".into()) }]);
        tally.check_or_skip("windows", None, || Ok(()));
        tally.check_or_skip("instructions", None, || bail!("too many"));
        assert_eq!(tally.closing_line(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(tally.failures, ["instructions"]);
    }

    #[test]
    fn verdict_on_a_step_ignores_earlier_steps() {
        let totals = |passed, failed, skipped| Totals { passed, failed, skipped };
        let before = totals(5, 1, 1);
        assert_eq!(totals(6, 1, 2).verdict_since(before), "passed");
        assert_eq!(totals(5, 1, 2).verdict_since(before), "SKIPPED");
        assert_eq!(totals(6, 2, 2).verdict_since(before), "FAILED");
        assert_eq!(before.verdict_since(before), "passed", "a step without tests");
    }

    #[test]
    fn names_of_tests_contain_their_executable() {
        let skips = vec![Skip { name: "s".into(), reason: Some("why".into()) }];
        let mut tally = Tally::default();
        let report = TestReport { failures: vec!["f".into()], skips, ..report(0, 1, 1) };
        tally.add_report("enforcer/kernel", report, exit(101));
        assert_eq!(tally.failures, ["enforcer/kernel: f"]);
        assert_eq!(tally.skips, [Skip { name: "enforcer/kernel: s".into(), reason: Some("why".into()) }]);
    }
}
