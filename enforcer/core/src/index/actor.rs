//! Actors by cgroup.

use enforcer_ebpf::wire::UidForm;

use crate::{
    index::Index,
    model::{actor::Actor, kernel_ids::CgroupId},
};

impl Actor {
    /// Returns the actor whose processes are in a cgroup, by what the index knows now.
    #[must_use]
    pub fn of_cgroup(cgroup: CgroupId, index: &Index) -> Self {
        match (index.name_by_cgroup(cgroup), index.uid_by_cgroup(cgroup)) {
            (Some(name), _) => Self::Known(name.clone()),
            (None, Some(key)) => Self::UnknownPod {
                uid: format!("{:032x}", u128::from_be_bytes(key.uid)),
                form: UidForm::from_wire(key.form).unwrap_or(UidForm::Api),
            },
            (None, None) if index.knows_cgroup(cgroup) => Self::Unplaced,
            (None, None) => index.host_unit(cgroup).map_or(Self::Host, |unit| Self::HostUnit(unit.to_owned())),
        }
    }
}
