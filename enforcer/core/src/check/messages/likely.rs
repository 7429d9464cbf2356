//! Sentences about claims that are only likely.

use std::fmt::Write as _;

use super::{MAX_LISTED, about};
use crate::{
    check::{
        PairConflict, common,
        finding::{Code, Finding, Severity},
        object::ManifestObject,
        pairs::{Overlap, Pair},
    },
    model::{
        list_text::comma_list,
        port_spec::{Address, PortSpec},
    },
    pods::claims::PodClaim,
};

/// Returns what a claim rests on: its source, and of a likely claim its container, what named it, and its line.
pub(super) fn basis(object: &ManifestObject, claim: &PodClaim) -> String {
    object.likely_port(claim).map_or_else(|| claim.source.to_string(), ToString::to_string)
}

fn is_guessed(overlap: &Overlap) -> bool {
    overlap.first.source.is_guessed() || overlap.second.source.is_guessed()
}

/// Formats overlaps in each of which a likely claim takes part, by who claims and why: `both are probed on 7004/tcp`, where
/// "it" is the second one.
pub(super) fn overlaps(conflict: &PairConflict<'_>, likely: &[&Overlap]) -> Vec<String> {
    let (guessed, probed): (Vec<&Overlap>, Vec<&Overlap>) = likely.iter().partition(|overlap| is_guessed(overlap));
    let mut phrases = Vec::new();
    for (sources, phrase) in [
        ((true, true), ["both are probed on ", ""]),
        ((true, false), ["it claims ", ", on which the other is probed"]),
        ((false, true), ["it is probed on ", ", which the other claims"]),
    ] {
        let of_kind = probed
            .iter()
            .filter(|overlap| (overlap.first.source.is_likely(), overlap.second.source.is_likely()) == sources);
        let ports: Vec<PortSpec> = of_kind.filter_map(|overlap| shared(overlap)).collect();
        if !ports.is_empty() {
            phrases.push(format!("{}{}{}", phrase[0], comma_list(ports, MAX_LISTED, 0), phrase[1]));
        }
    }
    phrases.extend(guessed.iter().take(MAX_LISTED).filter_map(|overlap| guess(conflict, overlap)));
    match guessed.len().saturating_sub(MAX_LISTED) {
        0 => {}
        more => phrases.push(format!("and {more} more that are likely")),
    }
    phrases
}

/// Returns the ports of an overlap, as the second one claims them.
fn shared(overlap: &Overlap) -> Option<PortSpec> {
    // Of two likely claims, the port counts, and not the address by which each is reached.
    let both = overlap.first.source.is_likely() && overlap.second.source.is_likely();
    let address = if both { Address::Any } else { overlap.second.spec.address };
    Some(PortSpec { ports: common(overlap)?, address, ..overlap.second.spec })
}

/// Formats an overlap that rests on an argument, a variable or `prometheus.io/port`.
fn guess(conflict: &PairConflict<'_>, overlap: &Overlap) -> Option<String> {
    let port = shared(overlap)?;
    let [first, second] = [(conflict.first, &overlap.first), (conflict.second, &overlap.second)]
        .map(|(object, claim)| basis(object, claim));
    Some(match (overlap.first.source.is_likely(), overlap.second.source.is_likely()) {
        (true, true) => format!("both most likely listen on {port} (it by {second}, the other by {first})"),
        (true, false) => format!("it claims {port}, on which the other most likely listens ({first})"),
        _ => format!("it most likely listens on {port} ({second}), which the other claims"),
    })
}

/// Returns the remedy for a conflict that rests on likely claims only: the lines that declare them.
pub(super) fn declarations(first: &ManifestObject, second: &ManifestObject, pair: &Pair) -> String {
    let overlap = pair.overlaps.first();
    let claims = [(first, overlap.map(|overlap| overlap.first)), (second, overlap.map(|overlap| overlap.second))];
    let lines: Vec<String> = claims.into_iter().filter_map(|(object, claim)| declaration(object, &claim?)).collect();
    format!(
        "where the program listens there, declare it, so that the scheduler counts it: add {}; then give one of them \
         another port",
        lines.join(", and ")
    )
}

/// Returns the line that declares a likely claim, and where it goes.
fn declaration(object: &ManifestObject, claim: &PodClaim) -> Option<String> {
    let port = object.likely_port(claim)?;
    let container = match &port.container {
        Some(name) => format!("container {name}"),
        None => "the container".to_owned(),
    };
    Some(format!("{} to {container} of {object}", port.declaration()))
}

/// Adds to a finding about one object's claim what it rests on, if it is likely only.
pub(super) fn explain(finding: &mut Finding, object: &ManifestObject, claim: &PodClaim) {
    if claim.source.is_guessed()
        && let Some(line) = declaration(object, claim)
    {
        write!(finding.message, "; {} is only likely: {}", claim.spec, basis(object, claim))
            .expect("writing to a string never fails");
        finding.remedy = format!("where the program listens there, declare it: add {line}; then {}", finding.remedy);
    }
}

/// Creates the note about an object of which no port is known for certain.
pub(in crate::check) fn unknown_ports(object: &ManifestObject, line: u32) -> Finding {
    let remedy = "declare each port it listens on, in its container: ports: [{containerPort: PORT}], or on the pod \
                  template: port-enforcer.io/ports: PORT/tcp (none if it listens on no port; docs/annotations.md)";
    let message = if object.claims.is_empty() {
        format!("{object} is on the host network, and none of its ports is known, so none is checked")
    } else {
        let likely = object.claims.iter().map(|claim| format!("{} ({})", claim.spec, basis(object, claim)));
        format!(
            "{object} is on the host network, and none of its ports is known for certain; most likely it listens on {}",
            comma_list(likely, MAX_LISTED, 0)
        )
    };
    let place = object.at(Some(line));
    about(object, place, Code::UnknownPorts, Severity::Note, message, remedy)
}
