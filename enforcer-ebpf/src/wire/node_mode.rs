//! `MODE`: the mode that an operator set on the node itself, beside whatever the agent was told.

/// The single word of the `MODE` array. It belongs to the node and not to an agent: every agent finds it as it was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum NodeMode {
    /// Nothing was set: the mode is the agent's.
    #[default]
    Unset = 0,
    /// Nothing is denied on this node, whatever the agent and the labels of namespaces say.
    Audit = 1,
    /// The node is in enforce mode, whatever the agent says. Labels of namespaces count as ever.
    Enforce = 2,
}

impl NodeMode {
    /// The word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self as u64
    }

    /// The mode with this word. A word that nobody writes counts as [`Self::Unset`].
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
    fn a_mode_survives_its_word() {
        for mode in [NodeMode::Unset, NodeMode::Audit, NodeMode::Enforce] {
            assert_eq!(NodeMode::from_word(mode.to_word()), mode);
        }
        assert_eq!(NodeMode::from_word(3), NodeMode::Unset);
    }
}
