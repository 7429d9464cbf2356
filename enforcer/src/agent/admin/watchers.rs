//! Clients that watch attempts.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Bytes;
use futures_util::Stream;
use tokio::sync::{Notify, mpsc};

use super::json::json;
use enforcer_core::{
    model::now::Now,
    reports::report::Report,
    views::{node_snapshot::moment, watch::WatchLine},
};

/// Most watchers at once.
const MAX_WATCHERS: usize = 8;
/// Most lines that wait for one watcher.
const BUFFER: usize = 1024;

/// All watchers.
#[derive(Default)]
pub(in crate::agent) struct Watchers {
    watchers: Vec<Watcher>,
    left: Arc<Notify>,
}

struct Watcher {
    lines: mpsc::Sender<Bytes>,
    conflicts: bool,
    /// Lines that it was too slow for and that are not reported to it yet.
    dropped: u64,
}

impl Watchers {
    /// Returns the signal that a watcher has left.
    pub(super) fn left(&self) -> Arc<Notify> {
        Arc::clone(&self.left)
    }

    /// Adds a watcher and returns its lines; `None` if there are too many.
    pub(super) fn add(&mut self, conflicts: bool) -> Option<Lines> {
        self.remove_closed();
        if self.watchers.len() >= MAX_WATCHERS {
            return None;
        }
        let (sender, lines) = mpsc::channel(BUFFER);
        self.watchers.push(Watcher { lines: sender, conflicts, dropped: 0 });
        Some(Lines { lines, left: self.left() })
    }

    fn remove_closed(&mut self) {
        self.watchers.retain(|watcher| !watcher.lines.is_closed());
    }

    /// Checks whether some watcher wants more than conflicts.
    pub(in crate::agent) fn wants_all(&mut self) -> bool {
        self.remove_closed();
        self.watchers.iter().any(|watcher| !watcher.conflicts)
    }

    /// Sends a report to the watchers that want it.
    pub(in crate::agent) fn broadcast(&mut self, report: &Report, node: &str, now: Now) {
        let is_conflict = report.is_conflict();
        let mut interested = self.watchers.iter_mut().filter(|watcher| is_conflict || !watcher.conflicts).peekable();
        if interested.peek().is_some() {
            let line = line(&WatchLine::attempt(report, node, moment(report.attempt.time, now)));
            interested.for_each(|watcher| watcher.send(&line));
        }
    }
}

impl Watcher {
    fn send(&mut self, attempt: &Bytes) {
        if self.dropped > 0 {
            if self.lines.capacity() < 2 || self.lines.try_send(line(&WatchLine::dropped(self.dropped))).is_err() {
                self.dropped += 1;
                return;
            }
            self.dropped = 0;
        }
        if self.lines.try_send(attempt.clone()).is_err() {
            self.dropped += 1;
        }
    }
}

fn line(line: &WatchLine) -> Bytes {
    let mut bytes = Vec::from(json(line));
    bytes.push(b'\n');
    bytes.into()
}

/// Lines that one watcher has not received yet.
pub(in crate::agent) struct Lines {
    lines: mpsc::Receiver<Bytes>,
    left: Arc<Notify>,
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
        self.left.notify_one();
    }
}
