//! The kernel programs' rings, to wait for.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
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
