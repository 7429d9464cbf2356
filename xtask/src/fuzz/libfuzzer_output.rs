//! Parser for the output of libFuzzer: progress and findings.

use std::path::PathBuf;

/// Numbers in a status line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FuzzStats {
    /// Number of executed inputs.
    pub(crate) executions: u64,
    /// Number of covered edges of the program.
    pub(crate) coverage: u64,
    /// Number of covered edges, each counted once for every range of its execution counts.
    pub(crate) features: u64,
    /// Number of inputs in the corpus; each covers something that no other does.
    pub(crate) inputs: u64,
}

/// Results of a run, so far or at its end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct LibfuzzerOutput {
    pub(crate) stats: FuzzStats,
    /// The run came to its regular end.
    pub(crate) is_complete: bool,
    /// Message of the panic or of the sanitizer.
    pub(crate) error: Option<String>,
    /// Input that causes the error.
    pub(crate) reproducer: Option<PathBuf>,
    /// The next line is the message of a panic.
    message_follows: bool,
}

impl LibfuzzerOutput {
    /// Parses a line of the output. Returns true if it is a status line.
    pub(crate) fn parse_line(&mut self, line: &str) -> bool {
        let line = line.trim_end();
        if std::mem::take(&mut self.message_follows) {
            self.error = Some(line.to_owned());
            return false;
        }
        if let Some(stats) = parse_status(line) {
            self.stats = stats;
            return true;
        }
        if let Some(path) = parse_reproducer(line) {
            self.reproducer = Some(path.into());
        } else if is_end(line) {
            self.is_complete = true;
        } else if let Some(executions) = line.strip_prefix("stat::number_of_executed_units:") {
            self.stats.executions = executions.trim().parse().unwrap_or(self.stats.executions);
        } else if self.error.is_none() {
            self.message_follows = line.starts_with("thread '") && line.contains(" panicked at ");
            let error = line.split_once("ERROR: ").filter(|(head, _)| head.starts_with("=="));
            self.error = error.map(|(_, message)| message.to_owned());
        }
        false
    }
}

/// Parses a status line: `#1048576\tpulse  cov: 78 ft: 100 corp: 20/100b lim: 4096 exec/s: 524288 rss: 400Mb`.
fn parse_status(line: &str) -> Option<FuzzStats> {
    let (executions, rest) = line.strip_prefix('#')?.split_once('\t')?;
    let mut stats = FuzzStats { executions: executions.parse().ok()?, ..FuzzStats::default() };
    let mut words = rest.split_whitespace();
    let _event = words.next()?;
    while let Some(word) = words.next() {
        let number = match word {
            "cov:" => &mut stats.coverage,
            "ft:" => &mut stats.features,
            "corp:" => &mut stats.inputs,
            _ => continue,
        };
        *number = words.next()?.split('/').next()?.parse().ok()?;
    }
    Some(stats)
}

/// Parses `artifact_prefix='…'; Test unit written to PATH`. libFuzzer also writes slow inputs, which are no findings.
fn parse_reproducer(line: &str) -> Option<&str> {
    let (_, path) = line.split_once("; Test unit written to ")?;
    let name = path.rsplit('/').next().unwrap_or(path);
    (!name.starts_with("slow-unit-")).then_some(path)
}

/// Returns true for the last line of a fuzzing run, or of a run of given inputs.
fn is_end(line: &str) -> bool {
    (line.starts_with("Done ") && line.contains(" runs in ")) || line.starts_with("*** NOTE: fuzzing was not performed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> LibfuzzerOutput {
        let mut output = LibfuzzerOutput::default();
        text.lines().for_each(|line| {
            output.parse_line(line);
        });
        output
    }

    #[test]
    fn status_line_contains_the_progress() {
        let line = "#1048576\tpulse  cov: 78 ft: 100 corp: 20/1510b lim: 4096 exec/s: 524288 rss: 400Mb";
        let stats = FuzzStats { executions: 1_048_576, coverage: 78, features: 100, inputs: 20 };
        assert_eq!(parse_status(line), Some(stats));
        let line = "#2\tINITED exec/s: 0 rss: 30Mb";
        assert_eq!(parse_status(line), Some(FuzzStats { executions: 2, ..FuzzStats::default() }), "no coverage yet");
        for line in
            ["", "#", "#12", "#12 pulse", "#x\tpulse cov: 1", "#1\tNEW cov: x", "#1\tNEW cov:", "    #0 0x55 in main"]
        {
            assert_eq!(parse_status(line), None, "{line:?}");
        }
    }

    #[test]
    fn complete_run_has_its_final_counts() {
        let output = parse(
            "INFO: Seed: 7\n\
             #2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
             #90\tNEW    cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb L: 1/1 MS: 1 ChangeBit-\n\
             #100\tDONE   cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb\n\
             Done 100 runs in 3 second(s)\n\
             stat::number_of_executed_units: 101\n\
             stat::average_exec_per_sec:     33\n",
        );
        let stats = FuzzStats { executions: 101, coverage: 4, features: 6, inputs: 2 };
        assert_eq!(output, LibfuzzerOutput { stats, is_complete: true, ..LibfuzzerOutput::default() });
    }

    #[test]
    fn message_of_a_panic_is_the_error() {
        let output = parse(
            "#100\tpulse  cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb\n\
             \n\
             thread '<unnamed>' (4711) panicked at fuzz_targets/text.rs:14:5:\n\
             assertion `left == right` failed: what is safe is not changed\n  left: 1\n right: 2\n\
             ==4711== ERROR: libFuzzer: deadly signal\n    #0 0x55d in __sanitizer_print_stack_trace\n\
             artifact_prefix='/t/a/text/'; Test unit written to /t/a/text/crash-0a1b\n\
             Base64: AA==\n\
             stat::number_of_executed_units: 120\n",
        );
        assert_eq!(output.error.unwrap(), "assertion `left == right` failed: what is safe is not changed");
        assert_eq!(output.reproducer.unwrap(), PathBuf::from("/t/a/text/crash-0a1b"));
        assert!(!output.is_complete);
        assert_eq!(output.stats.executions, 120);
    }

    #[test]
    fn message_of_a_sanitizer_is_the_error() {
        let output = parse(
            "==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602\n\
             artifact_prefix='./'; Test unit written to ./crash-1\n",
        );
        assert_eq!(output.error.unwrap(), "AddressSanitizer: heap-buffer-overflow on address 0x602");
    }

    #[test]
    fn slow_input_is_no_finding() {
        let output = parse("artifact_prefix='./'; Test unit written to ./slow-unit-1\nDone 7 runs in 3 second(s)\n");
        assert_eq!(output.reproducer, None);
        assert!(output.is_complete);
        let output = parse("artifact_prefix='./'; Test unit written to ./timeout-1\n");
        assert_eq!(output.reproducer, Some("./timeout-1".into()));
    }

    #[test]
    fn run_of_given_inputs_is_complete() {
        let output = parse("Executed a in 0 ms\n***\n*** NOTE: fuzzing was not performed, you have only\n");
        assert!(output.is_complete);
    }
}
