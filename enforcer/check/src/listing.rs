//! The claims of each object, known and likely, as a table for people and `grep`, and as JSON, which is documented in
//! docs/check.md.

use std::fmt::Write as _;

use enforcer_core::{
    check::{
        ManifestSet,
        finding::NamedObject,
        object::{ManifestObject, Unreadable},
    },
    model::text::escape,
    pods::claims::PodClaim,
};
use serde_json::{Value, json};

use crate::report::{counted, named_json};

/// Columns of the table. The last one may have spaces, the others have none where names of files have none.
const HEADER: [&str; 8] = ["KIND", "NAME", "PORTS", "STANDING", "SOURCE", "CONTAINER", "WHERE", "FROM"];
/// Cell with nothing in it, so that each line has every column.
const EMPTY: &str = "-";

/// Standing of a claim.
fn standing(claim: &PodClaim) -> &'static str {
    if claim.source.is_likely() { "likely" } else { "declared" }
}

/// Checks whether an object is on the host network, and nothing says on which ports.
fn is_silent(object: &ManifestObject) -> bool {
    object.unknown_ports.is_some() && object.claims.is_empty()
}

/// Returns the lines of the table that an object has: one for each claim. One on the host network of which no port is known
/// has one line; one without ports of the node has none.
fn rows(object: &ManifestObject) -> Vec<[String; HEADER.len()]> {
    let kind = object.kind_name.to_string();
    let name = format!("{}/{}", object.shown_namespace(), object.shown_name());
    let empty = || EMPTY.to_owned();
    if is_silent(object) {
        let place = object.at(object.unknown_ports).to_string();
        return vec![[kind, name, empty(), "unknown".to_owned(), empty(), empty(), place, empty()]];
    }
    let row = |claim: &PodClaim| {
        [
            kind.clone(),
            name.clone(),
            claim.spec.to_string(),
            standing(claim).to_owned(),
            claim.source.to_string(),
            object.container_of(claim).unwrap_or(EMPTY).to_owned(),
            object.place_of(claim).to_string(),
            object.likely_port(claim).map_or_else(empty, |likely| likely.name.clone()),
        ]
    };
    object.claims.iter().map(row).collect()
}

/// Returns the table, and a line with the counts.
pub(crate) fn claims_text(manifests: &ManifestSet) -> String {
    let objects = || manifests.new_objects();
    let rows: Vec<_> = std::iter::once(HEADER.map(str::to_owned)).chain(objects().flat_map(rows)).collect();
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:<width$}  ").expect("writing to a string never fails");
        }
        text += line.trim_end();
        text.push('\n');
    }
    for Unreadable { place, message, .. } in &manifests.unreadable {
        writeln!(text, "{place}: error: {message} [unreadable]").expect("writing to a string never fails");
    }
    let claims = || objects().flat_map(|object| &object.claims);
    let likely = claims().filter(|claim| claim.source.is_likely()).count();
    let without = objects().filter(|object| object.claims.is_empty() && !is_silent(object)).count();
    let written = writeln!(
        text,
        "{} of {}: {} declared, {likely} likely; {} on the host network without a known port; {} without ports of the node",
        counted(claims().count(), "claim", "claims"),
        counted(objects().count(), "object", "objects"),
        claims().count() - likely,
        counted(objects().filter(|object| is_silent(object)).count(), "object", "objects"),
        counted(without, "object", "objects"),
    );
    written.expect("writing to a string never fails");
    text
}

/// Returns all objects with their claims.
pub(crate) fn claims_json(manifests: &ManifestSet) -> Value {
    let object = |object: &ManifestObject| {
        let claim = |claim: &PodClaim| {
            let place = object.place_of(claim);
            json!({
                "port": claim.spec.to_string(),
                "standing": standing(claim),
                "source": claim.source.as_str(),
                "from": object.likely_port(claim).map(|likely| likely.name.as_str()),
                "container": object.container_of(claim),
                "file": &*place.file,
                "line": place.line,
            })
        };
        let mut json = named_json(&NamedObject::of(object));
        json["hostNetwork"] = object.host_network.into();
        json["unknownPorts"] = is_silent(object).into();
        json["share"] = object.share.as_deref().map(escape).into();
        json["claims"] = object.claims.iter().map(claim).collect();
        json
    };
    let unreadable = manifests
        .unreadable
        .iter()
        .map(|Unreadable { place, message, .. }| json!({"file": &*place.file, "line": place.line, "message": message}));
    json!({
        "apiVersion": "port-enforcer.io/v1alpha1",
        "kind": "ClaimList",
        "objects": manifests.new_objects().map(object).collect::<Value>(),
        "unreadable": unreadable.collect::<Value>(),
    })
}
