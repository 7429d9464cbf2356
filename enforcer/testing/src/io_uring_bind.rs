//! A bind by `io_uring`.

use std::{io, os::fd::AsRawFd as _};

use io_uring::{IoUring, Probe, opcode, squeue::Flags, types::Fd};

use crate::worker::{Bind, Ring, encode, open};

/// Makes a socket and lets `io_uring` bind it: the errno, 0 for success; `None` if this kernel's cannot.
pub fn bind(bind: &Bind, by: Ring) -> io::Result<Option<i32>> {
    let Some(mut ring) = ring(by)? else { return Ok(None) };
    let socket = open(bind)?;
    let (storage, length) = encode(bind);
    let entry = opcode::Bind::new(Fd(socket.as_raw_fd()), (&raw const storage).cast(), length).build();
    let entry = if by == Ring::Worker { entry.flags(Flags::ASYNC) } else { entry };
    // SAFETY: the socket and the address live until the answer is there, which is waited for below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let answer = ring.completion().next().ok_or_else(|| io::Error::other("io_uring gives no answer"))?;
    Ok(Some(-answer.result()))
}

/// Returns whether this kernel's `io_uring` can bind sockets.
pub fn can_bind() -> bool {
    ring(Ring::Inline).is_ok_and(|ring| ring.is_some())
}

/// Makes a ring, if there is such a thing and it can bind (`IORING_OP_BIND`, Linux 6.11).
fn ring(by: Ring) -> io::Result<Option<IoUring>> {
    let mut builder = IoUring::builder();
    if by == Ring::Poller {
        builder.setup_sqpoll(1000);
    }
    let ring = match builder.build(2) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => return Ok(None),
        ring => ring?,
    };
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(probe.is_supported(opcode::Bind::CODE).then_some(ring))
}
