//! Rings and the socket log that one pod fills: the records of other pods have their space, everything is read when the
//! agent can read again, and what was lost is looked up.
//!
//! The agent is stopped meanwhile, so that what is written is certainly more than there is space for.

use std::{fs, time::Instant};

use aya::maps::{Array, Map};
use enforcer_ebpf::wire::{BoundEvent, CgroupEvent, KernelError, PortHolder, Protocol, SOCKET_LOG_BYTES, port_index};
use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, bind, denied},
    pods::Pod,
    tests,
    worker::Worker,
};
use serde_json::Value;

use crate::{
    Test,
    status::{json, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![
    burst_of_a_pod_costs_others_no_record_and_leaves_no_port_held,
    storm_of_denials_leaves_others_to_be_told,
    storm_on_a_held_port_leaves_others_to_be_told,
    full_cgroup_ring_is_made_up_for
];

/// First port of the burst, and number of ports.
const BURST: (u16, u16) = (21_000, 1_000);
/// Binds of the burst: some twenty times what the log has space for.
const BURST_BINDS: u32 = 100_000;
/// First port of those that are then shared by two sockets each, and number of ports.
const SHARED: (u16, u16) = (23_000, 50);
/// Binds that use up a pod's share of records for a moment.
const MORE_BINDS: u32 = 500;
/// First port of the quiet pod, and number of ports: fewer than the share of a cgroup.
const QUIET: (u16, u16) = (20_080, 40);
/// The port that a pod of the test owns or holds, and the next one.
const HELD: [u16; 2] = [20_080, 20_081];

const _: () = assert!(BURST_BINDS as usize * size_of::<BoundEvent>() > 10 * SOCKET_LOG_BYTES as usize);

fn start(fixture: &AgentFixture, more: &[&str]) -> Agent {
    fixture.agent(&served(&socket(fixture), more))
}

/// Waits until the agent says that this pod's bind of this port failed or would have.
fn wait_for_conflict(agent: &mut Agent, pod: &str, port: u16) -> Value {
    agent.wait_for_line("the conflict is told", |line| {
        line["event"] == "bind" && line["pod"] == pod && line["port"] == port && line["verdict"] != Value::Null
    })
}

/// Returns the ports of the burst, and those after it, that have a port holder.
fn held(agent: &Agent) -> Vec<u16> {
    let port_holders: Array<_, PortHolder> =
        Array::try_from(Map::Array(agent.map("PORT_HOLDERS"))).expect("the port holders");
    let holder = |port| port_holders.get(&port_index(Protocol::Tcp, port), 0).expect("a port holder").holder;
    [BURST, SHARED]
        .into_iter()
        .flat_map(|(first, count)| first..first + count)
        .filter(|port| holder(*port) != 0)
        .collect()
}

fn burst_of_a_pod_costs_others_no_record_and_leaves_no_port_held() {
    let fixture = AgentFixture::new();
    let pods = ["busy", "quiet", "late"].map(Pod::new);
    let [mut busy, mut quiet, mut late] = pods.each_ref().map(|pod| fixture.start(pod));
    let mut agent = start(&fixture, &[]);
    let lost_before = agent.counters().errors(KernelError::HolderEventLost);
    agent.while_stopped(|| {
        for part in 0..2 {
            let counts = busy.burst(&bind(BURST.0), BURST.1, BURST_BINDS / 2);
            assert_eq!(counts.keys().collect::<Vec<_>>(), [&0], "{counts:?}");
            let half = QUIET.1 / 2;
            for port in QUIET.0 + part * half..QUIET.0 + (part + 1) * half {
                assert_eq!(quiet.bind(&bind(port).kept()), 0);
            }
        }
        assert!(held(&agent).is_empty(), "a closed socket holds no port");
        // Of two that share a port, neither is noted alone. Most of them leave no record.
        for port in SHARED.0..SHARED.0 + SHARED.1 {
            busy.burst(&bind(BURST.0), 1, MORE_BINDS);
            for _ in 0..2 {
                assert_eq!(busy.bind(&bind(port).reusing_port().kept()), 0);
            }
        }
        busy.burst(&bind(BURST.0), 1, MORE_BINDS);
        busy.close();
        assert_eq!(held(&agent).len(), usize::from(SHARED.1));
    });
    let lost = agent.counters().errors(KernelError::HolderEventLost) - lost_before;
    assert!(lost > u64::from(BURST_BINDS), "{lost} records were lost, of two for each bind");
    let began = Instant::now();

    // A scan finds a socket without a record too, but neither its process nor the moment of its bind.
    let known = || {
        let status = json(&fixture, &["status"]);
        let holders = status["holders"].as_array().expect("a list").clone();
        let of_quiet = holders.into_iter().filter(|holder| holder["who"]["name"] == "quiet");
        of_quiet.filter(|holder| holder["pid"].is_number() && holder["sinceIsExact"] == true).count()
    };
    wait_until("every record of the quiet pod is read", || known() == usize::from(QUIET.1));
    wait_until("no port of the burst is held", || held(&agent).is_empty());
    println!("{lost} records of a burst were lost; all was known after {:?} at most", began.elapsed());
    for port in (BURST.0..BURST.0 + BURST.1).chain(SHARED.0..SHARED.0 + SHARED.1) {
        assert_eq!(late.bind(&bind(port)), 0);
    }
    assert_eq!(late.bind(&bind(QUIET.0)), libc::EADDRINUSE);
    let told = wait_for_conflict(&mut agent, "default/late", QUIET.0);
    assert_eq!(told["holder"], "default/quiet", "{told}");
    assert!(agent.drain_log().iter().all(|line| line["event"] != "bind"), "nobody else failed");
}

fn storm_of_denials_leaves_others_to_be_told() {
    let fixture = AgentFixture::new();
    let _owner = fixture.start(&Pod::new("owner").ports(&format!("{},{}", HELD[0], HELD[1])));
    let [mut busy, mut quiet] = ["busy", "quiet"].map(|name| fixture.start(&Pod::new(name)));
    let mut agent = start(&fixture, &["--mode", "enforce"]);
    storm(&agent, [&mut busy, &mut quiet], denied());
    let lost = agent.counters().errors(KernelError::BindEventLost);
    assert!(lost > 10_000, "{lost} records were lost");
    let told = wait_for_conflict(&mut agent, "default/quiet", HELD[1]);
    assert_eq!(told["verdict"], "deny", "{told}");
    // What comes now is told too.
    assert_eq!(busy.bind(&bind(HELD[1])), denied());
    wait_for_conflict(&mut agent, "default/busy", HELD[1]);
}

fn storm_on_a_held_port_leaves_others_to_be_told() {
    let fixture = AgentFixture::new();
    let [mut holder, mut busy, mut quiet] = ["holder", "busy", "quiet"].map(|name| fixture.start(&Pod::new(name)));
    let mut agent = start(&fixture, &[]);
    for port in HELD {
        assert_eq!(holder.bind(&bind(port).kept()), 0);
    }
    wait_until("the holder is known", || {
        json(&fixture, &["status"])["holders"].as_array().is_some_and(|holders| holders.len() >= HELD.len())
    });
    storm(&agent, [&mut busy, &mut quiet], libc::EADDRINUSE);
    let lost = agent.counters().errors(KernelError::HolderEventLost);
    assert!(lost > 10_000, "{lost} records were lost");
    let told = wait_for_conflict(&mut agent, "default/quiet", HELD[1]);
    assert_eq!(told["holder"], "default/holder", "{told}");
    assert_eq!(busy.bind(&bind(HELD[1])), libc::EADDRINUSE);
    wait_for_conflict(&mut agent, "default/busy", HELD[1]);
}

/// Lets the first worker bind a held port over and over, and the second one another port once, with this result, while
/// the agent is stopped.
fn storm(agent: &Agent, [busy, quiet]: [&mut Worker; 2], errno: i32) {
    agent.while_stopped(|| {
        let counts = busy.storm(&bind(HELD[0]), 50_000, 1);
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&errno], "{counts:?}");
        assert_eq!(quiet.bind(&bind(HELD[1])), errno);
        // More of it: what the quiet one wrote is not the last.
        busy.storm(&bind(HELD[0]), 50_000, 1);
    });
}

fn full_cgroup_ring_is_made_up_for() {
    /// More than there is space for.
    const CGROUPS: usize = 2 * enforcer_ebpf::wire::CGROUP_RING_BYTES as usize / size_of::<CgroupEvent>();
    let fixture = AgentFixture::new();
    let owner = Pod::new("owner").ports(&HELD[0].to_string());
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut agent = start(&fixture, &["--mode", "enforce"]);
    let mut owning = None;
    agent.while_stopped(|| {
        for number in 0..CGROUPS {
            let path = fixture.root().join(format!("other-{number}"));
            fs::create_dir(&path).expect("making a cgroup");
            fs::remove_dir(&path).expect("removing a cgroup");
        }
        owning = Some(fixture.start(&owner));
    });
    assert!(agent.counters().errors(KernelError::CgroupEventLost) > 0, "records were lost");
    let mut owning = owning.expect("it was started");
    wait_until("the stranger is denied", || stranger.bind(&bind(HELD[0])) == denied());
    assert_eq!(owning.bind(&bind(HELD[0])), 0);
    let told = wait_for_conflict(&mut agent, "default/stranger", HELD[0]);
    assert_eq!(told["owner"], "default/owner", "{told}");
}
