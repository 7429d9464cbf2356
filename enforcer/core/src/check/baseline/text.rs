//! The text of a baseline: the same findings give the same text, and one finding more is one entry more.

use std::fmt::Write as _;

use super::{API_VERSION, AcceptedFinding, Baseline, KIND};
use crate::{
    check::{finding::Code, fingerprint::Fingerprint},
    yaml::scalar::{quoted, scalar},
};

/// Beginning of the file.
const HEADER: &str = "\
# Findings that are accepted for now, for: enforcer check --baseline FILE
# A finding that is not here, more severe or in need of more nodes counts. Written by --write-baseline FILE.
";

impl Baseline {
    /// Returns its text, with the entries by object.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{HEADER}apiVersion: {API_VERSION}\nkind: {KIND}\nfindings:");
        if self.entries.is_empty() {
            text += " []";
        }
        text.push('\n');
        let mut entries: Vec<(&Fingerprint, &AcceptedFinding)> = self.entries.iter().collect();
        entries.sort_by_key(|(fingerprint, entry)| {
            let AcceptedFinding { code, object, other, ports, .. } = entry;
            (object, code, other, ports, *fingerprint)
        });
        for (fingerprint, entry) in entries {
            push(&mut text, *fingerprint, entry);
        }
        text
    }
}

/// Returns a code: a word that this version does not know could be no text to YAML.
fn quoted_unless_known(code: &str) -> String {
    let is_known = Code::ALL.iter().any(|known| known.as_str() == code);
    if is_known { code.to_owned() } else { quoted(code) }
}

fn push(text: &mut String, fingerprint: Fingerprint, entry: &AcceptedFinding) {
    let AcceptedFinding { code, severity, nodes_needed, object, other, of_file, ports } = entry;
    let mut line = |begin: &str, key: &str, value: &str| {
        writeln!(text, "{begin} {key}: {value}").expect("writing to a string never fails");
    };
    line("-", "fingerprint", &quoted(&fingerprint.to_string()));
    line(" ", "code", &quoted_unless_known(code));
    line(" ", "severity", severity.as_str());
    if let Some(nodes) = nodes_needed {
        line(" ", "nodesNeeded", &nodes.to_string());
    }
    if *of_file {
        line(" ", "file", &quoted(object));
    } else {
        line(" ", "object", &scalar(object));
    }
    if !other.is_empty() {
        line(" ", "other", &scalar(other));
    }
    if !ports.is_empty() {
        let ports: Vec<String> = ports.iter().map(|port| scalar(port)).collect();
        line(" ", "ports", &format!("[{}]", ports.join(", ")));
    }
}
