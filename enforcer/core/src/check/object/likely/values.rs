//! Values of flags and variables: ports, and addresses with a port.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::port_spec::{Address, PortRange, Protocol, protocol_from_name};

/// Schemes of what is no port.
const NO_PORTS: [&str; 5] = ["fd", "file", "npipe", "systemd", "unix"];

/// The host of an address, and what it says of who listens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// All addresses: nobody connects to that.
    Wildcard(Address),
    /// `*` or `+`, which is an address to listen on only.
    Star,
    /// The loopback address.
    Loopback(Address),
    /// Another address.
    Ip(Address),
    /// One that a variable has, which is not known.
    Variable,
    /// A name: another machine.
    Name,
}

impl Host {
    /// Returns the address to listen on; `None` for another machine.
    pub(super) fn address(self) -> Option<Address> {
        match self {
            Self::Wildcard(address) | Self::Loopback(address) | Self::Ip(address) => Some(address),
            Self::Star | Self::Variable => Some(Address::Any),
            Self::Name => None,
        }
    }

    /// Reads a host without a port.
    pub(super) fn new(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare {
            "" => return Self::Wildcard(Address::Any),
            "*" | "+" => return Self::Star,
            "localhost" => return Self::Loopback(Address::V4(Ipv4Addr::LOCALHOST)),
            _ if is_variable(bare) => return Self::Variable,
            _ => {}
        }
        match bare.parse() {
            Ok(address @ Address::V4(ip)) if ip.is_unspecified() => Self::Wildcard(address),
            Ok(address @ Address::V6(Ipv6Addr::UNSPECIFIED)) => Self::Wildcard(address),
            Ok(address @ Address::V4(ip)) if ip.is_loopback() => Self::Loopback(address),
            Ok(address @ Address::V6(Ipv6Addr::LOCALHOST)) => Self::Loopback(address),
            Ok(address) => Self::Ip(address),
            Err(_) => Self::Name,
        }
    }
}

/// An address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its host.
    pub(super) host: Host,
    /// Its port.
    pub(super) port: PortRange,
    /// The protocol that it names.
    pub(super) protocol: Option<Protocol>,
    /// It is written as a URL.
    pub(super) is_url: bool,
}

/// Checks whether a text is one variable of the kubelet or of a shell: `$(POD_IP)`, `${POD_IP}`, `$POD_IP`.
fn is_variable(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('$') else {
        return false;
    };
    let name = [('(', ')'), ('{', '}')]
        .into_iter()
        .find_map(|(open, close)| rest.strip_prefix(open)?.strip_suffix(close))
        .unwrap_or(rest);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads a port: digits only, and not 0.
pub(super) fn port(text: &str) -> Option<PortRange> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    PortRange::single(text.parse().ok().filter(|_| is_number)?).ok()
}

/// Reads a port with a protocol behind it or without: `53/udp`.
pub(super) fn port_and_protocol(text: &str) -> Option<(PortRange, Option<Protocol>)> {
    match text.split_once('/') {
        None => Some((port(text)?, None)),
        Some((number, name)) => Some((port(number)?, Some(protocol_from_name(name)?))),
    }
}

/// Reads an address with a port: `:80`, `[::]:80`, `$(NODE_IP):80`, `:53/udp`, `tcp://0.0.0.0:2375`.
pub(super) fn endpoint(text: &str) -> Option<Endpoint> {
    let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let is_word = |scheme: &str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte));
    if scheme.is_some_and(|scheme| NO_PORTS.contains(&scheme) || !is_word(scheme)) {
        return None;
    }
    // Behind the port of a URL comes a path.
    let rest = if scheme.is_some() { rest.split(['/', '?']).next().unwrap_or_default() } else { rest };
    let (host, number) = rest.rsplit_once(':')?;
    let (port, named) = port_and_protocol(number)?;
    let udp = scheme.is_some_and(|scheme| scheme.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("udp")));
    let protocol = named.or(udp.then_some(Protocol::Udp));
    // Without brackets, nobody can tell where an IPv6 address ends.
    let is_plain = host.starts_with('[') == host.ends_with(']') && (host.starts_with('[') || !host.contains(':'));
    Some(Endpoint {
        host: if is_plain { Host::new(host) } else { Host::Name },
        port,
        protocol,
        is_url: scheme.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_ports_are_read() {
        let v4 = |text: &str| text.parse::<Address>().unwrap();
        for (text, host) in [
            (":80", Some(Host::Wildcard(Address::Any))),
            ("0.0.0.0:80", Some(Host::Wildcard(v4("0.0.0.0")))),
            ("[::]:80", Some(Host::Wildcard(v4("::")))),
            ("*:80", Some(Host::Star)),
            ("http://+:80", Some(Host::Star)),
            ("localhost:80", Some(Host::Loopback(v4("127.0.0.1")))),
            ("127.0.0.2:80", Some(Host::Loopback(v4("127.0.0.2")))),
            ("[::1]:80", Some(Host::Loopback(v4("::1")))),
            ("10.0.0.1:80", Some(Host::Ip(v4("10.0.0.1")))),
            ("$(NODE_IP):80", Some(Host::Variable)),
            ("[$(NODE_IP)]:80", Some(Host::Variable)),
            ("${NODE_IP}:80", Some(Host::Variable)),
            ("$NODE_IP:80", Some(Host::Variable)),
            ("tcp://0.0.0.0:80", Some(Host::Wildcard(v4("0.0.0.0")))),
            ("http://0.0.0.0:80/path?x=1:2", Some(Host::Wildcard(v4("0.0.0.0")))),
            ("db:80", Some(Host::Name)),
            ("a$(X):80", Some(Host::Name)),
            ("::1:80", Some(Host::Name)),
            ("tcp:127.0.0.1:80", Some(Host::Name)),
            ("unix:///run/x.sock:80", None),
            (":0", None),
            (":65536", None),
            (":+80", None),
            (":", None),
            ("80", None),
            ("{{ .host }}:{{ .port }}", None),
            ("$(HOST):$(PORT)", None),
        ] {
            assert_eq!(endpoint(text).map(|endpoint| endpoint.host), host, "{text}");
        }
        let protocols = [":53/udp", ":53/tcp", "udp://:53", "udp4://:53", ":53", "tcp://:53"]
            .map(|text| endpoint(text).expect(text).protocol);
        let udp = Some(Protocol::Udp);
        assert_eq!(protocols, [udp, Some(Protocol::Tcp), udp, udp, None, None]);
        assert_eq!(endpoint(":53/icmp"), None);
    }

    #[test]
    fn ports_are_digits_only() {
        for (text, good) in
            [("80", true), ("65535", true), ("0", false), ("65536", false), ("+80", false), ("80s", false), ("", false)]
        {
            assert_eq!(port(text).is_some(), good, "{text}");
        }
    }
}
