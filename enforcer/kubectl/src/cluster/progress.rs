//! A line on the terminal while something takes long.

use std::{
    cell::Cell,
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// Time without a line: most answers come sooner.
const QUIET: Duration = Duration::from_secs(1);
/// Shortest time between two lines.
const INTERVAL: Duration = Duration::from_millis(200);

/// The line. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    began: Instant,
    last: Cell<Option<Instant>>,
}

impl Progress {
    /// Starts without a line. Where standard error is no terminal, there never is one.
    pub(crate) fn new(is_terminal: bool) -> Self {
        Self { is_terminal, began: Instant::now(), last: Cell::new(None) }
    }

    /// Shows how much was read.
    pub(crate) fn show(&self, count: usize, what: &str) {
        let is_due = self.last.get().is_none_or(|last| last.elapsed() >= INTERVAL);
        if self.is_terminal && is_due && self.began.elapsed() >= QUIET {
            self.last.set(Some(Instant::now()));
            // A line that cannot be shown is no reason to end.
            let _ = write!(io::stderr(), "\r\u{1b}[Kread {count} {what} …");
        }
    }

    /// Removes the line, before something else is written.
    pub(crate) fn clear(&self) {
        if self.last.take().is_some() {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
