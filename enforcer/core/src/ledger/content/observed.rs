//! Rows of the ports that pods bound and do not declare.

use std::collections::BTreeMap;

use enforcer_ebpf::wire::Protocol;

use super::{LedgerInputs, MAX_OBSERVED, count, text};
use crate::{
    index::Index,
    ledger::node_host_ports::ObservedRow,
    model::port_spec::{Address, compress, protocol_name},
    sockets::observed_ports::{BindKind, ObservedPort, WorkloadName, is_declared_by},
    views::node_snapshot::{ClaimRun, time},
};

/// Most binds without room that are counted: the count must come to rest, whatever a pod binds.
const MAX_LEFT_OUT: u64 = 1000;

/// Properties in common of the ports of a row.
type RowKey<'a> = (BindKind, &'a WorkloadName, Option<&'a str>, Protocol, Address, u32, u32);

/// Returns the rows, neighbouring ports as one, and the count of those without room. Ports that some pod of the workload
/// declares by now are left out: its template names them.
pub(super) fn rows(inputs: &LedgerInputs<'_>, runs: &[ClaimRun], index: &Index) -> (Vec<ObservedRow>, u32) {
    let Some(observed) = inputs.observed else { return (Vec::new(), 0) };
    let mut claims: BTreeMap<WorkloadName, Vec<&ClaimRun>> = BTreeMap::new();
    for run in runs {
        if let Some(workload) = WorkloadName::of_owner(run.owner, index) {
            claims.entry(workload).or_default().push(run);
        }
    }
    let is_declared = |port: &ObservedPort<'_>| {
        let address = port.address.map_or(Address::Any, Address::new);
        claims.get(port.workload).is_some_and(|runs| {
            runs.iter().any(|run| {
                run.protocol == port.protocol && run.ports.contains(port.port) && is_declared_by(address, run.address)
            })
        })
    };
    let mut groups: BTreeMap<RowKey<'_>, BTreeMap<u16, i64>> = BTreeMap::new();
    for port in observed.ports(inputs.ephemeral.as_ref()).filter(|port| !is_declared(port)) {
        let ObservedPort { workload, container, protocol, port, address, kind, pods, of_pods, first } = port;
        let address = address.map_or(Address::Any, Address::new);
        let key = (kind, workload, container, protocol, address, pods, of_pods);
        groups.entry(key).or_default().insert(port, first);
    }
    let mut rows = Vec::new();
    for ((kind, workload, container, protocol, address, pods, of_pods), ports) in groups {
        for range in compress(ports.keys().copied()) {
            let first = range.iter().filter_map(|port| ports.get(&port)).min().copied().unwrap_or_default();
            rows.push(ObservedRow {
                namespace: text(&workload.namespace),
                workload: text(&format!("{} {}", workload.kind, workload.name)),
                container: container.map(text),
                protocol: protocol_name(protocol).to_owned(),
                first_port: range.first(),
                last_port: range.last(),
                address: address.ip().map(|address| address.to_string()),
                kind: kind.as_str().to_owned(),
                pods,
                of_pods,
                since: time(first / 1_000_000 * 1_000_000),
            });
        }
    }
    let beyond = rows.len().saturating_sub(MAX_OBSERVED);
    rows.truncate(MAX_OBSERVED);
    (rows, count(beyond) + u32::try_from(observed.left_out().min(MAX_LEFT_OUT)).unwrap_or(u32::MAX))
}
