//! The page of `-o html`: one file with its data, its style and its script, and no request to anywhere.
//!
//! The form of the data is what `html/page.js` reads. Everything in it is text that others chose: it is JSON in which no
//! character can end the element that it stands in, and the page shows it as text alone.

use std::{collections::HashMap, fmt::Write as _};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use enforcer_core::{
    cluster::host_ports::{ClusterConflict, HostPortRow, HostPorts, NodeKnowledge, is_same},
    ledger::node_host_ports::{LedgerActor, LedgerRow},
    model::text::escape,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

const PAGE: &str = include_str!("../html/page.html");
const STYLE: &str = include_str!("../html/page.css");
const SCRIPT: &str = include_str!("../html/page.js");

/// Bits of a row, as the page has them.
const CONFLICT: u8 = 1;
const HELD: u8 = 2;
const DECLARED: u8 = 4;
const IN_FORCE: u8 = 8;
const LOST: u8 = 16;
/// Place of the bits with the reach.
const REACH_SHIFT: u8 = 6;

/// Returns the page. `time`: now, in the form of RFC 3339.
pub(crate) fn page(ports: &HostPorts, cluster: &str, time: &str) -> Result<String, Failure> {
    let data = serde_json::to_string(&data(ports, cluster, time)).map_err(Failure::runtime)?;
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let title = format!("Host ports of {}", escape_html(&escape(cluster)));
    let (data, rest) = (escape_json(&data), PAGE);
    let mut page = String::with_capacity(PAGE.len() + STYLE.len() + SCRIPT.len() + data.len() + policy.len());
    // In one pass: what is filled in may itself look like a place to fill.
    let mut rest = rest;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or(("", after));
        page.push_str(before);
        page.push_str(match name {
            "CSP" => &policy,
            "TITLE" => &title,
            "STYLE" => STYLE,
            "DATA" => &data,
            "SCRIPT" => SCRIPT,
            _ => "",
        });
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

/// Returns the hash by which a policy names a style or a script.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escapes what could end a script element, or a line of a script, in JSON.
fn escape_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(safe, "\\u{:04x}", u32::from(character)).expect("writing to a string never fails");
            }
            character => safe.push(character),
        }
    }
    safe
}

/// Texts and actors that rows share, each once.
#[derive(Default)]
struct Pools {
    strings: Vec<String>,
    places: HashMap<String, usize>,
    actors: Vec<Value>,
    actor_places: HashMap<LedgerActor, usize>,
}

impl Pools {
    /// Starts with the empty text, whose place is 0.
    fn new() -> Self {
        let mut pools = Self::default();
        pools.string("");
        pools
    }

    fn string(&mut self, text: &str) -> usize {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        self.strings.push(text.to_owned());
        self.places.insert(text.to_owned(), self.strings.len() - 1);
        self.strings.len() - 1
    }

