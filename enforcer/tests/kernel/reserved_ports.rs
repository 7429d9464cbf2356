//! `net.ipv4.ip_local_reserved_ports` of the tests' own network namespace, as the kernel keeps and honours it.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _},
    iter,
    net::{Ipv4Addr, SocketAddrV4},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use enforcer::host::{
    netns,
    reserved_ports_sysctl::{ReservedPorts, SysctlError},
};
use enforcer_core::reserved_ports::{MAX_WRITE_BYTES, PortSet};
use libtest_mimic::Completion;
use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket};
use tempfile::TempDir;

use enforcer_testing::own_machine;
use enforcer_testing::tests;

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    foreign_entries_stay,
    ephemeral_port_avoids_reserved_ports,
    claims_leave_half_of_the_ephemeral_range,
    foreign_edits_are_respected,
    state_file_of_other_list_is_ignored,
    kill_at_any_moment_loses_no_entry,
    port_is_not_reserved_without_state_file
];

const LIST: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The list and the range as they were, and a folder for the memory.
struct ReservedFixture {
    folder: TempDir,
    range: String,
}

impl ReservedFixture {
    /// Starts with these entries of others; `None` where the tests share the node's namespace, and the node is not
    /// theirs.
    fn new(others: &PortSet) -> Option<Self> {
        if netns::cookie().expect("a socket").is_none() && !own_machine::is_here() {
            return None;
        }
        let fixture =
            Self { folder: TempDir::new().expect("a folder"), range: fs::read_to_string(RANGE).expect("the range") };
        write(others);
        Some(fixture)
    }

    fn ports(&self) -> ReservedPorts {
        ReservedPorts::new(Path::new("/proc/sys"), &self.memory())
    }

    fn memory(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

impl Drop for ReservedFixture {
    fn drop(&mut self) {
        fs::write(RANGE, &self.range).expect("the range as it was");
        write(&PortSet::default());
    }
}

/// Nothing is tried on the list of the node itself.
fn shared() -> Completion {
    Completion::ignored_with("the tests have no network namespace of their own (before 5.14)")
}

/// As an administrator would: what does not fit into one write is added by more.
fn write(ports: &PortSet) {
    let file = fs::OpenOptions::new().write(true).open(LIST).expect("the list");
    for (number, text) in ports.texts(MAX_WRITE_BYTES).into_iter().enumerate() {
        let position = u64::from(number > 0);
        assert_eq!(file.write_at(text.as_bytes(), position).expect("a write"), text.len());
    }
}

/// In one read, as it must be.
fn read() -> PortSet {
    let mut text = vec![0; 1 << 20];
    let length = File::open(LIST).and_then(|mut file| file.read(&mut text)).expect("the list");
    text.truncate(length);
    set(&String::from_utf8(text).expect("text"))
}

fn set(text: &str) -> PortSet {
    PortSet::parse(text).expect("a list")
}

/// Ports that cannot be said by ranges: 3,000 entries, more than four writes.
fn many() -> PortSet {
    (10_000..16_000).step_by(2).collect()
}

fn foreign_entries_stay() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&many()) else { return Ok(shared()) };
    let ports = fixture.ports();
    assert_eq!(read(), many());
    // Between them, beside them, one of them, and as many again.
    let more: Vec<u16> = (10_001..16_000).step_by(2).chain([80, 10_000, 40_000]).collect();
    for wanted in [vec![10_001, 10_002, 40_000], vec![40_000], more, vec![10_001], vec![], vec![80]] {
        let done = ports.sync(&wanted).unwrap_or_else(|error| panic!("{error}"));
        let wanted: PortSet = wanted.into_iter().collect();
        assert_eq!(read(), many().or(&wanted));
        assert_eq!(done.ours, wanted.without(&many()).len());
        assert!(done.left_out.is_empty());
    }
    ports.cleanup().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(), many());
    DONE
}

fn datagram_on_any_port() -> io::Result<(OwnedFd, u16)> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

fn stream_on_any_port() -> io::Result<(OwnedFd, u16)> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

/// The kernel picks a port as for port 0 (`inet_csk_listen_start` in `net/ipv4/inet_connection_sock.c`).
fn listener_without_bind() -> io::Result<(OwnedFd, u16)> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    listen(&socket, 1)?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

