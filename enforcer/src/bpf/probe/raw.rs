//! Questions that only the real call answers: programs of two instructions, loaded and closed again.

use std::{
    fs,
    io::{self, ErrorKind},
    mem::offset_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::bpf::btf;

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

/// Loads `r0 = 1; exit`.
fn load(kind: u32, attach_type: u32, attach_btf_id: u32) -> io::Result<OwnedFd> {
    let [one, zero] = [1_i32, 0].map(i32::to_ne_bytes);
    let instruction = |code: u8, value: [u8; 4]| {
        let [a, b, c, d] = value;
        [code, 0, 0, 0, a, b, c, d]
    };
    let instructions = [instruction(0xb7, one), instruction(0x95, zero)];
    bpf(
        PROG_LOAD,
        &LoadAttributes {
            kind,
            instruction_count: 2,
            instructions: instructions.as_ptr().expose_provenance() as u64,
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
    known(load(CGROUP_SOCK, CGROUP_INET_SOCK_RELEASE, 0))
}

/// Whether the link to a raw tracepoint is one that can be pinned: attaches one that does nothing, for a moment.
pub(super) fn has_raw_tracepoint_links() -> io::Result<bool> {
    let program = load(RAW_TRACEPOINT, 0, 0)?;
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
    if !known(load(LSM, LSM_CGROUP, hook)).map_err(|error| error.to_string())? {
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
            let answer = known(load(kind, attach_type, 0));
            let refused = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            assert!(refused || matches!(answer, Ok(false)), "{kind}, {attach_type}: {answer:?}");
        }
    }
}
