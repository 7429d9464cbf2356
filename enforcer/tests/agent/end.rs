//! How an agent ends: nothing of it is left.

use std::{collections::BTreeSet, fs, thread};

use aya::programs::loaded_programs;
use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, bind, denied},
    cgroup_sandbox,
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![sigterm_leaves_nothing_behind, sigkill_under_load_leaves_nothing_behind];

/// The programs in the kernel by id, with their names.
fn loaded() -> Vec<(u32, String)> {
    let programs = loaded_programs().map(|program| program.expect("listing programs needs root"));
    programs.map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned())).collect()
}

/// The names of the agent's programs in the kernel.
fn names_of(ids: &BTreeSet<u32>) -> BTreeSet<String> {
    loaded().into_iter().filter(|(id, _)| ids.contains(id)).map(|(_, name)| name).collect()
}

/// Starts an agent that is known to work: also the ids of its programs.
fn start(fixture: &AgentFixture) -> (Agent, BTreeSet<u32>) {
    fixture.put(&Pod::new("owner").ports("20080/tcp 20080/udp"));
    let agent = fixture.enforce(&[]);
    let ids = agent.programs();
    let hooks = ["bind4", "bind6", "post_bind4", "post_bind6", "sock_release", "cgroup_mkdir", "cgroup_rmdir"];
    assert_eq!(names_of(&ids), BTreeSet::from(hooks.map(|hook| format!("pe_{hook}"))));
    (agent, ids)
}

/// The kernel frees what a process had a moment after it ended.
fn nothing_is_left(ids: &BTreeSet<u32>) {
    wait_until("the agent's programs are gone", || names_of(ids).is_empty());
}

fn sigterm_leaves_nothing_behind() {
    let fixture = AgentFixture::new();
    let (mut agent, ids) = start(&fixture);
    let mut stranger = fixture.start(&Pod::new("stranger"));
    assert_eq!(stranger.bind(&bind(20080)), denied());
    let status = agent.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    agent.wait_for_line("it says that it stopped", |line| line["event"] == "stopped");
    nothing_is_left(&ids);
    assert_eq!(stranger.bind(&bind(20080)), 0);
    drop(stranger);
    cgroup_sandbox::remove(&fixture.root()).expect("the cgroup can be removed");
    fs::create_dir(fixture.root()).expect("and made again");
}

fn sigkill_under_load_leaves_nothing_behind() {
    let fixture = AgentFixture::new();
    let (mut agent, ids) = start(&fixture);
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let udp = Bind::udp("0.0.0.0", 20080);
    // Until the agent is gone, so that it is killed in the middle whatever the speed of either.
    let seen = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            wait_until("a bind in the storm is allowed", || {
                seen.extend(stranger.storm(&udp, 1000, 4).into_keys());
                seen.contains(&0)
            });
            seen
        });
        wait_until("the storm is on", || agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Udp) > 1000);
        let status = agent.kill();
        assert_eq!(status.code(), None, "{status}");
        storm.join().expect("the storm")
    });
    // UDP binds of the same port by several threads are in each other's way.
    assert!(seen.is_subset(&BTreeSet::from([0, denied(), libc::EADDRINUSE])), "{seen:?}");
    nothing_is_left(&ids);
    assert_eq!(stranger.bind(&bind(20080)), 0);
    drop(stranger);
    cgroup_sandbox::remove(&fixture.root()).expect("the cgroup can be removed");
    fs::create_dir(fixture.root()).expect("and made again");
    // And another agent can begin where that one was killed.
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let _agent = fixture.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), denied());
}
