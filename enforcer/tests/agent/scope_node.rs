//! `--scope node`: the agent attaches at the root of the hierarchy and judges every process of the machine, and so only
//! of one that was started for these tests.

use std::fs;

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, bind, denied, isolated_defaults, until_bind},
    own_machine,
    pods::Pod,
    tests,
    worker::Worker,
};

/// Name and function of a test.
type Test = (&'static str, fn() -> Result<Completion, Failed>);

const TESTS: &[Test] = tests![own_machine::only_there => scope_node_judges_pods_and_audits_host];

pub(crate) fn trials() -> Vec<Trial> {
    TESTS.iter().map(|&(name, run)| Trial::ignorable_test(format!("scope_node::{name}"), run)).collect()
}

fn scope_node_judges_pods_and_audits_host() {
    let fixture = AgentFixture::new();
    let mut owner = fixture.start(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut service = Worker::start(&fixture.make_host_cgroup("system.slice/sshd.service"));
    // No --cgroup-root: the agent finds the root of the hierarchy by itself.
    let source = format!("dir:{}", fixture.folder().display());
    let memory = fixture.path_beside("state").display().to_string();
    let more = ["--scope", "node", "--mode", "enforce", "--node-reserved", "20022/tcp", "--log-format", "json"];
    let more = [&more[..], &["--state-dir", &memory, "--source", &source, "--node-name", "node-1"]].concat();
    let (mut agent, ready) = Agent::start(isolated_defaults(&more).iter().chain(&more));
    assert_eq!(ready["cgroup"], "/sys/fs/cgroup", "{ready}");

    assert_eq!(owner.bind(&bind(20080)), 0);
    until_bind(&mut stranger, 20080, denied());
    assert_eq!(agent.wait_for_event("bind", "default/stranger")["verdict"], "deny");

    let reserved = || fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").expect("the list");
    wait_until("both ports are reserved", || reserved() == "20022,20080\n");

    assert_eq!(service.bind(&bind(20080)), 0, "a host process is never denied");
    let is_service = |line: &Value| line["event"] == "bind" && line["pid"] == service.pid();
    let told = agent.wait_for_line("the bind of a host process is told", is_service);
    assert_eq!((&told["verdict"], &told["reason"]), (&"audit".into(), &"claimed".into()), "{told}");
    assert_eq!(service.bind(&bind(20022)), 0, "the node's ports are its own");
    assert_eq!(stranger.bind(&bind(20022)), denied());
    assert_eq!(agent.wait_for_event("bind", "default/stranger")["reason"], "reserved");

    assert!(agent.terminate().success());
    assert_eq!(reserved(), "\n", "nothing is reserved any more");
    assert_eq!(stranger.bind(&bind(20080)), 0, "nothing is judged any more");
}
