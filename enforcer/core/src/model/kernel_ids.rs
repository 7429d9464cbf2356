//! Numbers that the kernel gives to things, each with a type of its own.

use std::{fmt, time::Duration};

/// Id of a cgroup: the inode number of its directory in the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(u64);

impl CgroupId {
    /// Returns the cgroup with this number.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// Returns the cgroup with this number; `None` for 0, which the kernel's records have where there is none.
    #[must_use]
    pub fn from_wire(id: u64) -> Option<Self> {
        (id != 0).then_some(Self(id))
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for CgroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Cookie of a socket (`sock_gen_cookie` in `net/core/sock_diag.c`): no other socket gets the same before the node
/// restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketCookie(u64);

impl SocketCookie {
    /// Lowest number.
    pub const MIN: Self = Self(0);
    /// Highest number.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the cookie with this number.
    #[must_use]
    pub const fn new(cookie: u64) -> Self {
        Self(cookie)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Time since boot in nanoseconds, sleep included, as records of the kernel programs have it (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNanos(u64);

impl BootNanos {
    /// Returns the time so many nanoseconds after boot.
    #[must_use]
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the time so long after boot, in whole nanoseconds.
    #[must_use]
    pub fn after_boot(since_boot: Duration) -> Self {
        Self(u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Returns the nanoseconds since boot.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the time since boot.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}
