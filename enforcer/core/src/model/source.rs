//! Where claims come from.

use std::fmt;

/// Where a claim is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimSource {
    /// In the annotation `port-enforcer.io/ports`.
    Annotation,
    /// In the `ports` of a container.
    HostPort,
    /// By the node, with `--node-reserved`.
    Reserved,
    /// Unknown: the claim was in force before the agent started, and the source of pods has not listed its pod yet.
    Recovered,
}

impl ClaimSource {
    /// Returns the source's name in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::HostPort => "hostPort",
            Self::Reserved => "node-reserved",
            Self::Recovered => "remembered",
        }
    }
}

impl fmt::Display for ClaimSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
