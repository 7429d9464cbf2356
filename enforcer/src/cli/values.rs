//! Values of flags that several commands have.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use enforcer_core::model::port_spec::protocol_from_name;
use enforcer_ebpf::wire::Protocol;

use crate::host::reserved_ports_sysctl::{self, ReservedPorts};

pub(super) use enforcer_check::flags::NodeReserved;

/// Folder of the boot state; `None` keeps none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct BootStateFlag(pub(in crate::cli) Option<PathBuf>);

impl FromStr for BootStateFlag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("write a folder, as /var/lib/port-enforcer, or none"),
            "none" => Ok(Self(None)),
            path => Ok(Self(Some(path.into()))),
        }
    }
}

/// The list of reserved ports, and what of it is the agents'.
#[derive(Clone, Debug, Args)]
pub(super) struct ReservedPortsFlags {
    /// Folder for the list of ports that the agent reserved
    #[arg(long, env = "ENFORCER_STATE_DIR", value_name = "PATH", default_value = reserved_ports_sysctl::DEFAULT_FOLDER)]
    state_dir: PathBuf,

    /// Writable mount of the node's sysctls
    #[arg(long, env = "ENFORCER_PROC_SYS", value_name = "PATH", default_value = reserved_ports_sysctl::PROC_SYS)]
    proc_sys: PathBuf,
}

impl ReservedPortsFlags {
    /// Returns the list.
    pub(super) fn list(&self) -> ReservedPorts {
        ReservedPorts::new(&self.proc_sys, &self.state_dir)
    }
}

/// A port and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

impl FromStr for Port {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = port.and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        Ok(Self {
            port: port.ok_or("write a port from 1 to 65535, as 80, or with its protocol, as 53/udp")?,
            protocol: protocol_from_name(protocol).ok_or("the protocol is unknown; write /tcp, /udp or /sctp")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_refused() {
        assert_eq!("80".parse(), Ok(Port { port: 80, protocol: Protocol::Tcp }));
        assert_eq!("53/UDP".parse(), Ok(Port { port: 53, protocol: Protocol::Udp }));
        for wrong in ["", "0", "65536", "+80", "-1", "80/", "80/icmp", "80/tcp/udp", "http", "8 0"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
