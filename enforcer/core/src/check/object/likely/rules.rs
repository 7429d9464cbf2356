//! The rules: which settings of a program name a port that it listens on.
//!
//! | value | claim if |
//! | --- | --- |
//! | all addresses: `:80`, `0.0.0.0:80`, `[::]:80`, `*:80` | the name is not of another program's port; nobody connects to it |
//! | loopback, `$(IP):80` | the name says listen or bind, or is the address of something served: `--metrics-addr` |
//! | another address | the name says listen or bind, or of what is for operators: metrics, health, admin, … |
//! | a name: `db:5432` | never |
//! | a number | the name ends in port, and the word before is of something served; or it ends in listen or bind |
//!
//! Nothing is claimed of what another setting turns off: `ENABLE_METRICS=false` beside `METRICS_PORT`.
//!
//! A number has its address from the setting beside it: `--bind-address` with `--secure-port`, `--metrics-host` with
//! `--metrics-port`. If that is another machine's name, then so is the port: `DB_HOST` with `DB_PORT`.

use super::{
    names::{Name, Ownership, ValueKind},
    settings::{Scope, Setting},
    values::{Endpoint, Host, endpoint, port_and_protocol},
};
use crate::model::{
    port_spec::{Address, PortRange, PortSpec, Protocol},
    source::ClaimSource,
};

/// Most addresses of one value.
const MAX_LISTED: usize = 16;
/// Numbers below are no ports but switches where the name does not say port: `--listen=1`.
const MIN_UNNAMED: u16 = 10;

/// Values that turn something off.
const OFF: [&str; 6] = ["0", "False", "false", "no", "off", "FALSE"];

/// Returns the ports that a program with these settings most likely listens on, each with its setting.
pub(super) fn listeners(scope: &Scope) -> impl Iterator<Item = (PortSpec, &Setting)> {
    let of = move |setting: &Setting| listeners_of(setting, scope);
    scope.settings.iter().flat_map(move |setting| of(setting).into_iter().map(move |spec| (spec, setting)))
}

fn listeners_of(setting: &Setting, scope: &Scope) -> Vec<PortSpec> {
    let Setting { name, value, .. } = setting;
    let ownership = name.ownership();
    let is_own = ownership != Ownership::Foreign && !is_off(name, scope);
    let Some(value) = value.as_deref().filter(|_| is_own) else {
        return Vec::new();
    };
    let spec = |ports, protocol: Option<Protocol>, address| {
        let by_name = if name.is_udp() { Protocol::Udp } else { Protocol::Tcp };
        PortSpec { protocol: protocol.unwrap_or(by_name), address, ports }
    };
    if let Some((ports, protocol)) = port_and_protocol(value.trim()) {
        let address = port_address(setting, scope, ports);
        return address.map(|address| spec(ports, protocol, address)).into_iter().collect();
    }
    // Of a list such as `0.0.0.0:80, 0.0.0.0:443 ssl`, the words behind an address are options.
    let addresses: Vec<Option<Endpoint>> =
        value.split(',').take(MAX_LISTED).map(|item| item.split_whitespace().next().and_then(endpoint)).collect();
    let is_list = addresses.len() > 1;
    let listens = |endpoint: &Endpoint| is_listener(name, ownership, endpoint, is_list, scope.source);
    let address = |found: Endpoint| Some(spec(found.port, found.protocol, found.host.address()?));
    addresses.into_iter().flatten().filter(listens).filter_map(address).collect()
}

/// Checks whether another setting turns off what has this name: `ENABLE_METRICS=false` beside `METRICS_PORT`.
fn is_off(name: &Name, scope: &Scope) -> bool {
    let is_false = |setting: &Setting| setting.value.as_deref().is_some_and(|value| OFF.contains(&value));
    let switched = |setting: &Setting| setting.name.switched_stem().is_some_and(|stem| stem == name.stem());
    scope.settings.iter().any(|setting| is_false(setting) && switched(setting))
}

/// Checks whether a program listens on an address that is the value of this name.
fn is_listener(name: &Name, ownership: Ownership, found: &Endpoint, is_list: bool, source: ClaimSource) -> bool {
    let is_variable = source == ClaimSource::Environment;
    match found.host {
        Host::Name => false,
        Host::Star => true,
        _ if ownership == Ownership::Listening => true,
        // A URL is what clients have, and some of them write 0.0.0.0.
        Host::Wildcard(_) => !found.is_url || !name.is_url() && name.kind() == ValueKind::Address,
        _ if found.is_url || is_list || name.is_host() => false,
        Host::Loopback(_) | Host::Variable => match name.kind() {
            ValueKind::Port => false,
            ValueKind::Address => {
                ownership == Ownership::Observed
                    || ownership == Ownership::Served && (!is_variable || name.is_unprefixed())
            }
            ValueKind::Unknown => ownership == Ownership::Observed || name.is_admin(),
        },
        Host::Ip(_) => name.kind() == ValueKind::Address && ownership == Ownership::Observed,
    }
}

/// Returns the address of the program's own port; `None` if it may be another program's.
fn port_address(setting: &Setting, scope: &Scope, ports: PortRange) -> Option<Address> {
    let name = &setting.name;
    let ownership = name.ownership();
    if name.kind() != ValueKind::Port {
        let is_port = name.ends_in_listening() && ports.first() >= MIN_UNNAMED;
        return is_port.then_some(Address::Any);
    }
    // A variable of this name in small letters is a setting of something else as often as not.
    if scope.source == ClaimSource::Environment && name.is_bare_port() && setting.shown != "PORT" {
        return None;
    }
    let is_own = ownership > Ownership::Unknown;
    let Some((beside, host)) = address_beside(name, scope) else {
        return is_own.then_some(Address::Any);
    };
    let says_listen = ownership == Ownership::Listening || beside.name.ownership() == Ownership::Listening;
    match host {
        Host::Name => None,
        Host::Wildcard(_) | Host::Star => host.address(),
        Host::Variable => (is_own && says_listen).then_some(Address::Any),
        Host::Loopback(_) => host.address().filter(|_| is_own),
        Host::Ip(_) => host.address().filter(|_| is_own && (says_listen || !beside.name.is_host())),
    }
}

/// Returns the setting that has the address for a port, and the address.
fn address_beside<'a>(name: &Name, scope: &'a Scope) -> Option<(&'a Setting, Host)> {
    let addresses = || {
        scope.settings.iter().filter_map(|setting| {
            let is_address = setting.name.kind() == ValueKind::Address || setting.name.ends_in_listening();
            if !is_address {
                return None;
            }
            match setting.value.as_deref() {
                // From another object or the pod's status.
                None => Some((setting, Host::Variable)),
                Some(value) if endpoint(value).is_some() || port_and_protocol(value).is_some() => None,
                Some(value) => Some((setting, Host::new(value.trim()))),
            }
        })
    };
    let stem = name.stem();
    let same = |stem: &[&str]| addresses().find(|(setting, _)| setting.name.stem() == stem);
    // One address for both of a server's protocols: `--host` with `--http-port`.
    same(&stem).or_else(|| if matches!(stem.as_slice(), ["http" | "https"]) { same(&[]) } else { None })
}
