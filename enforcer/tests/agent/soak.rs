//! Pods that come, bind, are killed and go, a hundred a second, for a long time: no rightful owner is denied, nobody else
//! is let in, nothing is left of who went, and neither the agent's memory nor the kernel's maps grow.
//!
//! The short form always runs; with `PORT_ENFORCER_TEST_FULL=1` in the environment it takes half an hour.

use std::{
    collections::VecDeque,
    env, fs,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map};
use enforcer::kernel::map_names::{POD_CGROUPS, POD_UIDS, PORT_HOLDS};
use enforcer_ebpf::wire::{PortHolds, Protocol, Reason, VerdictKind};

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, denied},
    apiserver::ApiServer,
    figures,
    pods::Pod,
    tests,
    worker::{Answer, Bind, Order, Worker},
};

use crate::{
    Test,
    backend::{Backend as _, start_synced},
    read_claims_in_force::claims_in_force,
    status::{json, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![pod_churn_leaves_no_residue];

/// Most pods a second.
const PER_SECOND: u32 = 100;
/// How many pods live at once.
const LIVING: usize = 100;
/// How many ports there are for them: each is another pod's after so many.
const PORTS: u16 = 500;
/// How much the agent may grow in the second half of the time, after everything that is kept for a while has been kept
/// once.
const GROWTH: u64 = 4 << 20;

fn duration() -> Duration {
    let full = env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|full| full == "1");
    if full { Duration::from_mins(30) } else { Duration::from_secs(15) }
}

/// A pod with a process that holds its port.
struct Life {
    pod: Pod,
    bind: Bind,
    process: i32,
}

fn pod_churn_leaves_no_residue() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let admin = socket(&fixture);
    let agent = start_synced(&fixture, &server, &served(&admin, &[]));
    // It makes the processes of all pods; itself it is in none.
    let mut nursery = Worker::start(&fixture.make_host_cgroup("system.slice/nursery"));
    let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
    let mut living: VecDeque<Life> = VecDeque::new();
    let (start, whole) = (Instant::now(), duration());
    let (mut born, mut early) = (0, None);
    while start.elapsed() < whole {
        living.push_back(begin(&fixture, &server, &mut nursery, born));
        born += 1;
        if living.len() > LIVING {
            end(&fixture, &server, &mut nursery, &mut stranger, living.pop_front().expect("the oldest"));
        }
        if early.is_none() && start.elapsed() > whole / 2 {
            early = Some(memory(&agent));
        }
        sleep((Duration::from_secs(1) / PER_SECOND * born).saturating_sub(start.elapsed()));
    }
    let seconds = start.elapsed().as_secs();
    while let Some(life) = living.pop_front() {
        end(&fixture, &server, &mut nursery, &mut stranger, life);
    }
    nothing_is_left(&fixture, &agent);
    let (early, late) = (early.expect("half has passed"), memory(&agent));
    figures::print(&[
        ("soak.pods", born.into()),
        ("soak.seconds", seconds),
        ("soak.kib_after_half", early >> 10),
        ("soak.kib_at_the_end", late >> 10),
    ]);
    assert!(late <= early + GROWTH, "{early} bytes became {late}");
    let denials = agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp)
        + agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Udp);
    assert!(denials >= u64::from(born), "each pod's port was tried by the stranger");
}

fn begin(fixture: &AgentFixture, server: &ApiServer, nursery: &mut Worker, number: u32) -> Life {
    let port = 20_000 + u16::try_from(number % u32::from(PORTS)).expect("a port");
    let bind = Bind {
        reuse_port: true,
        ..if number.is_multiple_of(2) { Bind::tcp("0.0.0.0", port) } else { Bind::udp("::", port) }
    };
    let protocol = if number.is_multiple_of(2) { "tcp" } else { "udp" };
    let pod = server.put(&Pod::new(&format!("pod-{number}")).ports(&format!("{port}/{protocol}")));
    let cgroup = fixture.make_container_cgroup(pod.uid_text());
    let order = Order::Live { cgroup, bind: bind.clone() };
    let Answer::Lives { errno, process } = nursery.order(&order) else { panic!("an answer of the nursery") };
    assert_eq!(errno, 0, "the rightful owner of {port}, pod {number}");
    Life { pod, bind, process }
}

fn end(fixture: &AgentFixture, server: &ApiServer, nursery: &mut Worker, stranger: &mut Worker, life: Life) {
    let Life { pod, bind, process } = life;
    wait_until("the port is the pod's alone", || match stranger.bind(&bind) {
        // Its holder is who bound it first, and the claim may come a moment later.
        errno if errno == denied() => true,
        errno => panic!("{errno} for a stranger on {bind:?}"),
    });
    assert!(matches!(nursery.order(&Order::Kill(process)), Answer::Done));
    fixture.remove_cgroup(pod.uid_text());
    server.delete(&pod);
}

/// Of all the pods nothing is known any more, in the kernel or out of it, but of the stranger.
fn nothing_is_left(fixture: &AgentFixture, agent: &Agent) {
    wait_until("all claims are gone", || claims_in_force(agent).is_ok_and(|held| held.is_empty()));
    wait_until("all pods are gone", || agent.entries(POD_UIDS) == 1 && agent.entries(POD_CGROUPS) == 1);
    wait_until("nobody holds anything", || holds(agent) == 0);
    let told = json(fixture, &["status"]);
    let pods: Vec<_> = told["holders"].as_array().expect("holders").iter().filter(|it| !it["pod"].is_null()).collect();
    assert!(pods.is_empty(), "{pods:?}");
    assert_eq!(told["claims"].as_array().map(Vec::len), Some(0));
}

/// How many holders the programs have noted.
fn holds(agent: &Agent) -> usize {
    let slots = HashMap::<_, u32, PortHolds>::try_from(Map::HashMap(agent.map(PORT_HOLDS))).expect("the slots");
    let holders = |slot: PortHolds| slot.holds.iter().filter(|hold| hold.holder != 0).count();
    slots.iter().map(|entry| holders(entry.expect("a slot").1)).sum()
}

/// What the agent has of memory that is its own, in bytes.
fn memory(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("the agent lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("since 4.5");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
