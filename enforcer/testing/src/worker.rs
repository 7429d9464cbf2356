//! A process in a cgroup that makes sockets on command: the test's own binary, started again.

mod orders;

use std::{
    collections::HashMap,
    env, fs,
    io::{self, BufRead as _, Read as _, Write as _},
    net::IpAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
};

use crate::{bind_race, device::Device, io_uring_bind};

use rustix::{
    process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitOptions, kill_process, pidfd_getfd, pidfd_open, waitpid},
    thread::{CpuSet, sched_setaffinity},
};

pub use self::orders::{Answer, Bind, Kind, Order, Ring};

/// Environment variable that names the cgroup to a worker.
pub const MARK: &str = "PORT_ENFORCER_TEST_WORKER";

/// Environment variable of a process that ends at once.
const NOTHING: &str = "PORT_ENFORCER_TEST_NOTHING";

/// Turns this process into a worker if it was started as one.
pub fn run_if_worker() {
    if env::var_os(NOTHING).is_some() {
        std::process::exit(0);
    }
    if let Some(cgroup) = env::var_os(MARK) {
        let code = match serve(Path::new(&cgroup)) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("worker: {error}");
                1
            }
        };
        std::process::exit(code);
    }
}

/// A worker process. Killed when dropped.
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: io::Lines<io::BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker in a cgroup.
    pub fn start(cgroup: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .env(MARK, cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting a worker");
        let orders = child.stdin.take().expect("piped");
        let answers = io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut worker = Self { child, orders, answers };
        assert!(matches!(worker.answer(), Answer::Done), "the worker is in its cgroup");
        worker
    }

    fn answer(&mut self) -> Answer {
        let line = self.answers.next().expect("the worker lives").expect("the worker answers");
        serde_json::from_str(&line).expect("an answer")
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Carries out an order.
    pub fn order(&mut self, order: &Order) -> Answer {
        let line = serde_json::to_string(order).expect("an order");
        writeln!(self.orders, "{line}").expect("the worker lives");
        self.answer()
    }

    /// Tries a bind: the errno, 0 for success.
    pub fn bind(&mut self, bind: &Bind) -> i32 {
        self.bind_port(bind).0
    }

    /// Tries a bind: the errno and the port that was taken.
    pub fn bind_port(&mut self, bind: &Bind) -> (i32, u16) {
        match self.order(&Order::Bind(bind.clone())) {
            Answer::Bound { errno, port } => (errno, port),
            other => panic!("{other:?}"),
        }
    }

    /// Tries a bind many times; how often each errno came.
    pub fn storm(&mut self, bind: &Bind, times: u32, threads: u32) -> HashMap<i32, u32> {
        match self.order(&Order::Storm { bind: bind.clone(), times, threads }) {
            Answer::Storm(counts) => counts,
            other => panic!("{other:?}"),
        }
    }

    /// Tries binds on so many ports in turn; how often each errno came.
    pub fn burst(&mut self, bind: &Bind, ports: u16, times: u32) -> HashMap<i32, u32> {
        match self.order(&Order::Burst { bind: bind.clone(), ports, times }) {
            Answer::Storm(counts) => counts,
            other => panic!("{other:?}"),
        }
    }

    /// Lets its process run on this processor only, if there are several.
    pub fn run_on(&self, processor: usize) {
        run_on(self.pid(), processor);
    }

    /// Closes all sockets that were kept.
    pub fn close(&mut self) {
        assert!(matches!(self.order(&Order::Close), Answer::Done));
    }
}

/// Lets a process run on this processor only, if there are several.
pub fn run_on(pid: u32, processor: usize) {
    let several = thread::available_parallelism().is_ok_and(|count| count.get() > processor);
    if several {
        let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
        let mut set = CpuSet::new();
        set.set(processor);
        sched_setaffinity(Some(pid), &set).expect("a process of this test");
    }
}

fn burst(bind: &Bind, ports: u16, times: u32) -> HashMap<i32, u32> {
    let mut counts = HashMap::new();
    for place in 0..times {
        let port = bind.port + u16::try_from(place % u32::from(ports)).expect("less than the ports");
        let result = try_bind(&Bind { port, ..bind.clone() });
        *counts.entry(result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)).or_default() += 1;
    }
    counts
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(cgroup: &Path) -> io::Result<()> {
    // Before any socket is made: a socket belongs for good to the cgroup it was made in.
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
    let home = fs::File::open("/proc/self/ns/net")?;
    let mut kept = Vec::new();
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(&Answer::Done)?)?;
    for line in io::stdin().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Order::Bind(bind) => match try_bind(&bind) {
                Ok((socket, port)) => {
                    if bind.keep {
                        kept.push(socket);
                    }
                    Answer::Bound { errno: 0, port }
                }
                Err(error) => Answer::Bound { errno: error.raw_os_error().unwrap_or(-1), port: 0 },
            },
            Order::Open(bind) => {
                let socket = open(&bind)?;
                let descriptor = socket.as_raw_fd();
                kept.push(socket);
                Answer::Opened(descriptor)
            }
            Order::BindGiven { pid, descriptor, bind } => {
                let socket = take(pid, descriptor)?;
                let result = bind_socket(&socket, &bind);
                kept.push(socket);
                Answer::Bound { errno: result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0), port: 0 }
            }
            Order::Storm { bind, times, threads } => Answer::Storm(storm(&bind, times, threads)),
            Order::Burst { bind, ports, times } => Answer::Storm(burst(&bind, ports, times)),
            Order::Race { bind, ports, rounds, place, pid, descriptor } => {
                Answer::Race(bind_race::run(&bind, ports, rounds, place, pid, descriptor)?)
            }
            Order::Fork => Answer::Forked(fork()?),
            Order::Tunnel(port) => match Device::vxlan("pe-tunnel", port) {
                Ok(tunnel) => {
                    drop(tunnel);
                    Answer::Done
                }
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Answer::Unsupported,
                Err(error) => return Err(error),
            },
            Order::Live { cgroup, bind } => live(&cgroup, &bind)?,
            Order::Kill(process) => {
                let process = Pid::from_raw(process).ok_or(io::ErrorKind::InvalidInput)?;
                kill_process(process, Signal::KILL)?;
                waitpid(Some(process), WaitOptions::empty())?;
                Answer::Done
            }
            Order::Close => {
                kept.clear();
                Answer::Done
            }
            Order::Unshare => {
                // SAFETY: no memory effects.
                check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
                Answer::Done
            }
            Order::Return => {
                // SAFETY: no memory effects.
                check(unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) })?;
                Answer::Done
            }
            Order::Enter(cgroup) => {
                fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())?;
                Answer::Done
            }
            Order::RingBind(bind, ring) => match io_uring_bind::bind(&bind, ring)? {
                Some(errno) => Answer::Bound { errno, port: 0 },
                None => Answer::Unsupported,
            },
            Order::Forks { bind, times } => Answer::Storm(forks(&bind, times)),
        };
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}

