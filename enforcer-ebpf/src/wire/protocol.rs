//! Protocols whose ports are claimed, and those that the programs enforce.

/// Protocol of a claim. The discriminant is the protocol's place in [`crate::wire::port_index`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, MPTCP included: the kernel shows an MPTCP socket's bind on its TCP subflow.
    Tcp = 0,
    /// UDP. UDP-Lite has a port space of its own and is not judged.
    Udp = 1,
    /// SCTP: arbitrated among pods, and not enforced: no hook of the `cgroup/bind` family sees its binds.
    Sctp = 2,
}

impl Protocol {
    /// Every protocol, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocols that the programs enforce: the first ones of [`Self::ALL`]. The maps that hold the state of ports
    /// ([`crate::wire::ENFORCED_PORT_COUNT`]) end with them.
    pub const ENFORCED: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Returns whether the programs enforce claims of this protocol.
    #[must_use]
    #[inline(always)]
    pub const fn is_enforced(self) -> bool {
        (self as usize) < Self::ENFORCED.len()
    }

    /// Returns the enforced protocol of a socket from its `IPPROTO_*` number; `None` where binds are not judged.
    #[must_use]
    #[inline(always)]
    pub const fn from_ipproto(number: u32) -> Option<Self> {
        match number {
            // IPPROTO_TCP and IPPROTO_MPTCP (include/uapi/linux/in.h).
            6 | 262 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// Returns the protocol with this discriminant.
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

const _: () = {
    let mut place = 0;
    while place < Protocol::ALL.len() {
        assert!(Protocol::ALL[place] as usize == place);
        assert!(place >= Protocol::ENFORCED.len() || Protocol::ENFORCED[place] as usize == place);
        place += 1;
    }
    // A hook that judges a protocol without the maps that hold its ports would allow every bind, and count none.
    let mut number = 0;
    while number <= 0xffff {
        if let Some(protocol) = Protocol::from_ipproto(number) {
            assert!(protocol.is_enforced());
        }
        number += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sctp_is_claimed_and_not_enforced() {
        assert_eq!(Protocol::ALL.map(Protocol::is_enforced), [true, true, false]);
        // IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPTCP.
        let judged = [6, 17, 132, 136, 262].map(Protocol::from_ipproto);
        assert_eq!(judged, [Some(Protocol::Tcp), Some(Protocol::Udp), None, None, Some(Protocol::Tcp)]);
    }
}
