//! Progress of all running machines, in one line of the terminal that is rewritten.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Greatest length of the line in characters. A narrower terminal wraps it.
const MAX_WIDTH: usize = 100;

/// The line, with the state of all running machines.
#[derive(Debug)]
pub(super) struct ProgressLine {
    /// Standard error is a terminal.
    visible: bool,
    machines: Mutex<BTreeMap<String, MachineState>>,
}

/// State of one machine.
#[derive(Debug)]
struct MachineState {
    start: Instant,
    /// Number of tests that have ended.
    tests: usize,
}

/// Guard of one machine's state, which is removed when the guard is dropped.
#[derive(Debug)]
pub(super) struct MachineProgress<'a> {
    line: &'a ProgressLine,
    name: String,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { visible: io::stderr().is_terminal(), machines: Mutex::default() }
    }

    /// Adds a machine that starts now.
    pub(super) fn add_machine(&self, name: &str) -> MachineProgress<'_> {
        self.lock().insert(name.to_owned(), MachineState { start: Instant::now(), tests: 0 });
        MachineProgress { line: self, name: name.to_owned() }
    }

    /// Clears the line while `write` prints something else.
    pub(super) fn pause(&self, write: impl FnOnce()) {
        let machines = self.lock();
        self.show("");
        write();
        self.show(&format_line(&machines));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MachineState>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rewrites the line. Errors of the terminal do not matter.
    fn show(&self, line: &str) {
        if self.visible {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.show("");
    }
}

impl MachineProgress<'_> {
    /// Counts a test if the console's line is its result.
    pub(super) fn console_line(&self, line: &str) {
        if !is_test_result(line) {
            return;
        }
        let mut machines = self.line.lock();
        if let Some(state) = machines.get_mut(&self.name) {
            state.tests += 1;
        }
        self.line.show(&format_line(&machines));
    }
}

impl Drop for MachineProgress<'_> {
    fn drop(&mut self) {
        let mut machines = self.line.lock();
        machines.remove(&self.name);
        self.line.show(&format_line(&machines));
    }
}

/// Returns true for a line with the result of one test.
fn is_test_result(line: &str) -> bool {
    line.starts_with("test ") && !line.starts_with("test result")
}

fn format_line(machines: &BTreeMap<String, MachineState>) -> String {
    let machine = |(name, state): (&String, &MachineState)| {
        format!("{name}: {} tests, {} s", state.tests, state.start.elapsed().as_secs())
    };
    let machines: Vec<_> = machines.iter().map(machine).collect();
    machines.join(" | ").chars().take(MAX_WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_contains_every_running_machine() {
        let progress = ProgressLine { visible: false, machines: Mutex::default() };
        let old = progress.add_machine("5.10");
        let new = progress.add_machine("6.1");
        for line in ["test a ... ok", "test result: ok.", "[    1.0] a kernel message", "test b ... FAILED"] {
            old.console_line(line);
        }
        assert_eq!(format_line(&progress.lock()), "5.10: 2 tests, 0 s | 6.1: 0 tests, 0 s");
        drop(old);
        assert_eq!(format_line(&progress.lock()), "6.1: 0 tests, 0 s");
        drop(new);
        assert_eq!(format_line(&progress.lock()), "");
    }
}
