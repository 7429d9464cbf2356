//! What the kernel tests ask of binds and workers beyond the plain bind.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    process,
};

use crate::worker::{Answer, Bind, Kind, Order, Worker, take};

impl Bind {
    /// Returns the same bind on another kind of socket.
    pub fn on(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Returns the same bind with `SO_REUSEPORT`.
    pub fn reusing_port(self) -> Self {
        Self { reuse_port: true, ..self }
    }

    /// Returns the same bind with `SO_REUSEADDR`.
    pub fn reusing_addr(self) -> Self {
        Self { reuse_addr: true, ..self }
    }
}

impl Worker {
    /// Opens a socket that the worker makes, for this process: it still belongs to the worker's cgroup.
    pub fn open(&mut self, bind: &Bind) -> OwnedFd {
        let descriptor = match self.order(&Order::Open(bind.clone())) {
            Answer::Opened(descriptor) => descriptor,
            other => panic!("{other:?}"),
        };
        take(self.pid(), descriptor).expect("the worker's socket")
    }

    /// Gives the worker a socket of this process to bind: the errno.
    pub fn bind_given(&mut self, socket: &OwnedFd, bind: &Bind) -> i32 {
        match self.order(&Order::BindGiven { pid: process::id(), descriptor: socket.as_raw_fd(), bind: bind.clone() }) {
            Answer::Bound { errno, port: _ } => errno,
            other => panic!("{other:?}"),
        }
    }

    /// Moves to a network namespace of its own.
    pub fn unshare(&mut self) {
        assert!(matches!(self.order(&Order::Unshare), Answer::Done));
    }
}
