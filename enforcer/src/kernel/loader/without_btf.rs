//! A loader that does not read the kernel's type information.
//!
//! [`EbpfLoader::new`] builds all types of the kernel in memory, which takes 20 MiB and 100 ms of every start, whatever is
//! loaded then: a loader is told only afterwards that it needs none ([`EbpfLoader::btf`], in `aya` up to 0.16). It does
//! without where it cannot open the file. So it is made by a thread that cannot open files, and that ends right after.

use std::{io, thread};

use aya::EbpfLoader;
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, ENOENT, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SYS_openat, sock_filter, sock_fprog,
};

/// Returns a loader without type information. Where threads cannot be confined it has read it, which costs memory only.
pub(super) fn loader() -> EbpfLoader<'static> {
    let confined = || {
        // Refused where system calls are filtered already: then the loader reads what it wants.
        let _ = deny_files();
        EbpfLoader::new()
    };
    let thread = thread::Builder::new().name("loader".to_owned()).spawn(confined);
    let mut loader = thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_default();
    loader.btf(None);
    loader
}

/// Makes every file seem to be missing, for the rest of this thread.
fn deny_files() -> io::Result<()> {
    let statement = |code: u32, k: u32| instruction(code, 0, k);
    // `openat` is what the C library opens files with. Nothing but this crate's code runs here, so that the architecture
    // of a call need not be looked at.
    let mut filter = [
        // The number of the system call, the first field of `struct seccomp_data`.
        statement(BPF_LD | BPF_W | BPF_ABS, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 1, u32::try_from(SYS_openat).map_err(io::Error::other)?),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOENT.cast_unsigned()),
    ];
    let program = sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: numbers only; it concerns this thread alone.
    succeeded(unsafe { libc::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program and its four instructions live until the call returns, which copies them.
    succeeded(unsafe { libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) })
}

/// Returns an instruction of classic BPF that skips so many instructions where its comparison holds.
fn instruction(code: u32, jt: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf: 0, k }
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_has_no_type_information() {
        let join = |thread: thread::JoinHandle<String>| thread.join().unwrap();
        let confined = join(thread::spawn(|| {
            deny_files().unwrap();
            format!("{:?}", EbpfLoader::new())
        }));
        assert!(confined.contains("btf: None"), "{confined}");
        assert!(format!("{:?}", loader()).contains("btf: None"));
        assert!(std::fs::read("/proc/self/stat").is_ok(), "this thread opens files");
    }
}
