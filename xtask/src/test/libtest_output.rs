//! What the output of a test executable says, for libtest and for libtest-mimic alike.

use std::mem;

/// A test that did not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    pub(crate) name: String,
    /// As far as the harness prints one.
    pub(crate) reason: Option<String>,
}

/// The numbers of closing lines, `test result: ok. 12 passed; 0 failed; 1 ignored; …`, added up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
}

/// What a test executable reported. The counts are the closing lines' word; names can be fewer, when a test wrote
/// into the middle of the harness' own line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// How many closing lines there were; doc tests have several.
    pub(crate) closings: usize,
    pub(crate) counts: Counts,
    pub(crate) failures: Vec<String>,
    pub(crate) skips: Vec<Skip>,
}

impl Report {
    /// This and another report in one.
    pub(crate) fn and(mut self, other: Self) -> Self {
        let Self { closings, counts, failures, skips } = other;
        self.closings += closings;
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.counts.ignored += counts.ignored;
        self.failures.extend(failures);
        self.skips.extend(skips);
        self
    }
}

/// Reads output in pieces of any size, as they come out of a pipe.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    report: Report,
    /// The names below the latest `failures:`, until a closing line says that they were names. The harness prints
    /// `failures:` twice: above what the failed tests printed, and above their names.
    listed: Option<Vec<String>>,
}

impl Reader {
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = mem::take(&mut self.line);
                self.line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
    }

    pub(crate) fn finish(mut self) -> Report {
        let line = mem::take(&mut self.line);
        self.line(&String::from_utf8_lossy(&line));
        self.report
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(counts) = closing_line(line) {
            self.report.closings += 1;
            self.report.counts.passed += counts.passed;
            self.report.counts.failed += counts.failed;
            self.report.counts.ignored += counts.ignored;
            self.report.failures.extend(self.listed.take().unwrap_or_default());
        } else if line == "failures:" {
            self.listed = Some(Vec::new());
        } else if let Some(listed) = &mut self.listed {
            listed.extend(line.strip_prefix("    ").map(|name| name.trim().to_owned()));
        } else if let Some(skip) = ignored_line(line) {
            self.report.skips.push(skip);
        }
    }
}

/// The numbers of a closing line.
pub(crate) fn closing_line(line: &str) -> Option<Counts> {
    let result = line.strip_prefix("test result: ")?;
    let numbers = result.strip_prefix("ok. ").or_else(|| result.strip_prefix("FAILED. "))?;
    let (mut passed, mut failed, mut ignored) = (None, None, None);
    for item in numbers.split("; ") {
        let Some((number, what)) = item.split_once(' ') else { continue };
        match what {
            "passed" => passed = number.parse().ok(),
            "failed" => failed = number.parse().ok(),
            "ignored" => ignored = number.parse().ok(),
            _ => {}
        }
    }
    Some(Counts { passed: passed?, failed: failed?, ignored: ignored? })
}

/// `test NAME ... ignored`, with `, REASON` (libtest) or ` (REASON)` (libtest-mimic) behind it.
fn ignored_line(line: &str) -> Option<Skip> {
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

    fn read(output: &str) -> Report {
        let mut reader = Reader::default();
        reader.feed(output.as_bytes());
        reader.finish()
    }

    #[test]
    fn closing_lines_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s";
        assert_eq!(closing_line(line), Some(Counts { passed: 12, failed: 0, ignored: 1 }));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.00s";
        assert_eq!(closing_line(line), Some(Counts { passed: 1, failed: 2, ignored: 0 }));
    }

    #[test]
    fn other_lines_are_no_closing_lines() {
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
            assert_eq!(closing_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn ignored_tests_are_named_with_their_reason() {
        let report = read(
            "\nrunning 3 tests\n\
             test a::fast ... ok\n\
             test a::slow ... ignored\n\
             test b::old ... ignored, needs Linux 6.1, this is 5.10\n\n\
             test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n",
        );
        assert_eq!(report.closings, 1);
        assert_eq!(report.counts, Counts { passed: 1, failed: 0, ignored: 2 });
        let skips = [
            Skip { name: "a::slow".into(), reason: None },
            Skip { name: "b::old".into(), reason: Some("needs Linux 6.1, this is 5.10".into()) },
        ];
        assert_eq!(report.skips, skips);
    }

    #[test]
    fn failed_tests_are_named_and_their_output_is_not() {
        let report = read(
            "test a ... FAILED\n\
             test b ... some output of btest c ... ok\n\n\
             failures:\n\n\
             ---- a stdout ----\n    indented output\ntest x ... ignored\n\n\
             failures:\n    a\n    b\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert_eq!(report.failures, ["a", "b"]);
        assert_eq!(report.skips, []);
        assert_eq!(report.counts, Counts { passed: 1, failed: 2, ignored: 0 });
    }

    #[test]
    fn libtest_mimic_pads_names_and_brackets_reasons() {
        let report = read(
            "test [kernel] bind4 ... ok\ntest [kernel] v6    ... ignored\ntest [kernel] vm    ... ignored (no (nested) VM)\n",
        );
        let skips = [
            Skip { name: "[kernel] v6".into(), reason: None },
            Skip { name: "[kernel] vm".into(), reason: Some("no (nested) VM".into()) },
        ];
        assert_eq!(report.skips, skips);
        assert_eq!(report.closings, 0, "it ended before its closing line");
    }

    #[test]
    fn closing_lines_of_doc_tests_add_up() {
        let line = "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n";
        let report = read(&format!("{line}\n{line}all doctests ran in 0.2s\n{line}"));
        assert_eq!(report.closings, 3);
        assert_eq!(report.counts, Counts { passed: 6, failed: 0, ignored: 3 });
    }

    #[test]
    fn output_may_come_in_any_pieces() {
        let output = "test é ... ignored, é\nfailures:\n\nfailures:\n    ü\n\n\
                      test result: FAILED. 0 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out";
        for size in 1..output.len() {
            let mut reader = Reader::default();
            output.as_bytes().chunks(size).for_each(|piece| reader.feed(piece));
            assert_eq!(reader.finish(), read(output), "in pieces of {size} bytes");
        }
        assert_eq!(read(output).failures, ["ü"]);
    }
}
