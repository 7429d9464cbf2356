//! Labels of a namespace that count for its pods.

/// Label of a namespace that counts for its pods. Whoever may label namespaces grants what it says, as with Pod Security
/// admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceLabel {
    /// Mode for offenders in the namespace.
    Mode,
    /// Most ports that one pod of the namespace may claim.
    MaxPorts,
}

impl NamespaceLabel {
    /// Every label.
    pub const ALL: [Self; 2] = [Self::Mode, Self::MaxPorts];

    /// Returns the key of the label.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Mode => "port-enforcer.io/mode",
            Self::MaxPorts => "port-enforcer.io/max-ports",
        }
    }

    /// Returns the values that it may have, as people write them.
    #[must_use]
    pub const fn values(self) -> &'static str {
        match self {
            Self::Mode => "audit or enforce",
            Self::MaxPorts => "a number of ports",
        }
    }
}
