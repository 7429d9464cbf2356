//! What is judged at all: binds of the node's network namespace by processes of pods, and no others.

use std::{ffi::CStr, fs, thread};

use enforcer_core::model::actor::Actor;
use enforcer_ebpf::wire::{Reason, VerdictKind};
use libtest_mimic::Completion;
use rustix::thread::set_name;

use enforcer_testing::{
    kernel_fixture::{Rig, by_helper, denied},
    manifest::Manifest,
    worker::{Bind, Kind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test, requirements};

pub(crate) const TESTS: &[Test] = &[
    ("another_network_namespace_is_untouched", another_network_namespace_is_untouched),
    ("host_processes_are_untouched", host_processes_are_untouched),
    ("a_host_process_with_a_pods_socket_is_audited", a_host_process_with_a_pods_socket_is_audited),
    ("the_task_that_asks_is_told", the_task_that_asks_is_told),
    ("a_socket_is_judged_by_who_binds_it", a_socket_is_judged_by_who_binds_it),
    ("ping_sockets_are_undisturbed", ping_sockets_are_undisturbed),
    ("raw_sockets_are_undisturbed", raw_sockets_are_undisturbed),
    ("udp_lite_is_undisturbed", udp_lite_is_undisturbed),
];

/// The same where tasks are read by helpers, as on kernels before 6.2.
pub(crate) const BY_HELPER: &[Test] = &[("the_task_that_asks_is_told", || by_helper(the_task_that_asks_is_told))];

const PORT: u16 = 20080;

/// An owner of the port in both protocols, and a stranger.
fn rig() -> (Rig, Worker, Worker) {
    let mut rig = Rig::new();
    let owner = rig.start(&Manifest::new("owner").ports("20080/tcp 20080/udp"));
    let stranger = rig.start(&Manifest::new("stranger"));
    (rig, owner, stranger)
}

fn another_network_namespace_is_untouched() -> Outcome {
    let (mut rig, _owner, mut stranger) = rig();
    let bind = Bind::tcp("0.0.0.0", PORT);
    assert_eq!(rig.attempt(&mut stranger, &bind).answer(), (denied(), VerdictKind::Deny, Reason::Claimed));
    let before = rig.engine.counters().unwrap();
    stranger.unshare();
    for bind in [bind, Bind::tcp("::", PORT), Bind::udp("0.0.0.0", PORT), Bind::udp("::", PORT)] {
        let seen = rig.attempt(&mut stranger, &bind);
        assert_eq!((seen.errno, seen.reports.len()), (0, 0), "{bind:?}");
    }
    assert_eq!(rig.engine.counters().unwrap(), before);
    DONE
}

fn host_processes_are_untouched() -> Outcome {
    let (mut rig, _owner, _stranger) = rig();
    let mut host = Worker::start(&rig.sandbox().make("system.slice/sshd.service"));
    let before = rig.engine.counters().unwrap();
    for bind in [Bind::tcp("0.0.0.0", PORT), Bind::udp("::", PORT)] {
        let seen = rig.attempt(&mut host, &bind);
        assert_eq!((seen.errno, seen.reports.len()), (0, 0), "{bind:?}");
    }
    assert_eq!(rig.engine.counters().unwrap(), before);
    DONE
}

/// The programs of the socket's cgroup run, whoever binds it.
fn a_host_process_with_a_pods_socket_is_audited() -> Outcome {
    let (mut rig, _owner, mut stranger) = rig();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let socket = stranger.open(&bind);
    let seen = rig.watch(|| errno(bind_socket(&socket, &bind)));
    assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().caller, Actor::Host);
    assert_eq!(seen.report().attempt.pid, std::process::id());
    DONE
}

/// Of the thread that calls: its process, its real user, and its own name, all that there is room for.
fn the_task_that_asks_is_told() -> Outcome {
    const NAME: &CStr = c"of 15 letters X";
    const USER: u32 = 12_345;
    let (mut rig, _owner, mut stranger) = rig();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let socket = stranger.open(&bind);
    let ask = || {
        set_name(NAME).expect("a name");
        // The bare call, which changes this thread only; the effective user stays, and with it what this may do.
        // SAFETY: it takes numbers only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, USER, 0, 0) }, 0);
        errno(bind_socket(&socket, &bind))
    };
    let seen = rig.watch(|| thread::scope(|scope| scope.spawn(ask).join().expect("a thread")));
    assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed));
    let attempt = &seen.report().attempt;
    let told = (attempt.pid, attempt.uid, attempt.command.as_bytes());
    assert_eq!(told, (std::process::id(), USER, NAME.to_bytes()));
    DONE
}

fn a_socket_is_judged_by_who_binds_it() -> Outcome {
    let (mut rig, mut owner, mut stranger) = rig();
    let bind = Bind::tcp("0.0.0.0", PORT);
    let strangers = stranger.open(&bind);
    let seen = rig.watch(|| owner.bind_given(&strangers, &bind));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Owner));
    owner.close();
    stranger.close();
    drop(strangers);
    let owners = owner.open(&bind);
    let seen = rig.watch(|| stranger.bind_given(&owners, &bind));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Claimed));
    DONE
}

fn errno(result: std::io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

/// Binds that never reach the hooks, or are of a port space of their own.
fn undisturbed(kind: Kind) -> i32 {
    let (mut rig, _owner, mut stranger) = rig();
    let before = rig.engine.counters().unwrap();
    let seen = rig.attempt(&mut stranger, &Bind::tcp("0.0.0.0", PORT).on(kind));
    assert_eq!(seen.reports.len(), 0);
    assert_eq!(rig.engine.counters().unwrap(), before);
    seen.errno
}

fn ping_sockets_are_undisturbed() -> Outcome {
    // Let everybody in this network namespace make ping sockets.
    if fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").is_err() {
        return Ok(Completion::ignored_with("net.ipv4.ping_group_range cannot be written here"));
    }
    assert_eq!(undisturbed(Kind::Ping), 0);
    DONE
}

fn raw_sockets_are_undisturbed() -> Outcome {
    assert_eq!(undisturbed(Kind::Raw), 0);
    DONE
}

fn udp_lite_is_undisturbed() -> Outcome {
    if let Some(why) = requirements::UDP_LITE.missing() {
        return Ok(Completion::ignored_with(why));
    }
    assert_eq!(undisturbed(Kind::UdpLite), 0);
    DONE
}
