//! The agent's own sockets: what the programs and the scans see of them is no conflict.
//!
//! An agent binds the address of its health and metrics before its programs are attached. Those of its predecessor judge
//! that bind, and may not know the new agent's pod yet.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use enforcer_core::model::kernel_ids::SocketCookie;
use rustix::net::sockopt::socket_cookie;

/// Most sockets that are remembered: those of the last tries to listen.
const MAX_SOCKETS: usize = 64;

/// Cookies of the agent's own sockets. A clone has the same.
#[derive(Clone, Debug, Default)]
pub struct OwnSockets(Arc<Mutex<VecDeque<SocketCookie>>>);

impl OwnSockets {
    fn lock(&self) -> MutexGuard<'_, VecDeque<SocketCookie>> {
        // The list is right after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a socket, before it is bound.
    ///
    /// # Errors
    ///
    /// If the kernel does not give its cookie.
    pub fn add(&self, socket: &impl AsFd) -> io::Result<()> {
        let cookie = SocketCookie::new(socket_cookie(socket)?);
        let mut sockets = self.lock();
        if sockets.len() >= MAX_SOCKETS {
            sockets.pop_front();
        }
        sockets.push_back(cookie);
        Ok(())
    }

    /// Returns whether the socket with this cookie is the agent's own.
    #[must_use]
    pub fn contains(&self, cookie: SocketCookie) -> bool {
        self.lock().contains(&cookie)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_the_last_sockets_are_remembered() {
        let own = OwnSockets::default();
        let socket = || UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (first, other) = (socket(), socket());
        own.add(&first).expect("a cookie");
        let cookie = |socket: &UdpSocket| SocketCookie::new(socket_cookie(socket).expect("a cookie"));
        assert!(own.contains(cookie(&first)) && !own.contains(cookie(&other)));
        for _ in 0..MAX_SOCKETS {
            own.add(&other).expect("a cookie");
        }
        assert!(!own.contains(cookie(&first)));
    }
}
