//! The node's network namespace: the one this process is in, since the agent runs on the host network.

use std::{io, os::fd::AsRawFd as _};

use rustix::net::{AddressFamily, SocketType, socket};

/// Returns the cookie of this process's network namespace, as `bpf_get_netns_cookie` gives it for its sockets. `None`
/// where the kernel does not give it (before 5.14).
///
/// # Errors
///
/// If no socket can be made or the kernel refuses for another reason.
pub fn cookie() -> io::Result<Option<u64>> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the option writes one u64, `length` says that there is room for it, and both live across the call.
    // rustix has no wrapper for this option.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(None) } else { Err(error) }
}
