//! Owners of ports and of pod cgroups, as the agent wrote them into the maps.

use enforcer_ebpf::{
    decide::Target,
    verifier::hide_from_verifier,
    wire::{AddressKey, AddressOwner, CgroupIdentity, Owner, Protocol, Slot},
};

use super::read::load_word;
use crate::bpf::maps::{ADDRESS_OWNERS, OWNERS, POD_CGROUPS};

/// Returns nobody, of whom the compiler does not know that all is zero: else it clears an array of them byte by byte,
/// which takes longer.
#[inline(always)]
pub(crate) fn nobody() -> Owner {
    let zero = u64::from(hide_from_verifier(0));
    Owner { cgroup: zero, identity: zero, kinship: zero, level: zero }
}

/// Returns the owner in a slot. Slot 0 holds zeros, which stand for nobody: it is read like any other, which is cheap
/// and spares the verifier a case.
#[inline(always)]
pub(crate) fn owner_or_nobody(slot: Slot) -> Owner {
    read_owner(slot).unwrap_or_default()
}

/// Reads an element of the map, word by word.
#[inline(always)]
fn read_owner(slot: Slot) -> Option<Owner> {
    let owner = OWNERS.get_ptr(u32::from(slot))?;
    // SAFETY: only addresses of fields of the map's element are taken.
    let (cgroup, identity, kinship, level) = unsafe {
        (
            &raw const (*owner).cgroup,
            &raw const (*owner).identity,
            &raw const (*owner).kinship,
            &raw const (*owner).level,
        )
    };
    Some(Owner {
        cgroup: load_word(cgroup),
        identity: load_word(identity),
        kinship: load_word(kinship),
        level: load_word(level),
    })
}

/// Returns the slot of the owner of one address of a port, on a port with address-specific claims.
#[inline(always)]
pub(crate) fn address_owner(protocol: Protocol, port: u16, target: &Target) -> Option<Slot> {
    let key = match target {
        Target::V4(address) => AddressKey::v4(protocol, port, *address),
        Target::V6 { address, .. } => AddressKey::v6(protocol, port, *address),
    };
    let value = ADDRESS_OWNERS.get_ptr(key)?;
    AddressOwner(load_word(value)).slot(&key)
}

/// Returns the identity of a pod's cgroup, and its id again; zeros for a cgroup that is not noted.
#[inline(always)]
pub(crate) fn pod_cgroup_identity(id: u64) -> (CgroupIdentity, u64) {
    let Some(value) = POD_CGROUPS.get_ptr(id) else {
        return (CgroupIdentity(0), 0);
    };
    let value = CgroupIdentity(load_word(value));
    if value.is_of(id) { (value, id) } else { (CgroupIdentity(0), 0) }
}

/// Returns the owner that a pod's cgroup belongs to, or nobody.
#[inline(always)]
pub(crate) fn owner_of_pod_cgroup(id: u64) -> Owner {
    let (identity, _) = pod_cgroup_identity(id);
    owner_or_nobody(identity.slot())
}
