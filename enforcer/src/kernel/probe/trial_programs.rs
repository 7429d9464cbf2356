//! Probes by programs of a few instructions, which are loaded and closed again: no other question to the kernel answers
//! them.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use crate::kernel::{
    bpf_syscall::{MAP_TYPE_PROG_ARRAY, ProgramLoad, create_map, load_program, open_raw_tracepoint},
    btf::{self, BtfError, Offsets},
    instruction::{ATOMIC, CALL, COMPARE_EXCHANGE, Instruction, MOVE, instruction, instruction_at, registers},
    rdonly_cast::{CgroupAncestors, RdonlyCast},
};

/// `enum bpf_prog_type` in include/uapi/linux/bpf.h.
const CGROUP_SOCK: u32 = 9;
const RAW_TRACEPOINT: u32 = 17;
const CGROUP_SOCK_ADDR: u32 = 18;
const LSM: u32 = 29;
/// `enum bpf_attach_type`.
const CGROUP_INET4_BIND: u32 = 8;
const CGROUP_INET_SOCK_RELEASE: u32 = 34;
const LSM_CGROUP: u32 = 43;

/// `BPF_ALU64`: `BPF_MOV | BPF_X`, `BPF_ADD | BPF_K`, `BPF_ADD | BPF_X`, `BPF_AND | BPF_K`, `BPF_LSH | BPF_K`.
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
const ADD_REGISTER: u8 = 0x0f;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
/// `BPF_LDX | BPF_MEM` of so many bytes.
const LOAD_1: u8 = 0x71;
const LOAD_2: u8 = 0x69;
const LOAD_4: u8 = 0x61;
const LOAD_8: u8 = 0x79;
/// `BPF_STX | BPF_MEM` of so many bytes.
const STORE_8: u8 = 0x7b;
/// The register that points to the end of the stack.
const FRAME: u8 = 10;
/// include/linux/errno.h; no system call is meant to return it.
const ENOTSUPP: i32 = 524;
/// `enum bpf_func_id`.
const TAIL_CALL: i32 = 12;
const GET_CURRENT_TASK: i32 = 35;
/// `BPF_LD | BPF_IMM | BPF_DW`: two instructions that load a number of 64 bits, or with `BPF_PSEUDO_MAP_FD` a map.
const LOAD_NUMBER: u8 = 0x18;
/// Source register of [`LOAD_NUMBER`] for the descriptor of a map (`BPF_PSEUDO_MAP_FD`).
const MAP_DESCRIPTOR: u8 = 1;
/// Source register of [`CALL`] for a function of the program (`BPF_PSEUDO_CALL`).
const FUNCTION: u8 = 1;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;
/// `r0 = 1; exit`.
const ALLOW: [Instruction; 2] = [instruction(MOVE, registers(0, 0), 1), instruction(EXIT, registers(0, 0), 0)];

/// Loads a program.
fn load(kind: u32, attach_type: u32, attach_btf_id: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    load_program(ProgramLoad { kind, attach_type, attach_btf_id, instructions }, None)
}

/// Turns `EINVAL`, the kernel's answer to a type of program that it does not know, into `false`.
fn is_known(result: io::Result<OwnedFd>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether programs can run when a socket is closed.
pub(super) fn sees_releases() -> io::Result<bool> {
    is_known(load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0, &ALLOW))
}

/// Returns what the programs need to read sockets and tasks by loads; `None` where the kernel does not allow it. The
/// probe is a program that reads everything that ours read.
pub(super) fn cast(offsets: &Offsets) -> Result<Option<RdonlyCast>, BtfError> {
    let Some(cast) = RdonlyCast::of_running_kernel(offsets)? else { return Ok(None) };
    // Refused where the function is unknown, where programs are interpreted, and where memory may not be read. Whatever
    // the reason, helpers do the same, or another probe reports it.
    let is_taken = |program: Vec<Instruction>| load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0, &program).is_ok();
    if !is_taken(reading_socket_and_task(cast, offsets)) {
        return Ok(None);
    }
    let ancestors = cast.ancestors.filter(|of| is_taken(reading_ancestor(cast, *of, offsets)));
    Ok(Some(RdonlyCast { ancestors, ..cast }))
}

