//! Modes of the node and of namespaces.

/// Response to a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Conflicts are reported.
    Audit,
    /// Conflicts are denied and reported.
    Enforce,
}

impl Mode {
    /// Returns the mode's name in messages, labels and flags.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }

    /// Returns the mode with this name.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Audit, Self::Enforce].into_iter().find(|mode| mode.as_str() == word)
    }
}

/// Effect of the label [`NamespaceLabel::Mode`](crate::model::namespace_label::NamespaceLabel::Mode) of a namespace on
/// the mode for offenders in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceMode {
    /// It overrides the node's mode.
    Any,
    /// It may turn enforcement on, not off.
    Stricter,
    /// None.
    Off,
}
