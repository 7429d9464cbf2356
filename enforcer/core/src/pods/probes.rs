//! Targets of a pod's probes, and whether the pod says that it serves them.
//!
//! The kubelet connects to the address of the pod, which is the node's for a pod on the host network, or to the probe's
//! `host`. Whoever listens there answers, be it the pod or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::util::intstr::IntOrString};

use super::pod::running_containers;
use crate::model::port_spec::Address;

/// Most targets of one pod that are kept. The lowest ports count.
pub const MAX_TARGETS: usize = 32;
/// Time between two probes where the object names none, in seconds (`SetDefaults_Probe` in
/// pkg/apis/core/v1/defaults.go).
const DEFAULT_PERIOD: u16 = 10;

/// Probes of a pod on the host network, as far as they connect to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// The pod runs and is Ready, or it runs and nothing could say that it is not Ready.
    pub is_ready: bool,
    /// Address of the pod; `None` as long as its status has none.
    pub address: Option<IpAddr>,
    /// Shortest time between two of its probes, in seconds, at least 1; the default where it has none.
    pub period: u16,
    /// Targets with a known address, in ascending order, [`MAX_TARGETS`] at most.
    pub targets: Box<[ProbeTarget]>,
}

/// Address and TCP port that a probe connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeTarget {
    /// The port, never 0.
    pub port: u16,
    /// The address, canonical and never a wildcard.
    pub address: IpAddr,
    /// The address is one of the node. Another one may be of another machine, unless a socket has exactly that address.
    pub is_local: bool,
}

impl Probes {
    /// Reads the probes of a pod; `None` for a pod with a network of its own. A target that cannot be read is left out.
    #[must_use]
    pub fn of(object: &api::Pod) -> Option<Self> {
        let spec = object.spec.as_ref().filter(|spec| spec.host_network == Some(true))?;
        let status = object.status.as_ref();
        let addresses = addresses(status);
        let mut targets: Vec<ProbeTarget> = Vec::new();
        let mut period: Option<u16> = None;
        for container in running_containers(spec) {
            for probe in probes(container) {
                let wanted = u16::try_from(probe.period_seconds.unwrap_or_default()).unwrap_or(DEFAULT_PERIOD);
                let wanted = if wanted == 0 { DEFAULT_PERIOD } else { wanted };
                period = Some(period.map_or(wanted, |period| period.min(wanted)));
                targets.extend(target(probe, container, &addresses));
                if targets.len() > 2 * MAX_TARGETS {
                    limit(&mut targets);
                }
            }
        }
        limit(&mut targets);
        Some(Self {
            is_ready: is_ready(spec, status),
            address: addresses.first().copied(),
            period: period.unwrap_or(DEFAULT_PERIOD),
            targets: targets.into_boxed_slice(),
        })
    }
}

/// Returns the address of a probe's `host`, [`Address::Any`] where it names none; `None` for a name, which may be another
/// machine's.
#[must_use]
pub(crate) fn host_address(host: &str) -> Option<Address> {
    match host {
        "" => Some(Address::Any),
        "localhost" => Some(Address::V4(Ipv4Addr::LOCALHOST)),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}

fn limit(targets: &mut Vec<ProbeTarget>) {
    targets.sort_unstable();
    targets.dedup();
    targets.truncate(MAX_TARGETS);
}

fn probes(container: &api::Container) -> impl Iterator<Item = &api::Probe> {
    [&container.readiness_probe, &container.liveness_probe, &container.startup_probe].into_iter().flatten()
}

/// Returns the addresses of the pod, that of its probes first.
fn addresses(status: Option<&api::PodStatus>) -> Vec<IpAddr> {
    let Some(status) = status else {
        return Vec::new();
    };
    let others = status.pod_ips.iter().flatten().map(|ip| Some(ip.ip.as_str()));
    let all = [status.pod_ip.as_deref()].into_iter().chain(others).chain([status.host_ip.as_deref()]);
    // More than one of each family is no pod's.
    let parsed = all.flatten().filter_map(|text| text.parse::<Address>().ok()?.ip());
    parsed.filter(|address| !address.is_unspecified()).take(4).collect()
}

fn is_ready(spec: &api::PodSpec, status: Option<&api::PodStatus>) -> bool {
    let Some(status) = status.filter(|status| status.phase.as_deref() == Some("Running")) else {
        return false;
    };
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    condition.map_or_else(
        || running_containers(spec).all(|container| container.readiness_probe.is_none()),
        |condition| condition.status == "True",
    )
}

fn target(probe: &api::Probe, container: &api::Container, addresses: &[IpAddr]) -> Option<ProbeTarget> {
    let (port, host) = if let Some(http) = &probe.http_get {
        (number(&http.port, container)?, http.host.as_deref())
    } else if let Some(tcp) = &probe.tcp_socket {
        (number(&tcp.port, container)?, tcp.host.as_deref())
    } else {
        (probe.grpc.as_ref()?.port, None)
    };
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let address = match host_address(host.unwrap_or_default())?.ip() {
        None => *addresses.first()?,
        // A connection to a wildcard address goes to the loopback.
        Some(IpAddr::V4(address)) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(address)) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        Some(address) => address,
    };
    let is_local = address.is_loopback() || addresses.contains(&address);
    Some(ProbeTarget { port, address, is_local })
}

/// Returns the number of a probe's port, as the kubelet finds it (`ResolveContainerPort` in pkg/probe/util.go): a name is
/// that of a port of the container, or a number in a text.
fn number(port: &IntOrString, container: &api::Container) -> Option<i32> {
    match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    }
}

#[cfg(test)]
mod tests;