fn connection(server: SocketAddrV4) -> io::Result<(OwnedFd, u16)> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    connect(&socket, &server)?;
    let port = port_of(&socket)?;
    Ok((socket, port))
}

fn port_of(socket: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddrV4::try_from(getsockname(socket)?).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(address.port())
}

/// Takes ports until there is none left.
fn exhaust(mut take: impl FnMut() -> io::Result<(OwnedFd, u16)>) -> PortSet {
    let (mut sockets, mut ports) = (Vec::new(), PortSet::default());
    loop {
        match take() {
            Ok((socket, port)) => {
                assert!(ports.insert(port), "{port} twice");
                sockets.push(socket);
            }
            Err(error) => {
                let none_left = [Some(libc::EADDRINUSE), Some(libc::EADDRNOTAVAIL)].contains(&error.raw_os_error());
                assert!(none_left, "{error}");
                return ports;
            }
        }
    }
}

/// All ways to an ephemeral port together take every port that is not reserved, and none that is.
fn assert_only_these_are_taken(free: &PortSet) {
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 21_080);
    bind(&server, &address).expect("a free port");
    listen(&server, 4096).expect("a listener");
    assert_eq!(&exhaust(datagram_on_any_port), free, "bind to port 0, UDP");
    assert_eq!(&exhaust(stream_on_any_port), free, "bind to port 0, TCP");
    assert_eq!(&exhaust(listener_without_bind), free, "listen without bind");
    // Last, since what was connected keeps its port for a while.
    assert_eq!(&exhaust(|| connection(address)), free, "connect");
}

fn ephemeral_port_avoids_reserved_ports() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&set("40010-40019")) else { return Ok(shared()) };
    fs::write(RANGE, "40000 40199").expect("the range");
    let wanted: Vec<u16> = (40_000..40_200).step_by(3).collect();
    let done = fixture.ports().sync(&wanted).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.left_out.is_empty());
    let reserved: PortSet = wanted.into_iter().chain(40_010..=40_019).collect();
    let range: PortSet = (40_000..=40_199).collect();
    assert_only_these_are_taken(&range.without(&reserved));
    fixture.ports().cleanup().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(), set("40010-40019"));
    DONE
}

fn claims_leave_half_of_the_ephemeral_range() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&set("40000-40019")) else { return Ok(shared()) };
    fs::write(RANGE, "40000 40199").expect("the range");
    let wanted: Vec<u16> = (1..=u16::MAX).collect();
    let done = fixture.ports().sync(&wanted).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(done.left_out, set("40110-40199"));
    assert_only_these_are_taken(&done.left_out);
    DONE
}

fn foreign_edits_are_respected() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&set("100")) else { return Ok(shared()) };
    let ports = fixture.ports();
    ports.sync(&[200, 300]).unwrap_or_else(|error| panic!("{error}"));
    // `sysctl -w`, by somebody who knows nothing of us.
    write(&set("400-402"));
    let done = ports.sync(&[200, 300, 401]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((read(), done.added, done.ours), (set("200,300,400-402"), 2, 2));
    // Added to the list as it is.
    write(&read().or(&set("500")));
    let done = ports.sync(&[300]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((read(), done.removed), (set("300,400-402,500"), 1));
    ports.cleanup().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(), set("400-402,500"));
    assert_eq!(fs::read_dir(fixture.memory()).expect("a folder").count(), 0);
    DONE
}

fn state_file_of_other_list_is_ignored() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&PortSet::default()) else { return Ok(shared()) };
    let ports = fixture.ports();
    let file = fixture.memory().join("reserved-ports.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("an id");
    // Of another boot, of another namespace: the same port is an administrator's now.
    let cookie = netns::cookie().expect("a socket").map(|cookie| cookie.to_string());
    let of_boot = (boot.trim(), "00000000-0000-0000-0000-000000000000");
    for (mine, other) in iter::once(of_boot).chain(cookie.as_deref().map(|cookie| (cookie, "1000000"))) {
        ports.sync(&[40_000]).unwrap_or_else(|error| panic!("{error}"));
        let text = fs::read_to_string(&file).expect("a memory");
        assert!(text.contains(mine), "{text}");
        fs::write(&file, text.replace(mine, other)).expect("a write");
        let done = ports.cleanup().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((read(), done.forgotten), (set("40000"), None));
        write(&PortSet::default());
    }
    // Damaged: better a port that stays reserved than one of others that is not any more.
    ports.sync(&[40_000]).unwrap_or_else(|error| panic!("{error}"));
    fs::write(&file, "{").expect("a write");
    let done = ports.sync(&[40_001]).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.forgotten.expect("it is told").contains("reserved-ports.json"));
    ports.cleanup().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(), set("40000"));
    DONE
}

