//! Objects that Events are about, and reasons of Events.

use enforcer_ebpf::wire::{Reason, VerdictKind};

use crate::model::name::Name;

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventObject {
    /// A pod.
    Pod(Name),
    /// A Service.
    Service(Name),
    /// The node.
    Node(String),
}

impl EventObject {
    /// Returns the namespace of its Events: the node has none, and its Events are in `default`.
    #[must_use]
    pub fn event_namespace(&self) -> &str {
        match self {
            Self::Pod(name) | Self::Service(name) => &name.namespace,
            Self::Node(_) => "default",
        }
    }

    /// Returns the name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pod(name) | Self::Service(name) => &name.name,
            Self::Node(name) => name,
        }
    }

    /// Returns the UID by which `kubectl describe` looks for the object's Events: of a mirror pod the one in its
    /// annotation, of the node its name, as the kubelet does it.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Pod(name) | Self::Service(name) => name.mirror.as_ref().unwrap_or(&name.uid),
            Self::Node(name) => name,
        }
    }
}

/// Reason of an Event. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// A bind was denied.
    PortBindDenied,
    /// A bind would be denied in enforce mode.
    PortBindAudited,
    /// A bind fails because another one holds the port.
    PortInUse,
    /// Another one answers a port of a pod that is Ready.
    PortAnsweredByOther,
    /// A claim lost to another one.
    PortClaimConflict,
    /// A claim counts for nothing.
    PortClaimInvalid,
    /// A pod has the UID of another one, or passes for a static pod.
    PortIdentityRejected,
    /// A claim that had lost is in force.
    PortClaimGranted,
}

impl EventReason {
    /// Returns the word in the Event.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PortBindDenied => "PortBindDenied",
            Self::PortBindAudited => "PortBindAudited",
            Self::PortInUse => "PortInUse",
            Self::PortAnsweredByOther => "PortAnsweredByOther",
            Self::PortClaimConflict => "PortClaimConflict",
            Self::PortClaimInvalid => "PortClaimInvalid",
            Self::PortIdentityRejected => "PortIdentityRejected",
            Self::PortClaimGranted => "PortClaimGranted",
        }
    }

    /// Returns what was done when it happened: the Event's `action`.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::PortBindDenied | Self::PortBindAudited | Self::PortInUse | Self::PortAnsweredByOther => "Bind",
            Self::PortClaimConflict | Self::PortClaimInvalid | Self::PortIdentityRejected | Self::PortClaimGranted => {
                "Claim"
            }
        }
    }

    /// Returns the reason of the Events about an attempt; `None` if there are none. No reason of a verdict is left to a
    /// wildcard: a new one must be given its Event here.
    #[must_use]
    pub const fn of_attempt(verdict: VerdictKind, reason: Reason) -> Option<Self> {
        match reason {
            Reason::Held => Some(Self::PortInUse),
            Reason::Owner
            | Reason::Unclaimed
            | Reason::Share
            | Reason::Sibling
            | Reason::Handover
            | Reason::Claimed
            | Reason::Reserved
            | Reason::Undeclared
            | Reason::Stale
            | Reason::Error => match verdict {
                VerdictKind::Allow => None,
                VerdictKind::Audit => Some(Self::PortBindAudited),
                VerdictKind::Deny => Some(Self::PortBindDenied),
            },
        }
    }

    /// Checks whether it is good news: the Event's `type` is `Normal` then, else `Warning`.
    #[must_use]
    pub const fn is_normal(self) -> bool {
        match self {
            Self::PortClaimGranted => true,
            Self::PortBindDenied
            | Self::PortBindAudited
            | Self::PortInUse
            | Self::PortAnsweredByOther
            | Self::PortClaimConflict
            | Self::PortClaimInvalid
            | Self::PortIdentityRejected => false,
        }
    }
}
