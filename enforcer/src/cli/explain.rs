//! `enforcer explain`.

use std::{fmt::Write as _, str::FromStr};

use clap::Args;

use enforcer_core::{
    model::{port_spec::protocol_name, text::escape},
    views::explain::{ExplainQuestion, Explanation, explain},
};

use crate::cli::{
    Failure,
    agent_or_pins::NodeAccess,
    output::{TextFormat, TextOutput, json, print},
    values::Port,
};

/// Show who owns and who holds a port, and what would happen to a bind
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    enforcer explain 80\n  \
    enforcer explain 53/udp --pod kube-system/node-local-dns-x7k2p\n  \
    enforcer explain 9100/tcp -o json | jq '.binds[].verdict'")]
pub(super) struct Explain {
    /// The port, 1 to 65535, and the protocol: tcp (the default), udp or sctp
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Port,

    /// The pod that would bind it [default: a pod that does not own it]
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<PodName>,

    #[command(flatten)]
    output: TextOutput,

    #[command(flatten)]
    node: NodeAccess,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PodName {
    namespace: String,
    name: String,
}

impl FromStr for PodName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("write NAMESPACE/NAME, as default/nginx-0"),
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { port: Port { port, protocol }, pod, output: TextOutput { format }, node } = self;
        let mut path = format!("/explain?port={port}&protocol={}", protocol_name(protocol));
        if let Some(PodName { namespace, name }) = &pod {
            let _ = write!(path, "&pod={}/{}", encoded(namespace), encoded(name));
        }
        let explanation = node.ask(&path, |pinned| {
            for problem in pinned.problems() {
                eprintln!("enforcer: {}", escape(problem));
            }
            let pod = pod.as_ref().map(|PodName { namespace, name }| (namespace.as_str(), name.as_str()));
            explain(&ExplainQuestion { protocol, port, pod }, &pinned.snapshot()).map_err(Failure::usage)
        })?;
        print(&match format {
            TextFormat::Text => text(&explanation),
            TextFormat::Json => json(&explanation)?,
        })
    }
}

fn text(Explanation { message, remedy, .. }: &Explanation) -> String {
    let remedy = remedy.as_ref().map(|remedy| format!("remedy: {}\n", escape(remedy))).unwrap_or_default();
    format!("{}\n{remedy}", escape(message))
}

/// Encodes a text for a query: everything but letters, digits, `-`, `.` and `_` as `%XX`.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let code = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_are_read_and_refused() {
        assert!("default/web".parse::<PodName>().is_ok());
        for wrong in ["", "web", "/web", "default/"] {
            assert!(wrong.parse::<PodName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encoded("a&b=c d/ü\u{1b}"), "a%26b%3Dc%20d%2F%C3%BC%1B");
    }
}
