//! What is judged at all: binds of the node's network namespace by processes of pods, and no others.

use std::{ffi::CStr, fs, thread};

use enforcer_core::model::actor::Actor;
use enforcer_ebpf::wire::{Reason, VerdictKind};
use libtest_mimic::Completion;
use rustix::thread::set_name;

use enforcer_testing::{
    pods::Pod,
    reconciler_fixture::{KernelFixture, denied, reading_by_helper},
    tests,
    worker::{Bind, Kind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test, skip_excuses};

pub(crate) const TESTS: &[Test] = tests![
    pod_in_other_network_namespace_is_not_judged,
    host_process_is_not_judged,
    host_process_with_pod_socket_is_audited,
    report_names_the_binding_task,
    binding_process_decides_not_socket_creator,
    ping_socket_is_not_judged,
    raw_socket_is_not_judged,
    udp_lite_socket_is_not_judged
];

/// The same where tasks are read by helpers, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = tests![reading_by_helper => report_names_the_binding_task];

const PORT: u16 = 20080;

/// An owner of the port in both protocols, and a stranger.
fn fixture() -> (KernelFixture, Worker, Worker) {
    let mut fixture = KernelFixture::new();
    let owner = fixture.start(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let stranger = fixture.start(&Pod::new("stranger"));
    (fixture, owner, stranger)
}

fn pod_in_other_network_namespace_is_not_judged() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture();
    let bind = Bind::tcp("0.0.0.0", PORT);
    assert_eq!(fixture.attempt(&mut stranger, &bind).result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    let before = fixture.reconciler.counters().unwrap();
    stranger.unshare();
    for bind in [bind, Bind::tcp("::", PORT), Bind::udp("0.0.0.0", PORT), Bind::udp("::", PORT)] {
        let seen = fixture.attempt(&mut stranger, &bind);
        assert_eq!((seen.errno, seen.reports.len()), (0, 0), "{bind:?}");
    }
    assert_eq!(fixture.reconciler.counters().unwrap(), before);
    DONE
}

fn host_process_is_not_judged() -> Outcome {
    let (mut fixture, _owner, _stranger) = fixture();
    let mut host = Worker::start(&fixture.sandbox().make("system.slice/sshd.service"));
    let before = fixture.reconciler.counters().unwrap();
    for bind in [Bind::tcp("0.0.0.0", PORT), Bind::udp("::", PORT)] {
        let seen = fixture.attempt(&mut host, &bind);
        assert_eq!((seen.errno, seen.reports.len()), (0, 0), "{bind:?}");
    }
    assert_eq!(fixture.reconciler.counters().unwrap(), before);
    DONE
}

/// The programs of the socket's cgroup run, whoever binds it.
fn host_process_with_pod_socket_is_audited() -> Outcome {
    let (mut fixture, _owner, mut stranger) = fixture();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let socket = stranger.open(&bind);
    let seen = fixture.observe(|| errno(bind_socket(&socket, &bind)));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().caller, Actor::Host);
    assert_eq!(seen.report().attempt.pid, std::process::id());
    DONE
}

/// Of the thread that calls: its process, its real user, and its own name, all that there is room for.
fn report_names_the_binding_task() -> Outcome {
    const NAME: &CStr = c"of 15 letters X";
    const USER: u32 = 12_345;
    let (mut fixture, _owner, mut stranger) = fixture();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let socket = stranger.open(&bind);
    let ask = || {
        set_name(NAME).expect("a name");
        // The bare call, which changes this thread only; the effective user stays, and with it what this may do.
        // SAFETY: it takes numbers only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, USER, 0, 0) }, 0);
        errno(bind_socket(&socket, &bind))
    };
    let seen = fixture.observe(|| thread::scope(|scope| scope.spawn(ask).join().expect("a thread")));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed));
    let attempt = &seen.report().attempt;
    let told = (attempt.pid, attempt.uid, attempt.command.as_bytes());
    assert_eq!(told, (std::process::id(), USER, NAME.to_bytes()));
    DONE
}

fn binding_process_decides_not_socket_creator() -> Outcome {
    let (mut fixture, mut owner, mut stranger) = fixture();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let strangers = stranger.open(&bind);
    let seen = fixture.observe(|| owner.bind_given(&strangers, &bind));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Owner));
    owner.close();
    stranger.close();
    drop(strangers);
    let owners = owner.open(&bind);
    let seen = fixture.observe(|| stranger.bind_given(&owners, &bind));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    DONE
}

fn errno(result: std::io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

/// Binds that never reach the hooks, or are of a port space of their own.
fn undisturbed(kind: Kind) -> i32 {
    let (mut fixture, _owner, mut stranger) = fixture();
    let before = fixture.reconciler.counters().unwrap();
    let seen = fixture.attempt(&mut stranger, &Bind::tcp("0.0.0.0", PORT).on(kind));
    assert_eq!(seen.reports.len(), 0);
    assert_eq!(fixture.reconciler.counters().unwrap(), before);
    seen.errno
}

fn ping_socket_is_not_judged() -> Outcome {
    // Let everybody in this network namespace make ping sockets.
    if fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").is_err() {
        return Ok(Completion::ignored_with("net.ipv4.ping_group_range cannot be written here"));
    }
    assert_eq!(undisturbed(Kind::Ping), 0);
    DONE
}

fn raw_socket_is_not_judged() -> Outcome {
    assert_eq!(undisturbed(Kind::Raw), 0);
    DONE
}

fn udp_lite_socket_is_not_judged() -> Outcome {
    if let Some(why) = skip_excuses::UDP_LITE.missing() {
        return Ok(Completion::ignored_with(why));
    }
    assert_eq!(undisturbed(Kind::UdpLite), 0);
    DONE
}
