//! Protocols whose ports are claimed.

/// A protocol that ports are claimed for. The discriminant is the protocol's place in [`port_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, MPTCP included: the kernel shows an MPTCP socket's bind on its TCP subflow.
    Tcp = 0,
    /// UDP. UDP-Lite has a port space of its own and is not judged.
    Udp = 1,
    /// SCTP: arbitrated among pods; no hook of the `cgroup/bind` family sees its binds.
    Sctp = 2,
}

impl Protocol {
    /// Every protocol, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol of a socket from its `IPPROTO_*` number; `None` where ports are not ours to judge.
    #[must_use]
    #[inline(always)]
    pub const fn from_ipproto(number: u32) -> Option<Self> {
        match number {
            // IPPROTO_TCP and IPPROTO_MPTCP (include/uapi/linux/in.h).
            6 | 262 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The protocol with this discriminant.
    #[must_use]
    pub const fn from_wire(wire: u8) -> Option<Self> {
        match wire {
            0 => Some(Self::Tcp),
            1 => Some(Self::Udp),
            2 => Some(Self::Sctp),
            _ => None,
        }
    }
}
