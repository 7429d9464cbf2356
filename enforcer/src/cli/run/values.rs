//! Values of the flags of `enforcer run`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use enforcer_core::{
    model::port_spec::{Address, PortSpec},
    pods::annotation,
    startup_taint::TaintKey,
};
use enforcer_ebpf::wire::Protocol;

/// Source of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceFlag {
    Api,
    Folder(PathBuf),
}

impl FromStr for SourceFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ if text == "api" => Ok(Self::Api),
            _ => Err("write api, or dir:PATH for a folder of Pod manifests".to_owned()),
        }
    }
}

/// Address to listen on; `None` is nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address = text.parse().map_err(|_| "write an address and a port, as 127.0.0.1:9489, or none")?;
        Ok(Self(Some(address)))
    }
}

/// Key of the startup taint; `None` is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartupTaint(pub(super) Option<TaintKey>);

impl FromStr for StartupTaint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|key| Self(Some(key))).map_err(|problem: &str| format!("{problem}, or none"))
    }
}

/// Ports on all addresses.
#[derive(Clone, Debug)]
pub(super) struct WholePorts(pub(super) Vec<PortSpec>);

impl FromStr for WholePorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ports = annotation::parse_list(text).map_err(|problem| problem.to_string())?;
        match ports.iter().find(|spec| spec.address != Address::Any || spec.protocol == Protocol::Sctp) {
            Some(spec) => Err(format!("{spec}: write a port of tcp or udp without an address")),
            None => Ok(Self(ports)),
        }
    }
}

/// Time for which enforcement outlives its agent; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease(pub(super) Option<Duration>);

/// Parses a lease.
pub(super) fn lease(text: &str) -> Result<Lease, String> {
    if text == "0" {
        return Ok(Lease(None));
    }
    duration(text).map(|lease| Lease(Some(lease).filter(|lease| !lease.is_zero())))
}

/// Parses a duration, as 60s, 2m or 1h.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration; write it as 60s, 2m or 1h");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}
