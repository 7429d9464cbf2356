//! Processes that bind and close all the time, and what became of each attempt.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use enforcer::kernel::probe;
use enforcer_testing::{
    agent::wait_until,
    worker::{Bind, Worker},
};

/// Attempts per order to the worker.
const ROUND: u32 = 10;
/// The same where nothing else is to be done.
const STORM_ROUND: u32 = 500;
/// What is left to all others on this machine between two rounds.
const PAUSE: Duration = Duration::from_millis(5);

/// Flags of an agent whose denials cannot be taken for the kernel's own refusal of a port in use. That one comes once
/// in some hundred thousand binds, of a port that the same thread has closed a moment before.
pub(crate) const DENY_EACCES: [&str; 2] = ["--deny-errno", "eacces"];

/// How often each error number came, 0 for success.
pub(crate) type Counts = BTreeMap<i32, u64>;

/// Returns the error number of a denial by an agent with [`DENY_EACCES`].
pub(crate) fn no_access() -> i32 {
    if probe::features().expect("root").set_retval { libc::EACCES } else { libc::EPERM }
}

/// Asserts that an agent with [`DENY_EACCES`] denied none of the binds, and that some succeeded.
pub(crate) fn assert_never_denied(counts: &Counts) {
    let expected = |errno: &i32| [0, libc::EADDRINUSE].contains(errno);
    assert!(counts.contains_key(&0) && counts.keys().all(expected), "the rightful owner was denied: {counts:?}");
}

/// A worker that tries its binds in turn, over and over, from a thread of its own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    thread: JoinHandle<(Worker, Counts)>,
}

impl Load {
    /// Begins. Every bind was tried when this comes back.
    pub(crate) fn start(worker: Worker, binds: Vec<Bind>) -> Self {
        Self::of(worker, binds, ROUND, PAUSE)
    }

    /// Begins, as fast as this machine can.
    pub(crate) fn storm(worker: Worker, binds: Vec<Bind>) -> Self {
        Self::of(worker, binds, STORM_ROUND, Duration::ZERO)
    }

    fn of(mut worker: Worker, binds: Vec<Bind>, round: u32, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let attempts = Arc::new(AtomicU64::new(0));
        let (stopped, made) = (Arc::clone(&stop), Arc::clone(&attempts));
        let thread = thread::spawn(move || {
            let mut counts = Counts::new();
            while !stopped.load(Ordering::Relaxed) {
                for bind in &binds {
                    for (errno, count) in worker.storm(bind, round, 1) {
                        *counts.entry(errno).or_default() += u64::from(count);
                        made.fetch_add(u64::from(count), Ordering::Relaxed);
                    }
                }
                thread::sleep(pause);
            }
            (worker, counts)
        });
        let load = Self { stop, attempts, thread };
        load.wait_for_progress();
        load
    }

    /// Waits until it has tried again.
    pub(crate) fn wait_for_progress(&self) {
        let before = self.attempts.load(Ordering::Relaxed);
        wait_until("the load goes on", || self.attempts.load(Ordering::Relaxed) > before);
    }

    /// How many attempts were made so far.
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Ends it: the worker, and what became of its attempts.
    pub(crate) fn stop(self) -> (Worker, Counts) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load")
    }
}
