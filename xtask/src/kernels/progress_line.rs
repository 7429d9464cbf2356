//! What the machines are at, in one line of a terminal that is written again and again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Longest line in characters; a terminal that is narrower shows more than one of them.
const WIDTH: usize = 100;

/// All machines that run.
#[derive(Debug)]
pub(super) struct Progress {
    /// Where nobody looks, nothing is written.
    shown: bool,
    machines: Mutex<BTreeMap<String, State>>,
}

/// What one machine is at.
#[derive(Debug)]
struct State {
    since: Instant,
    /// How many tests have ended.
    tests: usize,
}

/// One of the machines, as long as it runs.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    progress: &'a Progress,
    name: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { shown: io::stderr().is_terminal(), machines: Mutex::default() }
    }

    /// A machine begins.
    pub(super) fn machine(&self, name: &str) -> Shown<'_> {
        self.lock().insert(name.to_owned(), State { since: Instant::now(), tests: 0 });
        Shown { progress: self, name: name.to_owned() }
    }

    /// Something else is written meanwhile.
    pub(super) fn pause(&self, write: impl FnOnce()) {
        let machines = self.lock();
        self.show("");
        write();
        self.show(&line(&machines));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the line anew; a terminal that is gone is nobody's loss.
    fn show(&self, line: &str) {
        if self.shown {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}

impl Shown<'_> {
    /// The machine said something.
    pub(super) fn line(&self, said: &str) {
        if !is_end_of_test(said) {
            return;
        }
        let mut machines = self.progress.lock();
        if let Some(state) = machines.get_mut(&self.name) {
            state.tests += 1;
        }
        self.progress.show(&line(&machines));
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        let mut machines = self.progress.lock();
        machines.remove(&self.name);
        self.progress.show(&line(&machines));
    }
}

/// Whether a test's verdict is in the line.
fn is_end_of_test(line: &str) -> bool {
    line.starts_with("test ") && !line.starts_with("test result")
}

fn line(machines: &BTreeMap<String, State>) -> String {
    let machine = |(name, state): (&String, &State)| {
        format!("{name}: {} tests, {} s", state.tests, state.since.elapsed().as_secs())
    };
    let machines: Vec<_> = machines.iter().map(machine).collect();
    machines.join(" | ").chars().take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_that_runs_is_in_the_line() {
        let progress = Progress { shown: false, machines: Mutex::default() };
        let old = progress.machine("5.10");
        let new = progress.machine("6.1");
        for said in ["test a ... ok", "test result: ok.", "[    1.0] a word of the kernel", "test b ... FAILED"] {
            old.line(said);
        }
        assert_eq!(line(&progress.lock()), "5.10: 2 tests, 0 s | 6.1: 0 tests, 0 s");
        drop(old);
        assert_eq!(line(&progress.lock()), "6.1: 0 tests, 0 s");
        drop(new);
        assert_eq!(line(&progress.lock()), "");
    }
}
