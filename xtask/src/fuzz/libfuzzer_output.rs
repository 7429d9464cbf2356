//! What libFuzzer says: how far it is, and what it found.

use std::path::PathBuf;

/// How far a run is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Inputs that were run.
    pub(crate) executions: u64,
    /// Edges of the program that were passed.
    pub(crate) coverage: u64,
    /// Edges, told apart by how often they were passed.
    pub(crate) features: u64,
    /// Inputs that are kept, because each passes something that no other does.
    pub(crate) inputs: u64,
}

/// What is known of a run so far, or at its end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) progress: Progress,
    /// Whether it came to the end that it was given.
    pub(crate) whole: bool,
    /// What was wrong, in the words of the panic or the sanitizer.
    pub(crate) wrong: Option<String>,
    /// The input that shows it.
    pub(crate) reproducer: Option<PathBuf>,
    /// The next line is the panic's message.
    message_follows: bool,
}

impl Outcome {
    /// Takes in a line of the output. Whether it says how far the run is.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        let line = line.trim_end();
        if std::mem::take(&mut self.message_follows) {
            self.wrong = Some(line.to_owned());
            return false;
        }
        if let Some(progress) = status(line) {
            self.progress = progress;
            return true;
        }
        if let Some(path) = reproducer(line) {
            self.reproducer = Some(path.into());
        } else if is_end(line) {
            self.whole = true;
        } else if let Some(executions) = line.strip_prefix("stat::number_of_executed_units:") {
            self.progress.executions = executions.trim().parse().unwrap_or(self.progress.executions);
        } else if self.wrong.is_none() {
            self.message_follows = line.starts_with("thread '") && line.contains(" panicked at ");
            let error = line.split_once("ERROR: ").filter(|(head, _)| head.starts_with("=="));
            self.wrong = error.map(|(_, what)| what.to_owned());
        }
        false
    }
}

/// `#1048576\tpulse  cov: 78 ft: 100 corp: 20/100b lim: 4096 exec/s: 524288 rss: 400Mb`
fn status(line: &str) -> Option<Progress> {
    let (executions, rest) = line.strip_prefix('#')?.split_once('\t')?;
    let mut progress = Progress { executions: executions.parse().ok()?, ..Progress::default() };
    let mut words = rest.split_whitespace();
    let _what_happened = words.next()?;
    while let Some(word) = words.next() {
        let number = match word {
            "cov:" => &mut progress.coverage,
            "ft:" => &mut progress.features,
            "corp:" => &mut progress.inputs,
            _ => continue,
        };
        *number = words.next()?.split('/').next()?.parse().ok()?;
    }
    Some(progress)
}

/// `artifact_prefix='…'; Test unit written to PATH`. A slow input is written down as well, and is no finding.
fn reproducer(line: &str) -> Option<&str> {
    let (_, path) = line.split_once("; Test unit written to ")?;
    let name = path.rsplit('/').next().unwrap_or(path);
    (!name.starts_with("slow-unit-")).then_some(path)
}

/// The end of fuzzing, or of the last of the inputs that were named.
fn is_end(line: &str) -> bool {
    (line.starts_with("Done ") && line.contains(" runs in ")) || line.starts_with("*** NOTE: fuzzing was not performed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Outcome {
        let mut outcome = Outcome::default();
        output.lines().for_each(|line| {
            outcome.line(line);
        });
        outcome
    }

    #[test]
    fn how_far_it_is() {
        let line = "#1048576\tpulse  cov: 78 ft: 100 corp: 20/1510b lim: 4096 exec/s: 524288 rss: 400Mb";
        let progress = Progress { executions: 1_048_576, coverage: 78, features: 100, inputs: 20 };
        assert_eq!(status(line), Some(progress));
        let line = "#2\tINITED exec/s: 0 rss: 30Mb";
        assert_eq!(status(line), Some(Progress { executions: 2, ..Progress::default() }), "nothing is covered yet");
        for line in
            ["", "#", "#12", "#12 pulse", "#x\tpulse cov: 1", "#1\tNEW cov: x", "#1\tNEW cov:", "    #0 0x55 in main"]
        {
            assert_eq!(status(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_run_to_its_end() {
        let outcome = read(
            "INFO: Seed: 7\n\
             #2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
             #90\tNEW    cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb L: 1/1 MS: 1 ChangeBit-\n\
             #100\tDONE   cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb\n\
             Done 100 runs in 3 second(s)\n\
             stat::number_of_executed_units: 101\n\
             stat::average_exec_per_sec:     33\n",
        );
        let progress = Progress { executions: 101, coverage: 4, features: 6, inputs: 2 };
        assert_eq!(outcome, Outcome { progress, whole: true, ..Outcome::default() });
    }

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        let outcome = read(
            "#100\tpulse  cov: 4 ft: 6 corp: 2/2b lim: 4 exec/s: 0 rss: 30Mb\n\
             \n\
             thread '<unnamed>' (4711) panicked at fuzz_targets/text.rs:14:5:\n\
             assertion `left == right` failed: what is safe is not changed\n  left: 1\n right: 2\n\
             ==4711== ERROR: libFuzzer: deadly signal\n    #0 0x55d in __sanitizer_print_stack_trace\n\
             artifact_prefix='/t/a/text/'; Test unit written to /t/a/text/crash-0a1b\n\
             Base64: AA==\n\
             stat::number_of_executed_units: 120\n",
        );
        assert_eq!(outcome.wrong.unwrap(), "assertion `left == right` failed: what is safe is not changed");
        assert_eq!(outcome.reproducer.unwrap(), PathBuf::from("/t/a/text/crash-0a1b"));
        assert!(!outcome.whole);
        assert_eq!(outcome.progress.executions, 120);
    }

    #[test]
    fn a_sanitizer_is_told_in_its_own_words() {
        let outcome = read(
            "==12==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602\n\
             artifact_prefix='./'; Test unit written to ./crash-1\n",
        );
        assert_eq!(outcome.wrong.unwrap(), "AddressSanitizer: heap-buffer-overflow on address 0x602");
    }

    #[test]
    fn a_slow_input_is_no_finding() {
        let outcome = read("artifact_prefix='./'; Test unit written to ./slow-unit-1\nDone 7 runs in 3 second(s)\n");
        assert_eq!(outcome.reproducer, None);
        assert!(outcome.whole);
        let outcome = read("artifact_prefix='./'; Test unit written to ./timeout-1\n");
        assert_eq!(outcome.reproducer, Some("./timeout-1".into()));
    }

    #[test]
    fn named_inputs_come_to_an_end_too() {
        let outcome = read("Executed a in 0 ms\n***\n*** NOTE: fuzzing was not performed, you have only\n");
        assert!(outcome.whole);
    }
}
