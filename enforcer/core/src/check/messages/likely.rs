//! Sentences about claims that are only likely.

use super::MAX_LISTED;
use crate::{
    check::{
        common,
        object::ManifestObject,
        pairs::{Overlap, Pair},
    },
    model::{
        list_text::comma_list,
        port_spec::{Address, PortSpec},
    },
};

/// Formats overlaps in each of which a likely claim takes part, by who claims and who is probed: `both are probed on
/// 7004/tcp`, where "it" is the second one.
pub(super) fn overlaps(likely: &[&Overlap]) -> Vec<String> {
    let mut phrases = Vec::new();
    for (sources, phrase) in [
        ((true, true), ["both are probed on ", ""]),
        ((true, false), ["it claims ", ", on which the other is probed"]),
        ((false, true), ["it is probed on ", ", which the other claims"]),
    ] {
        let of_kind = likely
            .iter()
            .filter(|overlap| (overlap.first.source.is_likely(), overlap.second.source.is_likely()) == sources);
        let ports: Vec<PortSpec> = of_kind
            .filter_map(|overlap| {
                // Of two probes, the port counts, and not the address by which each is reached.
                let address = if sources == (true, true) { Address::Any } else { overlap.second.spec.address };
                Some(PortSpec { ports: common(overlap)?, address, ..overlap.second.spec })
            })
            .collect();
        if !ports.is_empty() {
            phrases.push(format!("{}{}{}", phrase[0], comma_list(ports, MAX_LISTED, 0), phrase[1]));
        }
    }
    phrases
}

/// Returns the remedy for a conflict that rests on likely claims only: the lines that declare them.
pub(super) fn declarations(first: &ManifestObject, second: &ManifestObject, pair: &Pair) -> String {
    let overlap = pair.overlaps.first();
    let probed = [(first, overlap.map(|overlap| overlap.first)), (second, overlap.map(|overlap| overlap.second))];
    let lines: Vec<String> = probed
        .into_iter()
        .filter_map(|(object, claim)| {
            let port = object.probed_port(&claim?)?;
            Some(format!("{} to container {} of {object}", port.declaration(), port.container))
        })
        .collect();
    format!(
        "where the program listens there, declare it, so that the scheduler counts it: add {}; then give one of them \
         another port",
        lines.join(", and ")
    )
}