/// Carries out [`Order::Live`].
fn live(cgroup: &Path, bind: &Bind) -> io::Result<Answer> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: this process has one thread.
    let process = check(unsafe { libc::fork() })?;
    if process == 0 {
        let held = fs::write(cgroup.join("cgroup.procs"), "0").and_then(|()| try_bind(bind));
        let errno = held.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        // Where nobody reads it, nobody waits for it either.
        let _ = (&writer).write_all(&errno.to_ne_bytes());
        loop {
            // SAFETY: no memory effects.
            unsafe { libc::pause() };
        }
    }
    drop(writer);
    let mut errno = [0; 4];
    reader.read_exact(&mut errno)?;
    Ok(Answer::Lives { errno: i32::from_ne_bytes(errno), process })
}

/// Carries out [`Order::Forks`].
fn forks(bind: &Bind, times: u32) -> HashMap<i32, u32> {
    let mut counts = HashMap::new();
    thread::scope(|scope| {
        let meanwhile = scope.spawn(|| storm(bind, times, 1));
        for _ in 0..times {
            let bind = bind.clone();
            let mut child = Command::new("/proc/self/exe");
            // The exit code says what it saw, as there is nowhere else to write to.
            let between = move || match try_bind(&bind) {
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            child.env(MARK, "").env(NOTHING, "1").stdin(Stdio::null());
            // SAFETY: between fork and exec it only makes system calls: no device is named, so nothing is allocated.
            unsafe { child.pre_exec(between) };
            let errno = match child.status() {
                Ok(status) => status.code().unwrap_or(-1),
                Err(error) => error.raw_os_error().unwrap_or(-1),
            };
            *counts.entry(errno).or_insert(0) += 1;
        }
        for (errno, count) in meanwhile.join().expect("no panic") {
            *counts.entry(errno).or_insert(0) += count;
        }
    });
    counts
}

/// Forks a child that does nothing but keep what is open.
fn fork() -> io::Result<i32> {
    // SAFETY: this process has one thread; the child only waits.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => loop {
            // SAFETY: no memory effects.
            unsafe { libc::pause() };
        },
        child => Ok(child),
    }
}

