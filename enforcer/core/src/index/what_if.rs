//! The verdict that a bind would get now, by the words and the function of the kernel programs.

use enforcer_ebpf::{
    decide::{
        Caller, CallerIdentity, Candidates, Cover, ModeOverride, Target, Verdict, decide, decide_held, may_share_with,
    },
    wire::{AddressKey, Policy, Protocol, Reason, Slot},
};

use crate::{
    index::{Index, inspect::is_recognised, owner::OwnerState},
    model::owner::OwnerId,
    plan::port_state::PortState,
};

impl Index {
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

    /// Returns the verdict on a bind of a socket that could share its port with one that somebody else holds, `holder`
    /// if that is a pod that is known: by the same functions as the programs'.
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
