//! What the kernel itself says to a bind, whatever the programs say: sockets that are there may be in the way.

use std::net::IpAddr;

use enforcer_ebpf::wire::Protocol;

use crate::{
    model::kernel_ids::{BootNanos, SocketCookie},
    sockets::{Activity, BoundSince, BoundSocket},
};

/// The kernel's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelAnswer {
    /// No socket is in the way.
    Free,
    /// Sockets are in the way, and none of them is known not to share.
    InUseUnlessShared,
    /// A socket is in the way that does not share.
    InUse,
}

impl KernelAnswer {
    /// Returns the word for JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::InUseUnlessShared => "inUseUnlessShared",
            Self::InUse => "inUse",
        }
    }
}

/// Returns the kernel's answer to a bind of a dual-stack socket on no device, and which of the holders on the port are
/// in the way.
pub(super) fn kernel_answer(
    address: IpAddr,
    protocol: Protocol,
    port: u16,
    holders: &[&BoundSocket],
) -> (KernelAnswer, Vec<usize>) {
    let wanted = BoundSocket {
        protocol,
        address,
        port,
        cookie: SocketCookie::MIN,
        cgroup: None,
        since: BoundSince::Seen(BootNanos::default()),
        process: None,
        uid: 0,
        activity: None,
        inode: None,
        device: None,
        v6only: Some(false),
        reuse: None,
    };
    let in_the_way: Vec<usize> = (0..holders.len()).filter(|place| wanted.overlaps(holders[*place])).collect();
    let says = in_the_way.iter().map(|place| of(holders[*place])).max();
    (says.unwrap_or(KernelAnswer::Free), in_the_way)
}

/// Returns the kernel's answer for one holder in the way. Two sockets share by `SO_REUSEPORT` and one user id, or by
/// `SO_REUSEADDR` where none of them listens (`inet_bind_conflict` in `net/ipv4/inet_connection_sock.c`,
/// `inet_rcv_saddr_equal`'s callers in `net/ipv4/udp.c`).
fn of(holder: &BoundSocket) -> KernelAnswer {
    let listens = holder.activity == Some(Activity::Listening);
    match holder.reuse {
        Some(reuse) if !reuse.port && (!reuse.address || listens) => KernelAnswer::InUse,
        _ => KernelAnswer::InUseUnlessShared,
    }
}