fn reading_socket_and_task(cast: RdonlyCast, offsets: &Offsets) -> Vec<Instruction> {
    let task = cast.offsets;
    // Register 1 is the context, which is the socket.
    let mut program = cast_to(cast, cast.sock);
    program.extend(field(LOAD_1, offsets.sock_flags));
    program.extend(field(LOAD_1, offsets.kern_sock_bit / 8));
    program.extend(field(LOAD_2, offsets.sock_num));
    program.extend(field(LOAD_4, offsets.bound_dev));
    program.extend(field(LOAD_8, cast.loads.cookie));
    program.extend(field(LOAD_8, cast.loads.storage));
    program.extend(field(LOAD_8, cast.loads.net));
    program.push(instruction(COPY, registers(0, 2), 0));
    program.extend(field(LOAD_8, cast.loads.net_cookie));
    program.extend(current_task(cast));
    program.extend(field(LOAD_4, task.tgid));
    program.extend(field(LOAD_8, task.comm));
    program.extend(field(LOAD_8, task.comm + 8));
    program.extend(field(LOAD_8, task.cred));
    program.push(instruction(COPY, registers(0, 2), 0));
    program.extend(field(LOAD_4, task.uid));
    program.extend(current_cgroup(cast));
    program.extend(field(LOAD_8, offsets.cgroup_kn));
    program.push(instruction(COPY, registers(0, 2), 0));
    program.extend(field(LOAD_8, offsets.kn_id));
    program.extend(ALLOW);
    program
}

/// Reads the ancestor of the task's cgroup at its own level: a number that the verifier does not know.
fn reading_ancestor(cast: RdonlyCast, ancestors: CgroupAncestors, offsets: &Offsets) -> Vec<Instruction> {
    let mut program = current_cgroup(cast);
    program.extend(field(LOAD_4, ancestors.level));
    program.extend([
        instruction(AND, registers(2, 0), 0xff),
        instruction(SHIFT_LEFT, registers(2, 0), 3),
        instruction(COPY, registers(1, 0), 0),
        instruction(ADD, registers(1, 0), ancestors.ancestors.cast_signed()),
        instruction(ADD_REGISTER, registers(1, 2), 0),
    ]);
    program.extend(cast_to(cast, ancestors.pointer));
    for pointer in [0, offsets.cgroup_kn] {
        program.extend(field(LOAD_8, pointer));
        program.push(instruction(COPY, registers(0, 2), 0));
    }
    program.extend(field(LOAD_8, offsets.kn_id));
    program.extend(ALLOW);
    program
}

/// Returns instructions that make a pointer to the task in register 0.
fn current_task(cast: RdonlyCast) -> Vec<Instruction> {
    let mut program = vec![instruction(CALL, registers(0, 0), GET_CURRENT_TASK), instruction(COPY, registers(1, 0), 0)];
    program.extend(cast_to(cast, cast.task));
    program
}

/// Returns instructions that make a pointer to the task's cgroup in register 0.
fn current_cgroup(cast: RdonlyCast) -> Vec<Instruction> {
    let mut program = current_task(cast);
    for pointer in [cast.offsets.css_set, cast.offsets.css_set_cgroup] {
        program.extend(field(LOAD_8, pointer));
        program.push(instruction(COPY, registers(0, 2), 0));
    }
    program
}

