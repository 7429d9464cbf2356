//! Calls of `bpf_rdonly_cast` (kernel/bpf/helpers.c, since 6.2), which the module `object` puts into the object.
//!
//! With it the programs read sockets and tasks as the kernel's own code does: by a load, through a pointer that the
//! function makes of an address. A helper takes ten times as long, and the programs read both at every bind, and a socket
//! at every close.
//!
//! It is a function of the kernel (a kfunc) and no helper, so a call names it by its number in the running kernel's type
//! information. `aya` 0.14 has no relocation for that. The releases after it resolve kfuncs (`__ksym`); this module goes
//! with the update to one.

use crate::kernel::{
    btf::{self, BtfError, LoadOffsets, Offsets, TaskOffsets},
    instruction::{CALL, Instruction, instruction, registers},
};

/// `BPF_PSEUDO_KFUNC_CALL`, which stands where other instructions have their source register.
const OF_KERNEL: u8 = 2;

/// Offsets and a number of a type by which the ancestors of a cgroup are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupAncestors {
    /// `level` in `struct cgroup`.
    pub(super) level: u32,
    /// `ancestors` in `struct cgroup`, pointers to cgroups.
    pub(super) ancestors: u32,
    /// Id of `struct cgroup_subsys_state`, which begins with a pointer to a cgroup.
    pub(super) pointer: u32,
}

/// Numbers in the running kernel's type information, and offsets, that a cast needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdonlyCast {
    /// Id of the function.
    pub(super) function: u32,
    /// Id of `struct sock`.
    pub(super) sock: u32,
    /// Id of `struct task_struct`.
    pub(super) task: u32,
    /// Offsets of the fields of a task that the programs read.
    pub(super) offsets: TaskOffsets,
    /// What is needed to read the ancestors of a cgroup, where that is possible.
    pub(super) ancestors: Option<CgroupAncestors>,
    /// Offsets of the fields of a socket that helpers return elsewhere.
    pub(super) loads: LoadOffsets,
}

impl RdonlyCast {
    /// Reads them from the running kernel; `None` if it has no such function.
    ///
    /// # Errors
    ///
    /// If the kernel has no BTF.
    pub(super) fn of_running_kernel(offsets: &Offsets) -> Result<Option<Self>, BtfError> {
        // Two words are read of a command's name.
        let task = offsets.task.filter(|task| task.comm % 8 == 0);
        let Offsets { loads, cgroup_ancestors, .. } = *offsets;
        let (Some(offsets), Some(loads)) = (task, loads) else { return Ok(None) };
        let ids = btf::ids("bpf_rdonly_cast", ["sock", "task_struct", "cgroup_subsys_state"])?;
        let Some((function, [sock, task, pointer])) = ids else { return Ok(None) };
        let of_cgroups = |(level, ancestors)| CgroupAncestors { level, ancestors, pointer };
        let ancestors = cgroup_ancestors.map(of_cgroups);
        Ok(Some(Self { function, sock, task, offsets, ancestors, loads }))
    }

    /// Returns the call instruction.
    pub(super) const fn call(self) -> Instruction {
        instruction(CALL, registers(0, OF_KERNEL), self.function.cast_signed())
    }
}
