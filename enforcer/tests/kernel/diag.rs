//! Which sockets the kernel's diagnostics show, and whose they are: compared with the sockets themselves, with
//! `/proc/net`, and with what the programs tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    time::Instant,
};

use enforcer::{
    agent,
    host::{clock, sock_diag},
};
use enforcer_core::{
    model::kernel_ids::{BootNanos, CgroupId},
    sockets::{Activity, BoundSockets, DumpedSocket, Scope, SocketLimits, SocketPlace},
};
use enforcer_ebpf::wire::{Policy, Protocol};
use libtest_mimic::Completion;
use rustix::{
    fs::fstat,
    net::{AddressFamily, SocketType, bind, connect, listen, socket, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use enforcer_testing::{
    cgroup_sandbox::{Sandbox, cgroup_id},
    pods::Pod,
    reconciler_fixture::{ENFORCE, KernelFixture, reading_by_helper},
    tests,
    worker::{Bind, Kind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test, skip_excuses::MPTCP};

pub(crate) const TESTS: &[Test] = tests![
    every_socket_kind_is_found_with_its_cgroup,
    idle_bound_socket_is_found,
    connected_socket_is_listed_on_request,
    listeners_match_proc_net,
    sixty_thousand_sockets_need_no_memory,
    events_and_diagnostics_name_the_same_socket,
    missing_kernel_option_is_named,
    table_finds_unreported_sockets_and_drops_closed_ones
];

const PORT: u16 = 21080;

/// The same where sockets are read by a helper, and their records go through a ring.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper =>
    events_and_diagnostics_name_the_same_socket,
    table_finds_unreported_sockets_and_drops_closed_ones,
];

fn dump(protocol: Protocol, scope: Scope) -> Vec<DumpedSocket> {
    let mut sightings = Vec::new();
    sock_diag::dump(protocol, scope, |sighting| sightings.push(sighting)).unwrap_or_else(|error| panic!("{error}"));
    sightings
}

/// What is shown on a port.
fn on(protocol: Protocol, scope: Scope, port: u16) -> Vec<DumpedSocket> {
    let mut sightings = dump(protocol, scope);
    sightings.retain(|sighting| sighting.port == port);
    sightings
}

fn boot_time() -> BootNanos {
    BootNanos::after_boot(clock::now().boottime)
}

/// MPTCP, or TCP on a kernel that may lack it.
fn mptcp() -> Kind {
    if MPTCP.missing().is_none() { Kind::Mptcp } else { Kind::Tcp }
}

fn protocol_of(kind: Kind) -> Protocol {
    if kind == Kind::Udp { Protocol::Udp } else { Protocol::Tcp }
}

/// A socket of a worker, bound and listening.
fn open(worker: &mut Worker, bind: &Bind) -> OwnedFd {
    let socket = worker.open(bind);
    bind_socket(&socket, bind).unwrap_or_else(|error| panic!("{bind:?}: {error}"));
    if bind.kind != Kind::Udp {
        listen(&socket, 1).unwrap_or_else(|error| panic!("{bind:?}: {error}"));
    }
    socket
}

fn every_socket_kind_is_found_with_its_cgroup() -> Outcome {
    let sandbox = Sandbox::new();
    let (one, other) = (sandbox.make("one"), sandbox.make("other/deep"));
    let mut workers = [(cgroup_id(&one), Worker::start(&one)), (cgroup_id(&other), Worker::start(&other))];
    let v6only = |address: &str, v6only| Bind { v6only: Some(v6only), ..Bind::tcp(address, PORT) };
    for bind in [
        Bind::tcp("0.0.0.0", PORT),
        Bind::tcp("127.0.0.1", PORT).reusing_port(),
        v6only("::", true),
        v6only("::", false),
        Bind::tcp("::1", PORT),
        Bind { v6: true, ..Bind::tcp("127.0.0.9", PORT) },
        Bind::udp("0.0.0.0", PORT).reusing_addr(),
        Bind { kind: Kind::Udp, ..v6only("::", true) },
        Bind::udp("::", PORT),
        Bind::udp("::1", PORT),
        Bind::tcp("0.0.0.0", PORT).on(mptcp()),
        Bind::tcp("::", PORT).on(mptcp()),
    ] {
        let protocol = protocol_of(bind.kind);
        for (cgroup, worker) in &mut workers {
            assert_eq!(on(protocol, Scope::Connected, PORT), [], "before {bind:?}");
            let socket = open(worker, &bind);
            let sightings = on(protocol, Scope::Bound, PORT);
            let [sighting] = sightings.as_slice() else { panic!("{bind:?}: {sightings:?}") };
            assert_eq!(
                (sighting.address, sighting.cgroup, sighting.uid, sighting.device),
                (bind.address, Some(*cgroup), 0, None),
                "{bind:?}"
            );
            let activity = if bind.kind == Kind::Udp { Activity::Bound } else { Activity::Listening };
            assert_eq!(sighting.activity, activity, "{bind:?}");
            // A bind to a single IPv6 address makes the socket IPv6 only (`__inet6_bind` in net/ipv6/af_inet6.c).
            let single = matches!(bind.address, IpAddr::V6(address) if !address.is_unspecified());
            let v6only = single || bind.v6only == Some(true);
            assert_eq!(sighting.v6only, bind.v6.then_some(v6only), "{bind:?}");
            if bind.kind != Kind::Mptcp {
                // The subflow has a cookie of its own, and no file.
                let inode = fstat(&socket).expect("a socket").st_ino;
                assert_eq!(sighting.inode.map(u64::from), Some(inode), "{bind:?}");
                assert_eq!(sighting.cookie.get(), sockopt::socket_cookie(&socket).expect("a cookie"), "{bind:?}");
            }
            // The worker's descriptor still refers to it.
            drop(socket);
            assert_eq!(on(protocol, Scope::Bound, PORT), sightings, "{bind:?}");
            worker.close();
            assert_eq!(on(protocol, Scope::Connected, PORT), [], "after {bind:?}");
        }
    }
    DONE
}

/// Whether this kernel is at least so new.
fn kernel_is(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().expect("a major"), numbers.next().expect("a minor")) >= (major, minor)
}

fn idle_bound_socket_is_found() -> Outcome {
    let shown = sock_diag::shows_bound().unwrap_or_else(|error| panic!("{error}"));
    if !shown && !kernel_is(6, 8) {
        return Ok(Completion::ignored_with("before 6.8, TCP sockets that are bound and do nothing are not shown"));
    }
    assert!(shown, "this kernel is new enough to show them");
    let sandbox = Sandbox::new();
    let cgroup = sandbox.make("pod");
    let mut worker = Worker::start(&cgroup);
    for bind in [
        Bind::tcp("127.0.0.1", PORT),
        Bind::tcp("::", PORT),
        Bind::tcp("0.0.0.0", PORT).on(mptcp()),
        Bind::tcp("::1", PORT).on(mptcp()),
    ] {
        let socket = worker.open(&bind);
        bind_socket(&socket, &bind).expect("a free port");
        let sightings = on(Protocol::Tcp, Scope::Bound, PORT);
        let [sighting] = sightings.as_slice() else { panic!("{bind:?}: {sightings:?}") };
        assert_eq!(
            (sighting.address, sighting.cgroup, sighting.activity),
            (bind.address, Some(cgroup_id(&cgroup)), Activity::Bound),
            "{bind:?}"
        );
        worker.close();
        drop(socket);
        assert_eq!(on(Protocol::Tcp, Scope::Connected, PORT), []);
    }
    DONE
}

fn connected_socket_is_listed_on_request() -> Outcome {
    let sandbox = Sandbox::new();
    let cgroup = sandbox.make("pod");
    let mut worker = Worker::start(&cgroup);
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, PORT + 1);
    bind(&server, &address).expect("a free port");
    listen(&server, 1).expect("a listener");
    let client = Bind::tcp("0.0.0.0", PORT);
    let socket = worker.open(&client);
    bind_socket(&socket, &client).expect("a free port");
    connect(&socket, &address).expect("a server");
    assert_eq!(on(Protocol::Tcp, Scope::Bound, PORT), []);
    let sightings = on(Protocol::Tcp, Scope::Connected, PORT);
    let [sighting] = sightings.as_slice() else { panic!("{sightings:?}") };
    assert_eq!((sighting.activity, sighting.cgroup), (Activity::Connected, Some(cgroup_id(&cgroup))));
    assert_eq!(sighting.cookie.get(), sockopt::socket_cookie(&socket).expect("a cookie"));
    DONE
}