const MARK: &str = "PORT_ENFORCER_TEST_RESERVER";

/// Reserves ports, lets go of some and cleans up, under the eyes of [`killed_before`], if this process was started for
/// that.
pub(crate) fn run_if_reserver() {
    let Some(folder) = env::var_os(MARK) else { return };
    // SAFETY: neither call touches memory; the parent waits for the stop.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0), 0);
        libc::raise(libc::SIGSTOP);
    }
    let ports = ReservedPorts::new(Path::new("/proc/sys"), Path::new(&folder));
    let between: Vec<u16> = (10_001..11_000).step_by(2).collect();
    for wanted in [&between[..], &between[..7]] {
        ports.sync(wanted).unwrap_or_else(|error| panic!("{error}"));
    }
    ports.cleanup().unwrap_or_else(|error| panic!("{error}"));
    std::process::exit(0);
}

/// Lets such a process run until it is about to change a file for the n-th time, and kills it there. `false` if it came
/// to its end before.
fn killed_before(change: u32, folder: &Path) -> bool {
    let mut child = Command::new(env::current_exe().expect("this binary")).env(MARK, folder).spawn().expect("a child");
    let pid = i32::try_from(child.id()).expect("a pid");
    let mut changes = 0;
    let mut status = 0;
    // SAFETY: waits for and traces our own child; `status` and `info` live across the calls, and the kernel is told
    // the size of `info`.
    let cut = unsafe {
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        assert_eq!(libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options), 0);
        loop {
            assert_eq!(libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, 0), 0);
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            if libc::WIFEXITED(status) {
                assert_eq!(libc::WEXITSTATUS(status), 0);
                break false;
            }
            assert!(libc::WIFSTOPPED(status), "{status:#x}");
            let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
            let size = size_of_val(&info);
            assert!(libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size, &raw mut info) > 0);
            if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
                continue;
            }
            let call = libc::c_long::try_from(info.u.entry.nr).expect("a number");
            let makes = [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_unlinkat, libc::SYS_renameat2];
            // Where the architecture has them.
            #[cfg(target_arch = "x86_64")]
            let makes = [makes.as_slice(), &[libc::SYS_rename, libc::SYS_unlink]].concat();
            changes += u32::from(makes.contains(&call));
            if changes > change {
                break true;
            }
        }
    };
    if cut {
        child.kill().expect("a child");
    }
    // One that came to its end was waited for above.
    let _ = child.wait();
    cut
}

fn kill_at_any_moment_loses_no_entry() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&many()) else { return Ok(shared()) };
    let mut cut = 0;
    let mut kills = 0;
    while killed_before(kills, &fixture.memory()) {
        kills += 1;
        cut += u32::from(!many().without(&read()).is_empty());
        if kills % 2 == 0 {
            fixture.ports().sync(&[40_000]).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(read(), many().or(&set("40000")), "kill {kills}");
        }
        fixture.ports().cleanup().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read(), many(), "kill {kills}");
    }
    eprintln!("killed {kills} times, {cut} times with a list that was half written");
    assert!(cut > 1, "the list takes several writes");
    DONE
}

fn port_is_not_reserved_without_state_file() -> Outcome {
    let Some(fixture) = ReservedFixture::new(&set("100")) else { return Ok(shared()) };
    fs::write(fixture.memory(), "a file where the folder should be").expect("a write");
    let error = fixture.ports().sync(&[40_000]).expect_err("no folder");
    assert!(matches!(error, SysctlError::Memory { .. }), "{error}");
    assert_eq!(read(), set("100"));
    DONE
}
