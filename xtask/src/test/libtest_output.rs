//! Parser for the output of test executables, both of libtest and of libtest-mimic.

use std::mem;

/// A test that did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) name: String,
    /// `None` if the harness prints none.
    pub(crate) reason: Option<String>,
}

/// Sums of the numbers in closing lines: `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

/// Results of a test executable. The counts are those of the closing lines. There can be fewer names, if a test wrote
/// into the middle of a line of the harness.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestReport {
    /// Number of closing lines; doc tests print several.
    pub(crate) closing_lines: usize,
    pub(crate) counts: TestCounts,
    pub(crate) failures: Vec<String>,
    pub(crate) skips: Vec<Skip>,
}

impl TestReport {
    /// Adds another report to this one.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        let Self { closing_lines, counts, failures, skips } = other;
        self.closing_lines += closing_lines;
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.ignored += counts.ignored;
        self.failures.extend(failures);
        self.skips.extend(skips);
        self
    }
}

/// Parser for output that arrives in pieces of any size.
#[derive(Debug, Default)]
pub(crate) struct OutputParser {
    line: Vec<u8>,
    report: TestReport,
    /// Lines below the latest `failures:`. They are names if a closing line follows: the harness prints `failures:` above
    /// the output of failed tests, and again above their names.
    candidates: Option<Vec<String>>,
}

impl OutputParser {
    /// Parses the next piece of output.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = mem::take(&mut self.line);
                self.parse_line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
    }

    /// Parses the rest as a line, and returns the results.
    pub(crate) fn finish(mut self) -> TestReport {
        let line = mem::take(&mut self.line);
        self.parse_line(&String::from_utf8_lossy(&line));
        self.report
    }

    fn parse_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(counts) = parse_closing_line(line) {
            self.report.closing_lines += 1;
            self.report.counts.passed += counts.passed;
            self.report.counts.failed += counts.failed;
            self.report.counts.ignored += counts.ignored;
            self.report.failures.extend(self.candidates.take().unwrap_or_default());
        } else if line == "failures:" {
            self.candidates = Some(Vec::new());
        } else if let Some(candidates) = &mut self.candidates {
            candidates.extend(line.strip_prefix("    ").map(|name| name.trim().to_owned()));
        } else if let Some(skip) = parse_ignored_line(line) {
            self.report.skips.push(skip);
        }
    }
}

/// Parses the numbers of a closing line.
fn parse_closing_line(line: &str) -> Option<TestCounts> {
    let result = line.strip_prefix("test result: ")?;
    let numbers = result.strip_prefix("ok. ").or_else(|| result.strip_prefix("FAILED. "))?;
    let (mut passed, mut failed, mut ignored) = (None, None, None);
    for item in numbers.split("; ") {
        let Some((number, label)) = item.split_once(' ') else { continue };
        match label {
            "passed" => passed = number.parse().ok(),
            "failed" => failed = number.parse().ok(),
            "ignored" => ignored = number.parse().ok(),
            _ => {}
        }
    }
    Some(TestCounts { passed: passed?, failed: failed?, ignored: ignored? })
}

/// Parses `test NAME ... ignored`, followed by `, REASON` (libtest) or ` (REASON)` (libtest-mimic) or nothing.
fn parse_ignored_line(line: &str) -> Option<Skip> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let reason = match outcome.strip_prefix("ignored")? {
        "" => None,
        rest => {
            let reason = rest.strip_prefix(',').or_else(|| rest.strip_prefix(" (")?.strip_suffix(')'))?;
            Some(reason.trim().to_owned())
        }
    };
    Some(Skip { name: name.trim().to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(output: &str) -> TestReport {
        let mut parser = OutputParser::default();
        parser.feed(output.as_bytes());
        parser.finish()
    }

    #[test]
    fn closing_line_contains_the_counts() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s";
        assert_eq!(parse_closing_line(line), Some(TestCounts { passed: 12, failed: 0, ignored: 1 }));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.00s";
        assert_eq!(parse_closing_line(line), Some(TestCounts { passed: 1, failed: 2, ignored: 0 }));
    }

    #[test]
    fn similar_lines_are_no_closing_lines() {
        for line in [
            "",
            "test result",
            "test result: ok",
            "test result: ok. ",
            "test result: ok. 1 passed; 0 failed",
            "test result: ok. many passed; 0 failed; 0 ignored",
            "test result: perhaps. 1 passed; 0 failed; 0 ignored",
            "the test result: ok. 1 passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(parse_closing_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn ignored_test_has_a_name_and_a_reason() {
        let report = parse(
            "\nrunning 3 tests\n\
             test a::fast ... ok\n\
             test a::slow ... ignored\n\
             test b::old ... ignored, needs Linux 6.1, this is 5.10\n\n\
             test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n",
        );
        assert_eq!(report.closing_lines, 1);
        assert_eq!(report.counts, TestCounts { passed: 1, failed: 0, ignored: 2 });
        let skips = [
            Skip { name: "a::slow".into(), reason: None },
            Skip { name: "b::old".into(), reason: Some("needs Linux 6.1, this is 5.10".into()) },
        ];
        assert_eq!(report.skips, skips);
    }

    #[test]
    fn failed_tests_are_named_without_their_output() {
        let report = parse(
            "test a ... FAILED\n\
             test b ... some output of btest c ... ok\n\n\
             failures:\n\n\
             ---- a stdout ----\n    indented output\ntest x ... ignored\n\n\
             failures:\n    a\n    b\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(report.failures, ["a", "b"]);
        assert_eq!(report.skips, []);
        assert_eq!(report.counts, TestCounts { passed: 1, failed: 2, ignored: 0 });
    }

    #[test]
    fn padded_names_and_reasons_of_libtest_mimic_are_parsed() {
        let report = parse(
            "test [kernel] bind4 ... ok\ntest [kernel] v6    ... ignored\ntest [kernel] vm    ... ignored (no (nested) VM)\n",
        );
        let skips = [
            Skip { name: "[kernel] v6".into(), reason: None },
            Skip { name: "[kernel] vm".into(), reason: Some("no (nested) VM".into()) },
        ];
        assert_eq!(report.skips, skips);
        assert_eq!(report.closing_lines, 0, "the output ends before the closing line");
    }

    #[test]
    fn counts_of_several_closing_lines_add_up() {
        let line = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        let report = parse(&format!("{line}\n{line}all doctests ran in 0.2s\n{line}"));
        assert_eq!(report.closing_lines, 3);
        assert_eq!(report.counts, TestCounts { passed: 6, failed: 0, ignored: 3 });
    }

    #[test]
    fn pieces_of_any_size_give_the_same_report() {
        let output = "test é ... ignored, é\nfailures:\n\nfailures:\n    ü\n\n\
                      test result: FAILED. 0 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out";
        for size in 1..output.len() {
            let mut parser = OutputParser::default();
            output.as_bytes().chunks(size).for_each(|piece| parser.feed(piece));
            assert_eq!(parser.finish(), parse(output), "in pieces of {size} bytes");
        }
        assert_eq!(parse(output).failures, ["ü"]);
    }
}