/// A socket as `/proc` has it: protocol, address, port, user, inode, and the cgroup of the process that has it open.
type Line = (Protocol, IpAddr, u16, u32, u64, u64);

/// An independent reading: `/proc/net/{tcp,udp}{,6}`, `/proc/PID/fd` and `/proc/PID/cgroup`.
fn read_proc(sandbox: &Sandbox) -> BTreeSet<Line> {
    let mut cgroups: BTreeMap<u64, u64> = BTreeMap::new();
    let mount = sandbox.path().parent().expect("the mount point");
    for process in fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(links) = fs::read_dir(process.path().join("fd")) else { continue };
        let Ok(text) = fs::read_to_string(process.path().join("cgroup")) else { continue };
        let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { continue };
        let Ok(cgroup) = fs::metadata(mount.join(path)) else { continue };
        for link in links.flatten().filter_map(|link| fs::read_link(link.path()).ok()) {
            let name = link.to_string_lossy().into_owned();
            if let Some(inode) = name.strip_prefix("socket:[").and_then(|name| name.strip_suffix(']')) {
                cgroups.insert(inode.parse().expect("an inode"), cgroup.ino());
            }
        }
    }
    let mut lines = BTreeSet::new();
    for (file, protocol) in
        [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)]
    {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("proc");
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let state = u8::from_str_radix(fields[3], 16).expect("a state");
            if protocol == Protocol::Tcp && state != 10 {
                continue;
            }
            let (address, port) = fields[1].split_once(':').expect("an address");
            // Words in the byte order of the machine.
            let words = (0..address.len()).step_by(8).map(|at| u32::from_str_radix(&address[at..at + 8], 16));
            let bytes: Vec<u8> = words.flat_map(|word| word.expect("a word").to_ne_bytes()).collect();
            let address: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
                Ok(bytes) => bytes.into(),
                Err(_) => <[u8; 16]>::try_from(bytes).expect("an address").into(),
            };
            let port = u16::from_str_radix(port, 16).expect("a port");
            let inode = fields[9].parse().expect("an inode");
            let cgroup = cgroups.get(&inode).copied().unwrap_or_default();
            lines.insert((protocol, address.to_canonical(), port, fields[7].parse().expect("a user"), inode, cgroup));
        }
    }
    lines
}

