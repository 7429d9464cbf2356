//! Values of flags.

use std::{str::FromStr, time::Duration};

use enforcer_core::{
    cluster::free::FreeQuestion,
    model::port_spec::{PortRange, Protocol, protocol_from_name},
};

/// A port, and a protocol if one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortFlag {
    pub(super) port: u16,
    pub(super) protocol: Option<Protocol>,
}

/// Ports in a row of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RangeFlag {
    range: PortRange,
    protocol: Protocol,
}

/// Longest time of a request; `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub(super) Option<Duration>);

impl RangeFlag {
    /// Returns the question for free ports of the range.
    pub(super) fn question(self, count: usize) -> FreeQuestion {
        FreeQuestion { protocol: self.protocol, range: self.range, count }
    }
}

impl FromStr for PortFlag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, protocol) = split(text)?;
        Ok(Self { port: number(port).ok_or("write a port from 1 to 65535, as 80 or 53/udp")?, protocol })
    }
}

impl FromStr for RangeFlag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (ports, protocol) = split(text)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let ends = number(first).zip(number(last));
        let range = ends.and_then(|(first, last)| PortRange::new(first, last).ok());
        let range = range.ok_or("write ports from 1 to 65535, the lower one first, as 8000-8999 or 8000-8999/udp")?;
        Ok(Self { range, protocol: protocol.unwrap_or(Protocol::Tcp) })
    }
}

fn split(text: &str) -> Result<(&str, Option<Protocol>), &'static str> {
    let Some((ports, protocol)) = text.split_once('/') else { return Ok((text, None)) };
    let protocol = protocol_from_name(protocol).ok_or("the protocol is unknown; write /tcp, /udp or /sctp")?;
    Ok((ports, Some(protocol)))
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

/// Parses the longest time of a request.
pub(super) fn timeout(text: &str) -> Result<Timeout, String> {
    if text == "0" {
        return Ok(Timeout(None));
    }
    let wrong = || format!("'{text}' is not a duration; write it as 30s or 2m");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    Ok(Timeout(Some(duration).filter(|duration| !duration.is_zero())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read_and_refused() {
        assert_eq!("80".parse(), Ok(PortFlag { port: 80, protocol: None }));
        assert_eq!("53/UDP".parse(), Ok(PortFlag { port: 53, protocol: Some(Protocol::Udp) }));
        for wrong in ["", "0", "65536", "+80", "-1", "80/", "80/icmp", "80/tcp/udp", "http"] {
            assert!(wrong.parse::<PortFlag>().is_err(), "{wrong}");
        }
        let range = |text: &str| text.parse::<RangeFlag>().map(|flag| flag.range.to_string());
        assert_eq!(range("8000-8010/udp"), Ok("8000-8010".to_owned()));
        assert_eq!(range("80"), Ok("80".to_owned()));
        for wrong in ["", "-", "1-", "-1", "2-1", "0-5", "1-65536", "1-2-3"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn timeouts_are_durations() {
        assert_eq!(timeout("0"), Ok(Timeout(None)));
        assert_eq!(timeout("90s"), Ok(Timeout(Some(Duration::from_secs(90)))));
        assert!(timeout("soon").is_err() && timeout("-5s").is_err());
    }
}
