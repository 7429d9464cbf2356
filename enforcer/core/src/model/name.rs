//! Names of owners.

use std::fmt;

use super::text::escape;

/// Name of an owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace; empty for the node.
    pub namespace: String,
    /// Name; empty for the node.
    pub name: String,
    /// UID as its object has it; empty for the node.
    pub uid: String,
    /// UID that Events about a mirror pod must carry to be shown: the value of its annotation `config.mirror`. `None` for
    /// other owners.
    pub mirror: Option<String>,
}

impl Name {
    /// Returns the name of the node itself.
    #[must_use]
    pub fn node() -> Self {
        Self { namespace: String::new(), name: String::new(), uid: String::new(), mirror: None }
    }

    /// Returns whether it names the node itself.
    #[must_use]
    pub fn is_node(&self) -> bool {
        self.name.is_empty()
    }
}

/// Writes `namespace/name`, safe to print, or `the node`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_node() {
            return f.pad("the node");
        }
        f.pad(&escape(&format!("{}/{}", self.namespace, self.name)))
    }
}