fn listeners_match_proc_net() -> Outcome {
    let sandbox = Sandbox::new();
    let mut workers: Vec<Worker> = (0..5).map(|pod| Worker::start(&sandbox.make(&format!("pod{pod}")))).collect();
    for number in 0..500u16 {
        let port = 22000 + number;
        let bind = match number % 4 {
            0 => Bind::tcp("0.0.0.0", port),
            1 => Bind::tcp("::", port),
            2 => Bind::udp("127.0.0.1", port),
            _ => Bind::udp("::1", port),
        };
        assert_eq!(workers[usize::from(number % 5)].bind(&bind.kept()), 0);
    }
    let shown: BTreeSet<Line> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| dump(protocol, Scope::Bound))
        .filter(|sighting| sighting.protocol == Protocol::Udp || sighting.activity == Activity::Listening)
        .map(|sighting| {
            let DumpedSocket { protocol, address, port, uid, inode, cgroup, .. } = sighting;
            (protocol, address, port, uid, inode.map_or(0, u64::from), cgroup.expect("a cgroup").get())
        })
        .collect();
    let read = read_proc(&sandbox);
    assert!(read.len() >= 500, "{}", read.len());
    assert_eq!(shown, read);
    DONE
}

/// Most of its memory that the process ever used, in KiB, since that was last reset.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn sixty_thousand_sockets_need_no_memory() -> Outcome {
    const SOCKETS: usize = 60_000;
    const EACH: u16 = 15_000;
    if env::var_os("ASAN_OPTIONS").is_some() {
        return Ok(Completion::ignored_with("AddressSanitizer keeps the memory that was freed"));
    }
    // More than a process may have: they are spread over several, which inherit the limit. Root may raise it.
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.map(|maximum| maximum.max(u64::from(EACH) + 1000));
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("root");
    let sandbox = Sandbox::new();
    let cgroup = sandbox.make("pod");
    let mut workers = Vec::new();
    for number in 0..SOCKETS / usize::from(EACH) {
        let mut worker = Worker::start(&cgroup);
        for port in 0..EACH {
            let bind = Bind::udp(&format!("127.0.3.{}", number + 1), 1024 + port).kept();
            assert_eq!(worker.bind(&bind), 0, "{bind:?}");
        }
        workers.push(worker);
    }
    setrlimit(Resource::Nofile, limit).expect("the limit as it was");
    fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    let (start, memory) = (Instant::now(), peak());
    let mut shown = 0;
    sock_diag::dump(Protocol::Udp, Scope::Bound, |sighting| {
        shown += usize::from(matches!(sighting.address, IpAddr::V4(address) if address.octets()[2] == 3));
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let (took, grown) = (start.elapsed(), peak() - memory);
    eprintln!("{SOCKETS} sockets shown in {took:?}; memory grew by {grown} KiB");
    assert_eq!(shown, SOCKETS);
    assert!(grown < 1024, "{grown} KiB");
    DONE
}

fn events_and_diagnostics_name_the_same_socket() -> Outcome {
    let mut fixture = KernelFixture::new();
    fixture.reconciler.set_policy(Policy { report_bound: true, ..ENFORCE });
    let mut worker = fixture.start(&Pod::new("a"));
    for bind in [
        Bind::tcp("0.0.0.0", PORT),
        Bind::tcp("::1", PORT),
        Bind::udp("127.0.0.1", PORT),
        Bind::tcp("0.0.0.0", PORT).on(mptcp()),
        Bind::tcp("::", PORT).on(mptcp()),
    ] {
        assert_eq!(worker.bind(&bind.clone().kept()), 0);
        let (_, bound) = fixture.outputs();
        let [bound] = bound.as_slice() else { panic!("{bound:?}") };
        let sightings = on(protocol_of(bind.kind), Scope::Bound, PORT);
        let [sighting] = sightings.as_slice() else { panic!("{sightings:?}") };
        assert_eq!(
            (bound.cookie, bound.protocol, bound.address, bound.port, Some(bound.cgroup)),
            (sighting.cookie, sighting.protocol, sighting.address, sighting.port, sighting.cgroup),
            "{bind:?}"
        );
        worker.close();
    }
    DONE
}

fn missing_kernel_option_is_named() -> Outcome {
    match sock_diag::dump(Protocol::Sctp, Scope::Bound, |sighting| panic!("{sighting:?}")) {
        Ok(()) => Ok(Completion::ignored_with("this kernel has diagnostics for SCTP too")),
        Err(error) => {
            assert!(matches!(error, sock_diag::DiagError::NoProtocol(Protocol::Sctp)), "{error}");
            assert!(error.to_string().contains("load the module sctp_diag"), "{error}");
            DONE
        }
    }
}

fn table_finds_unreported_sockets_and_drops_closed_ones() -> Outcome {
    let sandbox = Sandbox::new();
    let (one, other) = (sandbox.make("one"), sandbox.make("other"));
    let (mut maker, mut agent) = (Worker::start(&one), Worker::start(&other));
    let mut holders =
        BoundSockets::new(SocketLimits::default(), sock_diag::shows_bound().unwrap_or_else(|error| panic!("{error}")));
    let reconcile = |holders: &mut BoundSockets| {
        let done = agent::reconcile(holders, boot_time, |_| SocketPlace::HOST);
        assert!(done.errors.is_empty(), "{:?}", done.errors);
        done
    };
    reconcile(&mut holders);
    let before = holders.len();
    let found = |holders: &BoundSockets| -> Vec<(u16, CgroupId)> {
        let ours = holders.iter().filter(|holder| (PORT..PORT + 9).contains(&holder.port));
        ours.map(|holder| (holder.port, holder.cgroup.expect("a cgroup"))).collect()
    };
    let (one, other) = (cgroup_id(&one), cgroup_id(&other));

    assert_eq!(maker.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    assert_eq!(maker.bind(&Bind::udp("0.0.0.0", PORT + 1).kept()), 0);
    assert_eq!(maker.bind(&Bind::tcp("::", PORT + 2).on(mptcp()).kept()), 0);
    // A socket that is made by one and bound by the other, which alone has it open in the end.
    let passed = Bind::udp("::", PORT + 3);
    let socket = maker.open(&passed);
    assert_eq!(agent.bind_given(&socket, &passed), 0);
    drop(socket);
    assert_eq!(agent.bind(&Bind::tcp("0.0.0.0", PORT + 4).kept()), 0);
    assert_eq!(reconcile(&mut holders).found, 5);
    let all = [(PORT, one), (PORT + 1, one), (PORT + 2, one), (PORT + 3, one), (PORT + 4, other)];
    assert_eq!(BTreeSet::from_iter(found(&holders)), BTreeSet::from(all));
    assert_eq!(reconcile(&mut holders).found, 0);

    // Killed, and nobody tells.
    drop(maker);
    assert_eq!(reconcile(&mut holders).lost, 3);
    assert_eq!(BTreeSet::from_iter(found(&holders)), BTreeSet::from([(PORT + 3, one), (PORT + 4, other)]));
    agent.close();
    assert_eq!(reconcile(&mut holders).lost, 2);
    assert_eq!((found(&holders).len(), holders.len()), (0, before));
    DONE
}