/// Returns whether a program that has functions can continue with another one. On arm64 that came with 6.0
/// (`bpf_jit_supports_subprog_tailcalls` in `arch/arm64/net/bpf_jit_comp.c`).
pub(super) fn has_tail_calls() -> io::Result<bool> {
    let programs = create_map(MAP_TYPE_PROG_ARRAY, 4, 4, 1, None)?;
    // Register 1 is the context.
    let mut program = vec![
        instruction(LOAD_NUMBER, registers(2, MAP_DESCRIPTOR), programs.as_raw_fd()),
        instruction(0, registers(0, 0), 0),
        instruction(MOVE, registers(3, 0), 0),
        instruction(CALL, registers(0, 0), TAIL_CALL),
        // The function begins two instructions behind the next one.
        instruction(CALL, registers(0, FUNCTION), 2),
    ];
    program.extend(ALLOW);
    program.extend(ALLOW);
    is_known(load(CGROUP_SOCK_ADDR, CGROUP_INET4_BIND, 0, &program))
}

/// Returns whether programs have an atomic exchange that answers: one in a word of the stack.
pub(super) fn has_atomic_exchange() -> io::Result<bool> {
    let word = registers(FRAME, 0);
    let mut program = vec![
        instruction(MOVE, registers(0, 0), 0),
        instruction_at(STORE_8, word, -8, 0),
        instruction_at(ATOMIC, word, -8, COMPARE_EXCHANGE),
    ];
    program.extend(ALLOW);
    // `EINVAL` is an instruction that the verifier does not know, `ENOTSUPP` one that the architecture's compiler does
    // not (`bpf_prog_select_runtime` in kernel/bpf/core.c).
    match load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0, &program) {
        Err(error) if error.raw_os_error() == Some(ENOTSUPP) => Ok(false),
        loaded => is_known(loaded),
    }
}

/// Returns instructions that make a pointer to this structure in register 0, from the address in register 1.
fn cast_to(cast: RdonlyCast, structure: u32) -> Vec<Instruction> {
    vec![instruction(MOVE, registers(2, 0), structure.cast_signed()), cast.call()]
}

/// Returns instructions that read a field of the structure that register 0 points to, into register 2.
fn field(load: u8, offset: u32) -> [Instruction; 3] {
    [
        instruction(COPY, registers(1, 0), 0),
        instruction(ADD, registers(1, 0), offset.cast_signed()),
        instruction(load, registers(2, 1), 0),
    ]
}

/// Returns whether the link to a raw tracepoint can be pinned: attaches a program that does nothing, for a moment.
pub(super) fn has_raw_tracepoint_links() -> io::Result<bool> {
    let program = load(RAW_TRACEPOINT, 0, 0, &ALLOW)?;
    let link = open_raw_tracepoint(program.as_fd(), c"cgroup_mkdir")?;
    // A link says of which type it is; what older kernels give instead is no link, and cannot be pinned.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    Ok(info.lines().any(|line| line.starts_with("link_type:")))
}

/// Returns whether a program can be attached to an LSM hook for a cgroup, and runs there.
pub(super) fn has_cgroup_lsm() -> Result<bool, String> {
    let hook = btf::function_id("bpf_lsm_socket_bind").map_err(|error| error.to_string())?;
    let Some(hook) = hook else { return Ok(false) };
    if !is_known(load(LSM, LSM_CGROUP, hook, &ALLOW)).map_err(|error| error.to_string())? {
        return Ok(false);
    }
    let list = fs::read_to_string("/sys/kernel/security/lsm");
    let list = list.map_err(|_| "cannot read the active LSMs: securityfs is not mounted on /sys/kernel/security")?;
    Ok(list.trim().split(',').any(|name| name == "bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses an unknown kind, where a wrong layout, or a wrong number, would be a yes to everything.
    #[test]
    fn an_unknown_kind_is_not_there() {
        for (kind, attach_type) in [(CGROUP_SOCK, u32::MAX), (u32::MAX, 0), (CGROUP_SOCK, LSM_CGROUP)] {
            let answer = is_known(load(kind, attach_type, 0, &ALLOW));
            let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            assert!(refused || matches!(answer, Ok(false)), "{kind}, {attach_type}: {answer:?}");
        }
    }
}
