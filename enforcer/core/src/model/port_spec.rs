//! Addresses, ports and what a claim is made of.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    str::FromStr,
};

use enforcer_ebpf::wire::port_index;

pub use enforcer_ebpf::wire::Protocol;

/// Returns the name of a protocol, in the annotation and for people.
#[must_use]
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Returns the protocol with this name, in upper or lower case.
#[must_use]
pub fn protocol_from_name(name: &str) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| name.eq_ignore_ascii_case(protocol_name(*protocol)))
}

/// The address of a claim.
///
/// Make one with [`Address::new`] or by parsing text: an IPv4 address that is written as IPv6 (`::ffff:a.b.c.d`) must
/// become [`Address::V4`], as it is for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// None was given: every address of both families.
    Any,
    /// One IPv4 address, or with `0.0.0.0` every IPv4 address.
    V4(Ipv4Addr),
    /// One IPv6 address, or with `::` every IPv6 *and* every IPv4 address: a claim is never IPv6 only.
    V6(Ipv6Addr),
}

/// Reason why a text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AddressError {
    /// It is not an IPv4 or IPv6 address. Names are not resolved.
    #[error("is not an IP address")]
    Malformed,
    /// It has a zone (`%eth0`): the number of an interface differs from node to node, and a claim knows no interface.
    #[error("has a zone, which a claim cannot have")]
    Zone,
}

impl Address {
    /// Returns the claim's address for this address of a host.
    #[must_use]
    pub const fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }

    /// Returns the address of a host; `None` for every address of both families.
    #[must_use]
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Any => None,
            Self::V4(address) => Some(IpAddr::V4(address)),
            Self::V6(address) => Some(IpAddr::V6(address)),
        }
    }

    /// Returns whether some socket could be reached through both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::V4(one), Self::V4(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
            (Self::V6(one), Self::V6(other)) => one == other || one.is_unspecified() || other.is_unspecified(),
            (Self::V4(_), Self::V6(v6)) | (Self::V6(v6), Self::V4(_)) => v6.is_unspecified(),
        }
    }
}

impl Address {
    /// Returns whether every socket that could be reached through the other one could be reached through this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            // As every address: a claim on `::` is for dual-stack sockets.
            (Self::V6(one), _) if one.is_unspecified() => true,
            (Self::V4(one), Self::V4(_)) if one.is_unspecified() => true,
            (one, other) => one == other,
        }
    }
}

/// The address [`Address::Any`] is shown as `*`, which is not read back: in the annotation, no address says it.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.pad("*"),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => address.fmt(f),
        }
    }
}

/// Reads an IPv4 address, or an IPv6 address without brackets, as Kubernetes does
/// (`ParseIPSloppy` in k8s.io/utils/net/parse.go): leading zeros in IPv4 are decimal.
impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('%') {
            return Err(AddressError::Zone);
        }
        let address = match text.rsplit_once(':') {
            None => decimal_v4(text).map(IpAddr::V4),
            Some((head, tail)) if tail.contains('.') => {
                decimal_v4(tail).and_then(|tail| format!("{head}:{tail}").parse().ok()).map(IpAddr::V6)
            }
            Some(_) => text.parse().ok().map(IpAddr::V6),
        };
        address.map(Self::new).ok_or(AddressError::Malformed)
    }
}

/// Parses an IPv4 address. The standard library refuses leading zeros, because others read them as octal.
fn decimal_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?.try_into().ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Parses a number of digits only, no sign; what is too large for a `u32` is [`u32::MAX`].
pub(crate) fn decimal(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.bytes().fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))))
}

/// Ports in a row, 1 to 65535, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Reason why two numbers are no [`PortRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PortRangeError {
    /// One end is 0, which asks the kernel for any free port and cannot be owned.
    #[error("port 0 cannot be claimed")]
    Zero,
    /// The last port is below the first one.
    #[error("the range is reversed")]
    Reversed,
}

impl PortRange {
    /// Makes a range of the ports from `first` to `last`.
    ///
    /// # Errors
    ///
    /// If one end is 0 or the last port is below the first one.
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if first == 0 || last == 0 {
            return Err(PortRangeError::Zero);
        }
        if first > last {
            return Err(PortRangeError::Reversed);
        }
        Ok(Self { first, last })
    }

    /// Makes a range of one port.
    ///
    /// # Errors
    ///
    /// If it is 0.
    pub const fn single(port: u16) -> Result<Self, PortRangeError> {
        Self::new(port, port)
    }

    /// Returns the lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns the number of ports, 1 to 65535.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Returns the ports, in ascending order.
    #[must_use]
    pub const fn iter(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Returns whether this port is among them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Returns whether some port is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl IntoIterator for PortRange {
    type Item = u16;
    type IntoIter = RangeInclusive<u16>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Returns the fewest ranges that hold exactly these ports, in ascending order. The ports may come in any order and
/// more than once; port 0 is left out.
#[must_use]
pub fn compress(ports: impl IntoIterator<Item = u16>) -> Vec<PortRange> {
    let mut ports: Vec<u16> = ports.into_iter().filter(|port| *port != 0).collect();
    ports.sort_unstable();
    let mut ranges: Vec<PortRange> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some(range) if port <= range.last.saturating_add(1) => range.last = port,
            _ => ranges.push(PortRange { first: port, last: port }),
        }
    }
    ranges
}

/// Ports of one owner, for a sentence: protocol, address, range.
pub type PortList = Vec<(Protocol, Address, PortRange)>;

/// Ports of a claim: ports of one protocol on one address, or on every address.
///
/// It is shown in the grammar of the annotation (`pods::annotation`), and what is shown is read back as the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: Address,
    /// The ports.
    pub ports: PortRange,
}

impl PortSpec {
    /// Returns its ports, by [`enforcer_ebpf::wire::port_index`].
    pub fn indexes(&self) -> impl Iterator<Item = u32> {
        self.ports.into_iter().map(|port| port_index(self.protocol, port))
    }

    /// Returns whether one socket could fall under both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.ports.overlaps(other.ports) && self.address.overlaps(other.address)
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Address::Any => {}
            Address::V4(address) => write!(f, "{address}:")?,
            Address::V6(address) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}/{}", self.ports, protocol_name(self.protocol))
    }
}

#[cfg(test)]
mod tests;
