//! The product's own decision in user space, fed from the model's claims instead of from the maps.

use std::net::IpAddr;

use enforcer_core::{
    model::{
        owner::{ClaimGroup, ClaimParty, OwnerId},
        port_spec::Address,
    },
    plan::port_state::{ActivePortClaim, PortState},
};
use enforcer_ebpf::{
    decide::{Caller, CallerIdentity, Candidates, Cover, ModeOverride, Target, decide},
    wire::{
        AddressKey, CGROUP_UNKNOWN, OWNER_ADVISORY, OWNER_NODE, OWNER_SERVICE, OWNER_SOFTWARE, OWNER_TERMINATING,
        Owner, Protocol, Reason, Slot, VerdictKind,
    },
};

use enforcer_testing::reconciler_fixture::features;

use super::{
    case::{Attempt, Case, Member, UNRESOLVED},
    model::{By, Claimed, World, is_static},
};

const NODE_SLOT: Slot = 1;
const SERVICE_SLOT: Slot = 2;

fn slot(by: By) -> Slot {
    match by {
        By::Node => NODE_SLOT,
        By::Service => SERVICE_SLOT,
        By::Pod(place) => SERVICE_SLOT + 1 + Slot::try_from(place).expect("a few"),
    }
}

/// A number for a name within a namespace, 0 for no name.
fn number(namespace: &str, name: Option<&str>) -> u32 {
    let Some(name) = name else {
        return 0;
    };
    let text = format!("{namespace}/{name}");
    text.bytes().fold(7, |number: u32, byte| number.wrapping_mul(31).wrapping_add(u32::from(byte))) | 1
}

fn group(member: &Member) -> u32 {
    number(member.namespace, member.share)
}

fn workload(member: &Member) -> u32 {
    number(member.namespace, member.workload)
}

fn owner(case: &Case, by: By) -> Owner {
    let id = u32::from(slot(by));
    let place = match by {
        By::Node => return Owner::new(CGROUP_UNKNOWN, id, OWNER_NODE, 0, 0, 0),
        By::Service => return Owner::new(CGROUP_UNKNOWN, id, OWNER_SERVICE | OWNER_ADVISORY, 0, 0, 0),
        By::Pod(place) => place,
    };
    let member = case.members[place].as_ref().expect("only pods that are known claim");
    let mut flags = 0;
    if is_static(place) || member.namespace == "kube-system" {
        flags |= OWNER_SOFTWARE;
    }
    if member.terminating {
        flags |= OWNER_TERMINATING;
    }
    Owner::new(CGROUP_UNKNOWN, id, flags, 0, group(member), workload(member))
}

fn in_force(case: &Case, claim: &Claimed) -> ActivePortClaim {
    let (party, is_leaving) = match claim.by {
        By::Node => (ClaimGroup::Node.into(), false),
        By::Service => {
            let owner = OwnerId::new(slot(claim.by).into()).expect("slot 0 is nobody's");
            (ClaimGroup::Pod(owner).into(), false)
        }
        By::Pod(place) => {
            let member = case.members[place].as_ref().expect("only pods that are known claim");
            let group = match group(member) {
                0 => ClaimGroup::Pod(OwnerId::new(slot(claim.by).into()).expect("slot 0 is nobody's")),
                group => ClaimGroup::Group(group),
            };
            let workload = Some(workload(member)).filter(|workload| *workload != 0);
            (ClaimParty { group, workload }, member.terminating)
        }
    };
    let address = match claim.address {
        "*" => Address::Any,
        address => Address::new(address.parse().expect("an address")),
    };
    ActivePortClaim { address, slot: slot(claim.by), party, is_leaving }
}

fn target(attempt: &Attempt) -> Target {
    match attempt.bind().address.to_canonical() {
        IpAddr::V4(address) => Target::V4(address.octets()),
        IpAddr::V6(address) => {
            let v6only = attempt.address.starts_with("only") && features().probe_read;
            Target::V6 { address: address.octets(), v6only }
        }
    }
}

pub(super) fn decide_in_user_space(case: &Case, world: &World, attempt: &Attempt) -> (VerdictKind, Reason) {
    let protocol = if attempt.udp { Protocol::Udp } else { Protocol::Tcp };
    let here = world.in_force.iter().filter(|claim| (claim.port, claim.udp) == (attempt.port, attempt.udp));
    let claims: Vec<ActivePortClaim> = here.map(|claim| in_force(case, claim)).collect();
    let state = PortState::of(protocol, attempt.port, &claims);
    let target = target(attempt);
    let mut candidates = Candidates::of(state.word(), Cover::of(&target));
    if candidates.exact {
        let key = match target {
            Target::V4(address) => AddressKey::v4(protocol, attempt.port, address),
            Target::V6 { address, .. } => AddressKey::v6(protocol, attempt.port, address),
        };
        if let Some(&slot) = state.exact().get(&key) {
            candidates.slots[0] = slot;
            candidates.covered = true;
        }
    }
    let owners = candidates.slots.map(|wanted| {
        let claim = world.in_force.iter().find(|claim| slot(claim.by) == wanted);
        claim.map_or_else(Owner::default, |claim| owner(case, claim.by))
    });
    let caller = match case.members.get(attempt.caller) {
        Some(Some(member)) => Caller::Pod(owner(case, By::Pod(member.place))),
        Some(None) if is_static(attempt.caller) => Caller::UnknownStatic,
        Some(None) => Caller::UnknownApi,
        None => {
            assert_eq!(attempt.caller, UNRESOLVED);
            Caller::Unresolved
        }
    };
    let verdict = decide(
        &owners,
        candidates.covered,
        &CallerIdentity::from(&caller),
        attempt.port,
        &case.policy(),
        ModeOverride::default,
    );
    (verdict.kind, verdict.reason)
}
