//! Who watches attempts.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::{Request, json};
use enforcer_core::{
    reports::report::Report,
    views::{json::moment, watch::WatchLine},
};

use crate::host::clock::now;

/// Most watchers at once.
const MAX_WATCHERS: usize = 8;
/// Most lines that wait for one.
const BUFFER: usize = 1024;

#[derive(Default)]
pub(super) struct Watchers(Vec<Watcher>);

struct Watcher {
    lines: mpsc::Sender<Bytes>,
    conflicts: bool,
    /// How many lines it was too slow for and has not been told of.
    dropped: u64,
}

impl Watchers {
    /// The lines for one more; `None` if there are too many. That it has gone is told to `loop_`.
    pub(super) fn add(&mut self, conflicts: bool, loop_: mpsc::Sender<Request>) -> Option<Lines> {
        self.remove_closed();
        if self.0.len() >= MAX_WATCHERS {
            return None;
        }
        let (sender, lines) = mpsc::channel(BUFFER);
        self.0.push(Watcher { lines: sender, conflicts, dropped: 0 });
        Some(Lines { lines, loop_ })
    }

    fn remove_closed(&mut self) {
        self.0.retain(|watcher| !watcher.lines.is_closed());
    }

    /// Whether somebody watches more than conflicts.
    pub(super) fn wants_all(&mut self) -> bool {
        self.remove_closed();
        self.0.iter().any(|watcher| !watcher.conflicts)
    }

    pub(super) fn tell(&mut self, reports: &[Report], node: &str) {
        if self.0.is_empty() {
            return;
        }
        let now = now();
        for report in reports {
            let is_conflict = report.is_conflict();
            let mut interested = self.0.iter_mut().filter(|watcher| is_conflict || !watcher.conflicts).peekable();
            if interested.peek().is_some() {
                let line = line(&WatchLine::attempt(report, node, moment(report.attempt.time, now)));
                interested.for_each(|watcher| watcher.tell(&line));
            }
        }
    }
}

impl Watcher {
    fn tell(&mut self, told: &Bytes) {
        if self.dropped > 0 {
            if self.lines.capacity() < 2 || self.lines.try_send(line(&WatchLine::dropped(self.dropped))).is_err() {
                self.dropped += 1;
                return;
            }
            self.dropped = 0;
        }
        if self.lines.try_send(told.clone()).is_err() {
            self.dropped += 1;
        }
    }
}

fn line(line: &WatchLine) -> Bytes {
    let mut bytes = Vec::from(json(line));
    bytes.push(b'\n');
    bytes.into()
}

/// What one watcher is still to be sent.
pub(super) struct Lines {
    lines: mpsc::Receiver<Bytes>,
    loop_: mpsc::Sender<Request>,
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(context).map(|line| line.map(Ok))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.lines.close();
        // Where the loop has no room for one more request, the next that it answers makes it look too.
        let _ = self.loop_.try_send(Request::Left);
    }
}
