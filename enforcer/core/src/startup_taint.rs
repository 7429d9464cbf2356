//! The startup taint: a taint with which a node registers, so that no pod starts on it before its binds are judged. The
//! agent removes it from its own Node.

mod schedule;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

pub use self::schedule::{AttemptOutcome, NextAttempt, NodeRead, TaintSchedule};

/// Longest part of a taint's key behind the slash, in characters.
const MAX_NAME: usize = 63;
/// Longest part of a taint's key before the slash, in characters.
const MAX_PREFIX: usize = 253;

/// Key of a taint. Safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintKey(String);

impl TaintKey {
    /// Returns the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaintKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for TaintKey {
    type Err = &'static str;

    /// Reads a key as the API server does (`IsQualifiedName` in `k8s.io/apimachinery`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = |part: &str, inside: &str, is_letter: fn(&char) -> bool| {
            part.starts_with(|first| is_letter(&first))
                && part.ends_with(|last| is_letter(&last))
                && part.chars().all(|one| is_letter(&one) || inside.contains(one))
        };
        let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
        let is_lower = |one: &char| one.is_ascii_lowercase() || one.is_ascii_digit();
        let is_prefix =
            |prefix: &str| prefix.len() <= MAX_PREFIX && prefix.split('.').all(|part| is_label(part, "-", is_lower));
        if name.len() <= MAX_NAME && is_label(name, "-_.", char::is_ascii_alphanumeric) && prefix.is_none_or(is_prefix)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err("write the key of a taint, as port-enforcer.io/agent-not-ready")
        }
    }
}

/// Effect of a taint that keeps pods from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// Pods are neither scheduled nor run.
    NoExecute,
    /// Pods are not scheduled.
    NoSchedule,
}

impl TaintEffect {
    /// Returns the name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoExecute => "NoExecute",
            Self::NoSchedule => "NoSchedule",
        }
    }

    /// Returns the effect of a taint. `PreferNoSchedule` keeps no pod away.
    fn of(taint: &Taint) -> Option<Self> {
        [Self::NoExecute, Self::NoSchedule].into_iter().find(|effect| effect.as_str() == taint.effect)
    }
}

/// Removal of the startup taint from a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintRemoval {
    /// The effects of the taints that it removes: the API server keeps one taint of each key and effect.
    pub effects: Vec<TaintEffect>,
    /// A JSON patch (RFC 6902) that fails if the Node is another one, or the taints are not where they were.
    pub patch: Value,
}

impl TaintRemoval {
    /// Returns the removal of the taints with this key; `None` if the Node has none.
    #[must_use]
    pub fn of(node: &Node, key: &TaintKey) -> Option<Self> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let mut effects = Vec::new();
        let mut patch = Vec::new();
        // From the last one on, so that the places of those before stay as they were read.
        for (index, taint) in taints.iter().enumerate().rev().filter(|(_, taint)| taint.key == key.as_str()) {
            let Some(effect) = TaintEffect::of(taint) else { continue };
            let place = format!("/spec/taints/{index}");
            patch.extend([
                json!({ "op": "test", "path": format!("{place}/key"), "value": taint.key }),
                json!({ "op": "test", "path": format!("{place}/effect"), "value": taint.effect }),
                json!({ "op": "remove", "path": place }),
            ]);
            effects.push(effect);
        }
        if effects.is_empty() {
            return None;
        }
        // A Node of the same name that registered meanwhile has a startup taint of its own.
        patch.insert(0, json!({ "op": "test", "path": "/metadata/uid", "value": node.metadata.uid }));
        effects.reverse();
        Some(Self { effects, patch: patch.into() })
    }
}