    fn actor(&mut self, actor: &LedgerActor) -> usize {
        if let Some(place) = self.actor_places.get(actor) {
            return *place;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let kind = match actor.kind.as_str() {
            _ if actor.kept_for.is_some() => 5,
            "pod" => 0,
            "node" => 1,
            "service" => 3,
            "unknownPod" => 4,
            _ => 2,
        };
        let name = [&actor.kept_for, &actor.name, &actor.unit, &actor.uid].into_iter().find_map(Clone::clone);
        let name = name.unwrap_or_else(|| if kind == 1 { String::new() } else { actor.to_string() });
        let namespace = if kind == 5 { String::new() } else { text(&actor.namespace) };
        // Of two namespaces, workloads of one name are two.
        let workload = match (&actor.workload, &actor.namespace) {
            (Some(workload), Some(namespace)) => match workload.split_once(' ') {
                Some((kind, name)) => format!("{kind} {namespace}/{name}"),
                None => workload.clone(),
            },
            _ => String::new(),
        };
        let (namespace, workload) = (self.string(&namespace), self.string(&workload));
        let container = self.string(&text(&actor.container));
        self.actors.push(json!([kind, namespace, name, workload, container]));
        self.actor_places.insert(actor.clone(), self.actors.len() - 1);
        self.actors.len() - 1
    }
}

fn data(ports: &HostPorts, cluster: &str, time: &str) -> Value {
    let HostPorts { nodes, ports, conflicts, api_version: _, kind: _ } = ports;
    let mut pools = Pools::new();
    let places: HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(place, node)| (node.name.as_str(), place)).collect();
    let place = |node: Option<&str>| node.and_then(|node| places.get(node)).map_or(json!(-1), |place| json!(place));
    let mut by_node: HashMap<&str, Vec<&ClusterConflict>> = HashMap::new();
    for conflict in conflicts {
        by_node.entry(&conflict.node).or_default().push(conflict);
    }
    let rows: Vec<Value> = ports
        .iter()
        .map(|HostPortRow { node, row, conflict }| {
            let rivals = node.as_deref().and_then(|node| by_node.get(node)).filter(|_| *conflict);
            let behind = row.behind.as_ref().or_else(|| rival(row, rivals?));
            let behind = behind.map_or(json!(-1), |actor| json!(pools.actor(actor)));
            let protocol = ["tcp", "udp", "sctp"].iter().position(|name| *name == row.protocol).unwrap_or(0);
            json!([
                place(node.as_deref()),
                protocol,
                row.first_port,
                row.last_port,
                pools.string(row.address.as_deref().unwrap_or_default()),
                pools.actor(&row.who),
                pools.string(row.source.as_deref().unwrap_or_default()),
                flags(row, *conflict),
                row.since.as_deref().map_or(0, seconds),
                behind,
            ])
        })
        .collect();
    let conflicts: Vec<Value> = conflicts
        .iter()
        .map(|ClusterConflict { node, conflict, message }| {
            let (who, other) = (pools.actor(&conflict.who), pools.actor(&conflict.other));
            json!([place(Some(node)), conflict.ports, conflict.kind, who, other, message])
        })
        .collect();
    let nodes: Vec<Value> = nodes
        .iter()
        .map(|node| {
            let known = match node.known {
                NodeKnowledge::Ledger => "ledger",
                NodeKnowledge::Manifests => "manifests",
            };
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            json!([node.name, known, text(&node.mode), text(&node.updated), node.left_out])
        })
        .collect();
    json!({
        "cluster": cluster,
        "time": time,
        "version": env!("CARGO_PKG_VERSION"),
        "nodes": nodes,
        "strings": pools.strings,
        "actors": pools.actors,
        "rows": rows,
        "conflicts": conflicts,
    })
}

/// Returns the other party of the first conflict that a row's user is in.
fn rival<'a>(row: &LedgerRow, conflicts: &[&'a ClusterConflict]) -> Option<&'a LedgerActor> {
    conflicts.iter().find_map(|conflict| {
        let (who, other) = (&conflict.conflict.who, &conflict.conflict.other);
        if is_same(who, &row.who) { Some(other) } else { is_same(other, &row.who).then_some(who) }
    })
}

fn flags(row: &LedgerRow, conflict: bool) -> u8 {
    let reach = match row.reach.as_str() {
        "all" => 0,
        "address" => 1,
        "loopback" => 2,
        _ => 3,
    };
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(conflict, CONFLICT)
        | bit(row.held, HELD)
        | bit(row.declared, DECLARED)
        | bit(row.standing.as_deref() == Some("inForce"), IN_FORCE)
        | bit(row.standing.as_deref() == Some("lost"), LOST)
        | reach << REACH_SHIFT
}

fn seconds(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, |time| time.as_second().max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_is_filled_in_one_pass_and_nothing_ends_its_data() {
        let hostile = "</script>{{SCRIPT}}<img src=x onerror=alert(1)>\u{2028}&";
        let page = page(&HostPorts::default(), hostile, "2026-11-29T00:00:00Z").unwrap();
        assert!(!page.contains("<img") && !page.contains('\u{2028}'), "the name is inert");
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        assert_eq!(page.matches("function buildModel(").count(), 1, "the script is there once");
        let (_, rest) = page.split_once(r#"id="data">"#).unwrap();
        let (data, _) = rest.split_once("</script>").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["cluster"], hostile);
    }
}
