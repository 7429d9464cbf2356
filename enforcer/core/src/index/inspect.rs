//! What `status` and `explain` read and nobody else: all claims with their status, and all owners.
//!
//! What the agent's loop looks up is in [`super::lookups`], the verdict that a bind would get in [`super::what_if`].

use enforcer_ebpf::wire::Protocol;

use crate::{
    arbitration::arbiter::{ClaimState, PortClaim},
    index::{Index, owner::OwnerState},
    model::{
        mode::Mode,
        name::Name,
        owner::{OwnerClass, OwnerId, OwnerKind},
        port_spec::Address,
        source::ClaimSource,
    },
};

/// Status of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimStatus {
    /// It is in force.
    InForce,
    /// It lost to a claim of this owner.
    Lost(OwnerId),
}

impl ClaimStatus {
    /// Returns its name in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InForce => "inForce",
            Self::Lost(_) => "lost",
        }
    }

    /// Returns the owner whose claim stands in the way.
    #[must_use]
    pub const fn behind(self) -> Option<OwnerId> {
        match self {
            Self::InForce => None,
            Self::Lost(owner) => Some(owner),
        }
    }
}

/// A claim on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimView {
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// Its address.
    pub address: Address,
    /// Its owner.
    pub owner: OwnerId,
    /// Place where it is declared.
    pub source: ClaimSource,
    /// Its arrival, in microseconds since 1970; [`i64::MIN`] for the node's.
    pub since: i64,
    /// Its status.
    pub stand: ClaimStatus,
}

/// An owner as far as it concerns those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not one state")]
pub struct OwnerView<'a> {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name.
    pub name: &'a Name,
    /// Has a deletionTimestamp.
    pub terminating: bool,
    /// Static pods and pods of the system namespaces: never denied.
    pub software: bool,
    /// Its claims are reported and never deny.
    pub advisory: bool,
    /// It is a static pod.
    pub is_static: bool,
    /// The mode that its namespace sets, where that overrides the node's.
    pub mode: Option<Mode>,
    /// The owner is on the node's network; `None` as long as no source has said so.
    pub host_network: Option<bool>,
    /// Kind and name of its workload; `None` for a pod without one, and where no source has said so.
    pub workload: Option<(&'a str, &'a str)>,
    /// The kernel can recognise its processes: it has a UID of its own and a place in the kernel's maps.
    pub recognised: bool,
}

impl Index {
    /// Returns all claims, in no order.
    pub fn claims(&self) -> impl Iterator<Item = ClaimView> {
        self.port_table.claims().map(|(protocol, port, stake)| Self::view(protocol, port, stake))
    }

    /// Returns the claims on one port.
    pub fn claims_on(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = ClaimView> {
        let stakes = self.port_table.port(protocol, port).map(|(stakes, _)| stakes).unwrap_or_default();
        stakes.iter().map(move |stake| Self::view(protocol, port, stake))
    }

    fn view(protocol: Protocol, port: u16, stake: &PortClaim) -> ClaimView {
        let &PortClaim { owner, address, source, since, state: standing } = stake;
        let stand = match standing {
            None | Some(ClaimState::InForce) => ClaimStatus::InForce,
            Some(ClaimState::LostTo(winner)) => ClaimStatus::Lost(winner),
        };
        ClaimView { protocol, port, address, owner, source, since, stand }
    }

    /// Returns an owner that is there.
    #[must_use]
    pub fn owner(&self, id: OwnerId) -> Option<OwnerView<'_>> {
        self.owners.get(&id).map(|owner| OwnerView {
            kind: owner.kind,
            name: &owner.name,
            terminating: owner.terminating,
            software: owner.class.is_software(),
            advisory: owner.advisory,
            is_static: owner.class == OwnerClass::Static,
            mode: owner.mode,
            host_network: owner.host_network,
            workload: owner.workload_name.as_ref().map(|(kind, name)| (kind.as_str(), name.as_str())),
            recognised: is_recognised(owner),
        })
    }

    /// Checks whether an owner is a Service.
    #[must_use]
    pub fn is_service(&self, id: OwnerId) -> bool {
        self.owners.get(&id).is_some_and(|owner| owner.kind == OwnerKind::Service)
    }

    /// Returns the pod of this name.
    #[must_use]
    pub fn pod_named(&self, namespace: &str, name: &str) -> Option<OwnerId> {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).copied()
    }

    /// Returns the namespaces that override the node's mode, and how.
    pub fn namespace_modes(&self) -> impl Iterator<Item = (&str, Mode)> {
        self.modes.keys().filter_map(|namespace| Some((namespace.as_str(), self.mode_of(namespace)?)))
    }
}

/// Checks whether the kernel can recognise the owner's processes.
pub(super) fn is_recognised(owner: &OwnerState) -> bool {
    owner.slot.is_some() && owner.key.is_some()
}
