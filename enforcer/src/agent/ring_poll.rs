//! The kernel programs' rings, to wait for.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::yield_now,
};

use crate::agent::{input::Input, reconciler::Reconciler};

/// Waits for the records of one ring.
///
/// The descriptor of a ring is edge-like: the kernel wakes its reader for a new record only if all earlier records were
/// read. A reader that stops before the end of the ring must therefore remember that records are left.
struct RingReader {
    ring: AsyncFd<OwnedFd>,
    backlog: bool,
}

impl RingReader {
    fn new(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = ring.try_clone_to_owned()?;
        // SAFETY: an OwnedFd is one descriptor, open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        Ok(Self { ring, backlog: false })
    }

    /// Waits until the ring may have records. While there is a backlog, everything else that is ready goes first. Cancel
    /// safe.
    async fn readable(&mut self) -> io::Result<()> {
        if self.backlog {
            yield_now().await;
        } else {
            // Cleared before the ring is read: a record that comes later makes it readable again.
            self.ring.readable().await?.clear_ready();
        }
        Ok(())
    }
}

/// The three rings.
pub(super) struct Rings {
    cgroup: RingReader,
    verdict: RingReader,
    socket: RingReader,
}

impl Rings {
    /// Registers the reconciler's rings with the runtime.
    pub(super) fn new(reconciler: &Reconciler) -> io::Result<Self> {
        let [cgroup, verdict, socket] = reconciler.rings().map(RingReader::new);
        Ok(Self { cgroup: cgroup?, verdict: verdict?, socket: socket? })
    }

    /// Remembers whether the last batch left verdicts in their ring. The other rings are read to their end, or by
    /// [`Reconciler::poll_timeout`].
    pub(super) fn set_verdict_backlog(&mut self, backlog: bool) {
        self.verdict.backlog = backlog;
    }

    /// Waits for the next ring with records. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Input> {
        tokio::select! {
            ready = self.cgroup.readable() => ready.map(|()| Input::CgroupRing),
            ready = self.verdict.readable() => ready.map(|()| Input::VerdictRing),
            ready = self.socket.readable() => ready.map(|()| Input::SocketRing),
        }
    }
}

/// Time between two reads of all rings and of the socket log, whether or not anything woke the agent.
///
/// While sockets come and go it is the shortest. After a read that finds nothing it is twice as long, until reads come no
/// more often than scans of the sockets, which read the log too: from then on those are all. A wake-up takes more of a
/// processor than an empty log does.
#[derive(Debug)]
pub(super) struct RingsPace {
    shortest: Duration,
    scan_interval: Duration,
    delay: Duration,
}

impl RingsPace {
    /// Returns the pace of an agent that has just started.
    pub(super) const fn new(shortest: Duration, scan_interval: Duration) -> Self {
        Self { shortest, scan_interval, delay: shortest }
    }

    /// Returns the time until the next read if it changes, after something that the agent did: it was such a read
    /// (`is_read`), or it `found` that sockets came or went.
    pub(super) fn after(&mut self, is_read: bool, found: bool) -> Option<Duration> {
        if found && (is_read || self.delay > self.shortest) {
            self.delay = self.shortest;
        } else if is_read {
            self.delay *= 2;
        } else {
            return None;
        }
        Some(self.delay)
    }

    /// Returns whether the scans of the sockets are all there is.
    pub(super) fn is_off(&self) -> bool {
        self.delay >= self.scan_interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(500);

    fn pace() -> RingsPace {
        RingsPace::new(SHORTEST, Duration::from_secs(5))
    }

    #[test]
    fn quiet_rings_are_read_ever_less_often_and_then_by_scans_only() {
        let mut pace = pace();
        let mut delays = Vec::new();
        while !pace.is_off() {
            delays.extend(pace.after(true, false).map(|delay| delay.as_millis()));
        }
        assert_eq!(delays, [1000, 2000, 4000, 8000]);
    }

    #[test]
    fn whoever_finds_a_socket_brings_the_shortest_time_back() {
        for quiet_reads in 1..=4 {
            for is_read in [false, true] {
                let mut pace = pace();
                for _ in 0..quiet_reads {
                    pace.after(true, false);
                }
                assert_eq!(pace.after(is_read, true), Some(SHORTEST));
                assert!(!pace.is_off());
            }
        }
    }

    #[test]
    fn other_work_does_not_put_off_a_read() {
        let mut pace = pace();
        assert_eq!(pace.after(false, true), None, "it is the shortest already");
        assert_eq!(pace.after(false, false), None);
    }
}
