//! What is told of a conflict, and how often.

use std::{collections::HashMap, fs, process};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use serde_json::{Value, json};

use enforcer_testing::{
    agent_fixture::{AgentFixture, bind, denied},
    pods::Pod,
    tests,
    worker::{Bind, Worker},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    audit_mode_reports_and_allows,
    enforce_mode_denies_and_reports,
    claim_conflict_is_reported_before_any_bind,
    repeated_conflicts_are_suppressed
];

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The process id that the kernel tells of a worker: that of the initial pid namespace, which only a process in there
/// can know in advance.
fn pid(worker: &Worker, told: &Value) -> u64 {
    let namespace = fs::read_link("/proc/self/ns/pid").expect("a pid namespace");
    if namespace.to_str() == Some(INITIAL_PID_NAMESPACE) {
        u64::from(worker.pid())
    } else {
        told["pid"].as_u64().expect("a pid")
    }
}

/// A worker's command is this very binary's.
fn command() -> String {
    fs::read_to_string(format!("/proc/{}/comm", process::id())).expect("a command").trim_end().to_owned()
}

/// The line about a conflict, in full but for its time.
fn check(mut told: Value, worker: &Worker, verdict: &str, word: &str) {
    let (pid, command) = (pid(worker, &told), command());
    let time = told.as_object_mut().and_then(|line| line.remove("timestamp")).expect("a time");
    let _: jiff::Timestamp = time.as_str().expect("a text").parse().expect("an RFC 3339 time");
    let expected = json!({
        "level": "WARN",
        "target": "enforcer::agent::log_reporter",
        "event": "bind",
        "verdict": verdict,
        "reason": "claimed",
        "protocol": "tcp",
        "address": "0.0.0.0",
        "port": 20080,
        "pod": "default/web-2",
        "container": "server",
        "command": command,
        "pid": pid,
        "uid": 0,
        "owner": "default/web-1",
        "source": "annotation",
        "suppressed": 0, "suppressedOthers": 0,
        "message": format!(
            "bind 0.0.0.0:20080/tcp by default/web-2 (container server, command {command}, pid {pid}) {word} on \
             node-1: claimed by default/web-1 (annotation)"
        ),
    });
    assert_eq!(told, expected);
}

fn audit_mode_reports_and_allows() {
    let fixture = AgentFixture::new();
    let (owner, stranger) = (Pod::new("web-1").ports("20080/tcp"), Pod::new("web-2"));
    let (mut owner, mut stranger) = (fixture.start(&owner), fixture.start(&stranger));
    let mut agent = fixture.agent(&[]);
    assert_eq!(stranger.bind(&bind(20080)), 0);
    let told = agent.wait_for_event("bind", "default/web-2");
    check(told, &stranger, "audit", "audited (it would be denied in enforce mode)");
    assert_eq!(owner.bind(&bind(20080)), 0);
    assert_eq!(agent.count(VerdictKind::Audit, Reason::Claimed, Protocol::Tcp), 1);
    assert_eq!(agent.count(VerdictKind::Allow, Reason::Owner, Protocol::Tcp), 1);
}

fn enforce_mode_denies_and_reports() {
    let fixture = AgentFixture::new();
    let (owner, stranger) = (Pod::new("web-1").ports("20080/tcp"), Pod::new("web-2"));
    let (mut owner, mut stranger) = (fixture.start(&owner), fixture.start(&stranger));
    let mut agent = fixture.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    let told = agent.wait_for_event("bind", "default/web-2");
    check(told, &stranger, "deny", "denied");
    assert_eq!(owner.bind(&bind(20080)), 0);
    assert_eq!(stranger.bind(&bind(20081)), 0);
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp), 1);
}

fn claim_conflict_is_reported_before_any_bind() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("first").ports("20080/tcp 20090/udp"));
    fixture.put(&Pod::new("second").ports("20070-20090/tcp"));
    let mut agent = fixture.agent(&[]);
    let told = agent.wait_for_event("claim_conflict", "default/second");
    assert_eq!((&told["owner"], &told["source"]), (&json!("default/first"), &json!("annotation")));
    assert_eq!(
        told["message"],
        "claim of default/second on 20080/tcp loses on node-1: in force for default/first (annotation); it is granted \
         when that one goes"
    );
    fixture.put(&Pod::new("third").ports("127.0.0.1:20090/udp"));
    let told = agent.wait_for_event("claim_conflict", "default/third");
    assert_eq!(told["owner"], "default/first");
    let rest: Vec<_> = agent.drain_log().into_iter().filter(|line| line["event"] == "claim_conflict").collect();
    assert_eq!(rest, [] as [Value; 0], "each is told once");
}

fn repeated_conflicts_are_suppressed() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080/udp"));
    let (mut stranger, mut other) = (fixture.start(&Pod::new("stranger")), fixture.start(&Pod::new("other")));
    let mut agent = fixture.enforce(&[]);
    let udp = Bind::udp("0.0.0.0", 20080);
    assert_eq!(stranger.storm(&udp, 500, 2), HashMap::from([(denied(), 500)]));
    assert_eq!(other.bind(&udp), denied());
    // What is told comes in the order of the attempts, so that nothing of the first 500 is still on its way.
    assert_eq!(agent.wait_for_event("bind", "default/other")["suppressed"], 0);
    let told: Vec<_> = agent.drain_log().into_iter().filter(|line| line["event"] == "bind").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["pod"], &told[0]["suppressed"]), (&json!("default/stranger"), &json!(0)));
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Udp), 501);
}
