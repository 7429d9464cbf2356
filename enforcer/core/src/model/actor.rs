//! Pods and processes by name, and who reads about them.

use std::fmt;

use enforcer_ebpf::wire::UidForm;

use crate::model::name::Name;

/// Pod or process that an attempt, a socket or a claim belongs to, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A pod or, as an owner, the node or a Service.
    Known(Name),
    /// A pod that no source has named, by the UID in the name of its cgroup.
    UnknownPod {
        /// The UID, in hex digits.
        uid: String,
        /// Form in which the UID is written.
        form: UidForm,
    },
    /// A process of the host.
    Host,
    /// A process of the host, by its systemd unit or, without one, by the path of its cgroup. Safe to show.
    HostUnit(String),
    /// A process below the attached root that is in no pod we know of.
    Unplaced,
}

impl Actor {
    /// Returns `namespace/name` of a pod that is known.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        match self {
            Self::Known(name) if !name.is_node() && !name.service => Some(name.to_string()),
            _ => None,
        }
    }

    /// Returns the namespace of a pod or Service that is known.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Known(name) if !name.is_node() => Some(&name.namespace),
            _ => None,
        }
    }
}

/// Safe to print.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => name.fmt(f),
            Self::UnknownPod { uid, form: UidForm::Api } => write!(f, "an unknown pod (UID {uid})"),
            Self::UnknownPod { uid, form: UidForm::Static } => write!(f, "an unknown static pod (UID {uid})"),
            Self::Host => f.write_str("a host process"),
            Self::HostUnit(path) if path.starts_with('/') => write!(f, "a host process in {path}"),
            Self::HostUnit(unit) => write!(f, "the host's {unit}"),
            Self::Unplaced => f.write_str("a process in no known pod"),
        }
    }
}

/// Readers of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Those who run the node: the log.
    Operators,
    /// Those who run one of the pods: its Event shows nothing of the other one's processes.
    Tenants,
}
