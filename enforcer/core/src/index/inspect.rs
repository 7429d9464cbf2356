//! Questions of people: all claims with their status, all owners, and the verdict that a bind would get now.
//!
//! The rule: what only `status` and `explain` need is here. What the agent's loop needs is in [`super::query`].

use enforcer_ebpf::{
    decide::{
        Caller, CallerIdentity, Candidates, Cover, ModeOverride, Target, Verdict, decide, decide_held, may_share_with,
    },
    wire::{AddressKey, Policy, Protocol, Reason, Slot},
};

use crate::{
    arbitration::arbiter::{ClaimState, PortClaim},
    index::{Index, owner::OwnerState},
    model::{
        mode::Mode,
        name::Name,
        owner::{OwnerId, OwnerKind},
        port_spec::Address,
        source::ClaimSource,
    },
    plan::port_state::PortState,
};

/// Status of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimStatus {
    /// It is in force.
    InForce,
    /// It waits for its predecessor in the same workload to go, as it is meant to.
    Waits(OwnerId),
    /// It lost to a claim of this owner.
    Lost(OwnerId),
}

impl ClaimStatus {
    /// Returns its name in messages and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InForce => "inForce",
            Self::Waits(_) => "waiting",
            Self::Lost(_) => "lost",
        }
    }

    /// Returns the owner whose claim stands in the way.
    #[must_use]
    pub const fn behind(self) -> Option<OwnerId> {
        match self {
            Self::InForce => None,
            Self::Waits(owner) | Self::Lost(owner) => Some(owner),
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
pub struct OwnerView<'a> {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name.
    pub name: &'a Name,
    /// Has a deletionTimestamp.
    pub terminating: bool,
    /// Static pods and pods of the system namespaces: never denied.
    pub software: bool,
    /// The mode that its namespace sets, where that overrides the node's.
    pub mode: Option<Mode>,
    /// The owner is on the node's network; `None` as long as no source has said so.
    pub host_network: Option<bool>,
    /// The kernel can recognise its processes: it has a UID of its own and a place in the kernel's maps.
    pub recognised: bool,
}

impl Index {
    /// Returns all claims, in no order.
    pub fn claims(&self) -> impl Iterator<Item = ClaimView> {
        self.port_table.claims().map(|(protocol, port, stake)| self.view(protocol, port, stake))
    }

    /// Returns the claims on one port.
    pub fn claims_on(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = ClaimView> {
        let stakes = self.port_table.port(protocol, port).map(|(stakes, _)| stakes).unwrap_or_default();
        stakes.iter().map(move |stake| self.view(protocol, port, stake))
    }

    fn view(&self, protocol: Protocol, port: u16, stake: &PortClaim) -> ClaimView {
        let &PortClaim { owner, address, source, since, state: standing } = stake;
        let workload = self.owners.get(&owner).and_then(|owner| owner.workload);
        let stand = match standing {
            None | Some(ClaimState::InForce) => ClaimStatus::InForce,
            Some(ClaimState::LostTo(winner)) => {
                let heir = self.owners.get(&winner).and_then(OwnerState::handover_to);
                if heir.is_some() && heir == workload { ClaimStatus::Waits(winner) } else { ClaimStatus::Lost(winner) }
            }
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
            mode: owner.mode,
            host_network: owner.host_network,
            recognised: is_recognised(owner),
        })
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

    /// Returns the verdict of the kernel programs on a bind, by the same words and the same function, and the owner whose
    /// claim decides.
    /// The caller is a pod or, without one, any pod that is a stranger to every owner.
    #[must_use]
    pub fn judge(
        &self,
        caller: Option<OwnerId>,
        (protocol, port): (Protocol, u16),
        target: &Target,
        policy: &Policy,
        overrule: ModeOverride,
    ) -> (Verdict, Option<OwnerId>) {
        let (stakes, state) = self.port_table.port(protocol, port).unzip();
        let mut candidates = Candidates::of(state.map(PortState::word).unwrap_or_default(), Cover::of(target));
        if candidates.exact {
            let key = match target {
                Target::V4(address) => AddressKey::v4(protocol, port, *address),
                Target::V6 { address, .. } => AddressKey::v6(protocol, port, *address),
            };
            if let Some(&slot) = state.and_then(|state| state.exact().get(&key)) {
                candidates.slots[0] = slot;
                candidates.covered = true;
            }
        }
        let element = |slot: Slot| {
            let owners = stakes.unwrap_or_default().iter().filter_map(|stake| self.owners.get(&stake.owner));
            owners.into_iter().find(|owner| owner.slot == Some(slot)).map(OwnerState::element).unwrap_or_default()
        };
        let owners = candidates.slots.map(element);
        let known = caller.and_then(|id| self.owners.get(&id)).filter(|owner| is_recognised(owner));
        let caller = known.map_or(Caller::UnknownApi, |owner| Caller::Pod(owner.element()));
        let verdict = decide(&owners, candidates.covered, &CallerIdentity::from(&caller), port, policy, || overrule);
        (verdict, owners.get(usize::from(verdict.by)).and_then(|owner| OwnerId::new(owner.id())))
    }
}

impl Index {
    /// Returns the verdict on a bind of a socket that could share its port with one that somebody else holds, `holder` if that is a
    /// pod that is known: by the same functions as the programs'.
    #[must_use]
    pub fn judge_sharing(
        &self,
        caller: Option<OwnerId>,
        holder: Option<OwnerId>,
        policy: &Policy,
        overrule: ModeOverride,
    ) -> Verdict {
        let element = |id: Option<OwnerId>| {
            id.and_then(|id| self.owners.get(&id)).filter(|owner| is_recognised(owner)).map(OwnerState::element)
        };
        let kin = CallerIdentity::from(&element(caller).map_or(Caller::UnknownApi, Caller::Pod));
        let holder = element(holder).unwrap_or_default();
        if (holder.id() != 0 && holder.id() == kin.id) || may_share_with(&holder, &kin) {
            Verdict::allow(Reason::Unclaimed)
        } else {
            decide_held(&kin, policy, overrule)
        }
    }
}

/// Checks whether the kernel can recognise the owner's processes.
fn is_recognised(owner: &OwnerState) -> bool {
    owner.slot.is_some() && owner.key.is_some()
}
