//! A network namespace of the tests' own, which plays the node's: no test meets the ports of this machine.

use std::{io, mem, os::fd::AsRawFd as _};

use enforcer::host::netns;
use rustix::net::{AddressFamily, SocketType, socket};

/// Moves this process to a network namespace of its own. To be called before any thread or worker is started.
///
/// Kernels that do not return a namespace's cookie (before 5.14) take the initial namespace for the node's; there the
/// tests stay where they are.
pub fn isolate() {
    if netns::cookie().expect("a socket").is_none() {
        return;
    }
    // SAFETY: no memory effects.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: the tests need root");
    raise_loopback();
}

/// Brings the loopback device up: a new namespace, or a new machine, has it down, and so nobody to talk to.
pub fn raise_loopback() {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).expect("a small flag");
    // SAFETY: the request is an ifreq that lives across the call, which is what this ioctl reads.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(result, 0, "the loopback device comes up: {}", io::Error::last_os_error());
}
