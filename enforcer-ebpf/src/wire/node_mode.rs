//! `MODE`: the mode that an operator sets on the node itself, and that overrides the agent's.

/// The single word of the `MODE` array. It belongs to the node and not to an agent: every agent finds it as the one
/// before left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum NodeMode {
    /// No override: the mode is the agent's.
    #[default]
    Unset = 0,
    /// No bind is denied on this node, whatever the agent and the labels of namespaces say.
    Audit = 1,
    /// The node is in enforce mode, whatever the agent says. Labels of namespaces count as ever.
    Enforce = 2,
}

impl NodeMode {
    /// Returns the word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self as u64
    }

    /// Returns the mode with this word. A word that nobody writes counts as [`Self::Unset`].
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Audit,
            2 => Self::Enforce,
            _ => Self::Unset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_survives_its_word() {
        for mode in [NodeMode::Unset, NodeMode::Audit, NodeMode::Enforce] {
            assert_eq!(NodeMode::from_word(mode.to_word()), mode);
        }
        assert_eq!(NodeMode::from_word(3), NodeMode::Unset);
    }
}
