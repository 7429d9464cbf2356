//! Questions that only the real call answers: programs of a few instructions, loaded and closed again.

use std::{
    fs,
    io::{self, ErrorKind},
    mem::offset_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::kernel::{
    btf::{self, BtfError, Offsets},
    kfunc::{CALL, INSTRUCTION, MOVE, RdonlyCast, instruction, registers},
};

/// `enum bpf_cmd` in include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
/// `enum bpf_prog_type`.
const CGROUP_SOCK: u32 = 9;
const RAW_TRACEPOINT: u32 = 17;
const LSM: u32 = 29;
/// `enum bpf_attach_type`.
const CGROUP_INET_SOCK_RELEASE: u32 = 34;
const LSM_CGROUP: u32 = 43;

/// As far as `union bpf_attr` is used for loading a program, as Linux 5.10 knows it.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    /// Log, kernel version, flags, name and device: none.
    unused: [u64; 5],
    interface: u32,
    attach_type: u32,
    /// Type information of the program: none.
    btf: [u64; 4],
    line_count: u32,
    attach_btf_id: u32,
    attach_program: u32,
    padding: u32,
}

const _: () = {
    assert!(offset_of!(LoadAttributes, attach_type) == 68);
    assert!(offset_of!(LoadAttributes, line_count) == 104);
    assert!(offset_of!(LoadAttributes, attach_btf_id) == 108);
    assert!(size_of::<LoadAttributes>() == 120);
};

/// The same for attaching a program to a raw tracepoint.
#[repr(C)]
struct OpenAttributes {
    name: u64,
    program: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are what the command takes, of the size that is told; the kernel reads them, and what they
    // point at lives across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just made it, and it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `BPF_ALU64 | BPF_MOV | BPF_X` and `BPF_ALU64 | BPF_ADD | BPF_K`.
const COPY: u8 = 0xbf;
const ADD: u8 = 0x07;
/// `BPF_LDX | BPF_MEM` of so many bytes.
const LOAD_1: u8 = 0x71;
const LOAD_2: u8 = 0x69;
const LOAD_4: u8 = 0x61;
const LOAD_8: u8 = 0x79;
/// `enum bpf_func_id`.
const GET_CURRENT_TASK: i32 = 35;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;
/// `r0 = 1; exit`.
const ALLOW: [[u8; INSTRUCTION]; 2] = [instruction(MOVE, registers(0, 0), 1), instruction(EXIT, registers(0, 0), 0)];

/// Loads a program.
fn load(kind: u32, attach_type: u32, attach_btf_id: u32, program: &[[u8; INSTRUCTION]]) -> io::Result<OwnedFd> {
    bpf(
        PROG_LOAD,
        &LoadAttributes {
            kind,
            instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
            attach_type,
            attach_btf_id,
            ..LoadAttributes::default()
        },
    )
}

/// `EINVAL` is the kernel's word for a kind of program that it does not know.
fn known(result: io::Result<OwnedFd>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether programs can run when a socket is closed.
pub(super) fn sees_releases() -> io::Result<bool> {
    known(load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0, &ALLOW))
}

/// What reads sockets and tasks by loads, if programs may do that here: asks with a program that reads all that ours read.
pub(super) fn cast(offsets: &Offsets) -> Result<Option<RdonlyCast>, BtfError> {
    let Some(cast) = RdonlyCast::of_running_kernel(offsets)? else { return Ok(None) };
    let task = cast.offsets;
    // Register 1 is the context, which is the socket.
    let mut program = cast_to(cast, cast.sock);
    program.extend(field(LOAD_1, offsets.sock_flags));
    program.extend(field(LOAD_1, offsets.kern_sock_bit / 8));
    program.extend(field(LOAD_2, offsets.sock_num));
    program.extend(field(LOAD_4, offsets.bound_dev));
    program.extend([instruction(CALL, registers(0, 0), GET_CURRENT_TASK), instruction(COPY, registers(1, 0), 0)]);
    program.extend(cast_to(cast, cast.task));
    program.extend(field(LOAD_4, task.tgid));
    program.extend(field(LOAD_8, task.comm));
    program.extend(field(LOAD_8, task.comm + 8));
    program.extend(field(LOAD_8, task.cred));
    program.push(instruction(COPY, registers(0, 2), 0));
    program.extend(field(LOAD_4, task.uid));
    program.extend(ALLOW);
    // Refused where the function is unknown, where programs are interpreted, and where memory may not be read. Whatever the
    // reason, helpers do the same, or what that means is told elsewhere.
    Ok(load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0, &program).is_ok().then_some(cast))
}

/// Makes a pointer to this structure in register 0, of the address in register 1.
fn cast_to(cast: RdonlyCast, structure: u32) -> Vec<[u8; INSTRUCTION]> {
    vec![instruction(MOVE, registers(2, 0), structure.cast_signed()), cast.call()]
}

/// Reads a field of the structure that register 0 points to, into register 2.
fn field(load: u8, offset: u32) -> [[u8; INSTRUCTION]; 3] {
    [
        instruction(COPY, registers(1, 0), 0),
        instruction(ADD, registers(1, 0), offset.cast_signed()),
        instruction(load, registers(2, 1), 0),
    ]
}

/// Whether the link to a raw tracepoint is one that can be pinned: attaches one that does nothing, for a moment.
pub(super) fn has_raw_tracepoint_links() -> io::Result<bool> {
    let program = load(RAW_TRACEPOINT, 0, 0, &ALLOW)?;
    let attributes = OpenAttributes {
        name: c"cgroup_mkdir".as_ptr().expose_provenance() as u64,
        program: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        padding: 0,
    };
    let link = bpf(RAW_TRACEPOINT_OPEN, &attributes)?;
    // A link says of which type it is; what older kernels give instead is no link, and cannot be pinned.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    Ok(info.lines().any(|line| line.starts_with("link_type:")))
}

/// Whether a program can be attached to an LSM hook for a cgroup, and is run there.
pub(super) fn has_cgroup_lsm() -> Result<bool, String> {
    let hook = btf::function_id("bpf_lsm_socket_bind").map_err(|error| error.to_string())?;
    let Some(hook) = hook else { return Ok(false) };
    if !known(load(LSM, LSM_CGROUP, hook, &ALLOW)).map_err(|error| error.to_string())? {
        return Ok(false);
    }
    let list = fs::read_to_string("/sys/kernel/security/lsm");
    let list =
        list.map_err(|_| "whether it would run is not told: securityfs is not mounted on /sys/kernel/security")?;
    Ok(list.trim().split(',').any(|name| name == "bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a wrong layout, or a wrong number, would be a yes to everything.
    #[test]
    fn an_unknown_kind_is_not_there() {
        for (kind, attach_type) in [(CGROUP_SOCK, u32::MAX), (u32::MAX, 0), (CGROUP_SOCK, LSM_CGROUP)] {
            let answer = known(load(kind, attach_type, 0, &ALLOW));
            let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            assert!(refused || matches!(answer, Ok(false)), "{kind}, {attach_type}: {answer:?}");
        }
    }
}