/// Copies another process's descriptor.
pub fn take(pid: u32, descriptor: RawFd) -> io::Result<OwnedFd> {
    let pid = pid.try_into().ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?)
}

fn storm(bind: &Bind, times: u32, threads: u32) -> HashMap<i32, u32> {
    let mut counts = HashMap::new();
    thread::scope(|scope| {
        let share = |thread| times / threads + u32::from(thread < times % threads);
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut counts = HashMap::new();
                    for _ in 0..share(thread) {
                        let errno = match try_bind(bind) {
                            Ok(_) => 0,
                            Err(error) => error.raw_os_error().unwrap_or(-1),
                        };
                        *counts.entry(errno).or_insert(0) += 1;
                    }
                    counts
                })
            })
            .collect();
        for worker in workers {
            for (errno, count) in worker.join().expect("no panic") {
                *counts.entry(errno).or_insert(0) += count;
            }
        }
    });
    counts
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: bool) -> io::Result<()> {
    let value = i32::from(value);
    // SAFETY: the option reads one int, which lives across the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) })?;
    Ok(())
}

/// Makes the socket for a bind, with all its options.
pub fn open(bind: &Bind) -> io::Result<OwnedFd> {
    let (kind, protocol) = match bind.kind {
        Kind::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP),
        Kind::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        Kind::Mptcp => (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        Kind::UdpLite => (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        Kind::Ping => (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        Kind::Raw => (libc::SOCK_RAW, libc::IPPROTO_ICMP),
    };
    let family = if bind.v6 { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no memory effects.
    let socket = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    if let Some(v6only) = bind.v6only {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, v6only)?;
    }
    if bind.reuse_port {
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, true)?;
    }
    if bind.reuse_addr {
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, true)?;
    }
    if let Some(device) = &bind.device {
        let length = libc::socklen_t::try_from(device.len()).expect("short");
        // SAFETY: the option reads so many bytes, which live across the call.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_BINDTODEVICE,
                device.as_ptr().cast(),
                length,
            )
        })?;
    }
    // An address may belong to no interface of this machine.
    set(&socket, libc::IPPROTO_IP, libc::IP_FREEBIND, true)?;
    Ok(socket)
}

/// Binds a socket to the address, whatever made it.
pub fn bind_socket(socket: &OwnedFd, bind: &Bind) -> io::Result<()> {
    let (storage, length) = encode(bind);
    // SAFETY: `storage` holds an address of `length` bytes and lives across the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    Ok(())
}

fn try_bind(bind: &Bind) -> io::Result<(OwnedFd, u16)> {
    let socket = open(bind)?;
    bind_socket(&socket, bind)?;
    if bind.keep && matches!(bind.kind, Kind::Tcp | Kind::Mptcp) {
        // SAFETY: no memory effects.
        check(unsafe { libc::listen(socket.as_raw_fd(), 1) })?;
    }
    let port = local_port(&socket)?;
    Ok((socket, port))
}

/// Returns the address of a bind as the kernel takes it, and its length.
pub fn encode(bind: &Bind) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let start = &raw mut storage;
    match (bind.v6, bind.address) {
        (false, IpAddr::V4(address)) => {
            let family = if bind.unspec { libc::AF_UNSPEC } else { libc::AF_INET };
            let value = libc::sockaddr_in {
                sin_family: u16::try_from(family).expect("small"),
                sin_port: bind.port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage has room and alignment for any address.
            unsafe { start.cast::<libc::sockaddr_in>().write(value) };
            (storage, libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).expect("small"))
        }
        (true, address) => {
            let address = match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let value = libc::sockaddr_in6 {
                sin6_family: u16::try_from(libc::AF_INET6).expect("small"),
                sin6_port: bind.port.to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { start.cast::<libc::sockaddr_in6>().write(value) };
            (storage, libc::socklen_t::try_from(size_of::<libc::sockaddr_in6>()).expect("small"))
        }
        (false, IpAddr::V6(_)) => panic!("an IPv6 address on an IPv4 socket"),
    }
}

fn local_port(socket: &OwnedFd) -> io::Result<u16> {
    // SAFETY: all zeros is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&storage)).expect("small");
    // SAFETY: `length` says how much room there is, and both live across the call.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut storage).cast(), &raw mut length) })?;
    // SAFETY: the port is at the same place in sockaddr_in and sockaddr_in6, and inside the storage, which is aligned
    // for both.
    let address = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
    Ok(u16::from_be(address.sin_port))
}
