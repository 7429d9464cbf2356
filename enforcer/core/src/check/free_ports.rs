//! Free ports for the remedies: near the one in question, and used by nobody who is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use enforcer_ebpf::wire::Protocol;

use super::{
    CheckResult, CheckSettings, ManifestSet,
    finding::{Code, Finding, Severity},
    messages,
};
use crate::{
    model::{
        free_ports::{MAX_PROPOSED, free_ports_near},
        list_text::comma_list,
        port_spec::{PortRange, PortSpec, protocol_name},
    },
    reserved_ports::PortSet,
};

/// Codes of findings that another port makes good.
const CURED: [Code; 6] =
    [Code::Conflict, Code::Shadowed, Code::Reserved, Code::NodePortRange, Code::Ephemeral, Code::Registry];

/// Ports that somebody uses, on whatever address.
struct UsedPorts(BTreeMap<Protocol, PortSet>);

impl UsedPorts {
    fn of(manifests: &ManifestSet, settings: &CheckSettings) -> Self {
        let claims = manifests.objects.iter().flat_map(|object| &object.claims).map(|claim| claim.spec);
        let services = manifests.services.iter().flat_map(|service| &service.claims).map(|claim| claim.spec);
        let registry = settings.registry.iter().flat_map(|registry| &registry.entries).map(|entry| entry.spec);
        let all = claims.chain(services).chain(registry).chain(settings.node_reserved.iter().copied());
        let distinct: BTreeSet<(Protocol, PortRange)> = all.map(|spec| (spec.protocol, spec.ports)).collect();
        let mut used: BTreeMap<Protocol, PortSet> = BTreeMap::new();
        for (protocol, ports) in distinct {
            let set = used.entry(protocol).or_default();
            for port in ports {
                set.insert(port);
            }
        }
        Self(used)
    }

    fn has(&self, protocol: Protocol, port: u16) -> bool {
        self.0.get(&protocol).is_some_and(|set| set.contains(port))
    }
}

/// Adds free ports to the remedies of findings that another port makes good.
pub(super) fn propose(manifests: &ManifestSet, settings: &CheckSettings, outcome: &mut CheckResult) {
    let mut used = None;
    let mut proposals: BTreeMap<(Protocol, u16), Vec<u16>> = BTreeMap::new();
    for finding in outcome.findings.iter_mut().filter(|finding| is_cured(finding)) {
        // Of a range, nobody knows where else there is room for all of it.
        let spec = finding.ports.first().and_then(|port| port.parse::<PortSpec>().ok());
        let Some(spec) = spec.filter(|spec| spec.ports.len() == 1) else {
            continue;
        };
        let key = (spec.protocol, spec.ports.first());
        let used = used.get_or_insert_with(|| UsedPorts::of(manifests, settings));
        let near = proposals
            .entry(key)
            .or_insert_with(|| free_ports_near(key, &settings.allocated, |port| used.has(spec.protocol, port)));
        if !near.is_empty() {
            let (port, protocol) = (spec.ports, protocol_name(spec.protocol));
            let near = comma_list(&*near, MAX_PROPOSED, 0);
            let written = write!(finding.remedy, "; free near {port}/{protocol}: {near}");
            written.expect("writing to a string never fails");
        }
    }
}

/// Checks whether another port makes it good. A Service has its node port from a range in which none is proposed.
fn is_cured(finding: &Finding) -> bool {
    let is_of_service = finding.object.as_ref().is_some_and(|object| &*object.kind == "Service");
    !is_of_service
        && finding.severity != Severity::Note
        && CURED.contains(&finding.code)
        && finding.remedy != messages::UNDECLARE
}
