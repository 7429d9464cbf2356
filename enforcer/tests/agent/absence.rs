//! What is in force while no agent is there, and what the next one makes of it.

use std::{
    env,
    net::TcpStream,
    process::Output,
    time::{Duration, Instant},
};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, enforcer, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::ApiServer,
    bpffs::Bpffs,
    figures,
    pods::Pod,
    tests,
    worker::{Bind, Worker},
};

use crate::{
    Test,
    backend::{Backend as _, cluster_arguments, start_on_cluster, start_synced},
    bind_load::{DENY_EACCES, Load, assert_never_denied, no_access},
};

pub(crate) const TESTS: &[Test] = tests![
    claims_survive_killed_agent,
    pod_changes_without_agent_are_caught_up,
    claims_survive_restart_without_server,
    binds_without_agent_are_reported_with_names,
    restart_under_load_leaves_no_gap,
    lease_without_renewal_expires,
    mode_override_works_with_and_without_agent,
    second_agent_waits_for_first,
    upgrade_reports_nothing_about_the_agents_own_port,
    upgrade_during_outage_reports_nothing,
    non_persistent_agent_leaves_nothing,
    cleanup_removes_leftovers,
    missing_bpffs_is_reported
];

/// More of everything: minutes instead of seconds.
const FULL: &str = "PORT_ENFORCER_TEST_FULL";

/// Runs a subcommand on what is kept there.
fn command(bpffs: &Bpffs, words: &[&str]) -> Output {
    let folder = bpffs.folder();
    let mut command = enforcer();
    // The list of the tests' own namespace has nothing of any agent's.
    command.args(words).arg("--bpffs").arg(folder).env("ENFORCER_STATE_DIR", "/nonexistent");
    command.output().expect("running the binary")
}

fn set_mode(bpffs: &Bpffs, words: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(bpffs, &[&["mode"], words].concat());
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8")
}

fn kept<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--bpffs", folder], more].concat()
}

fn claims_survive_killed_agent() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    let (mut rightful, mut other) = (fixture.start(&owner), fixture.start(&stranger));
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    until_bind(&mut other, 20080, denied());
    agent.kill();
    for _ in 0..100 {
        assert_eq!(other.bind(&bind(20080)), denied(), "no agent is there");
        assert_eq!(rightful.bind(&bind(20080)), 0);
    }
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    let resumed = agent.wait_for_line("it takes over", |line| line["event"] == "takeover");
    assert_eq!(resumed["pods"], 2);
    until_bind(&mut other, 20080, denied());
    assert_eq!(rightful.bind(&bind(20080)), 0);
    assert!(agent.terminate().success());
    assert_eq!(agent.wait_for_line("its end", |line| line["event"] == "stopped")["persistent"], true);
    assert_eq!(other.bind(&bind(20080)), denied(), "an orderly end is no other");
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    fixture.remove(&owner);
    until_bind(&mut other, 20080, 0);
    assert!(agent.terminate().success());
}

fn pod_changes_without_agent_are_caught_up() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let in_group = |name: &str| {
        let mut pod = Pod::new(name).ports("20081");
        pod.object["metadata"]["annotations"]["port-enforcer.io/share"] = "group".into();
        pod
    };
    let owner = Pod::new("owner").ports("20080");
    let (member, pending) = (in_group("member"), in_group("pending"));
    let ends = Pod::new("ends").ports("20082");
    for pod in [&owner, &member, &pending, &ends] {
        fixture.put(pod);
    }
    let old_container = fixture.worker(&owner);
    let (mut sharer, ending) = (fixture.worker(&member), fixture.worker(&ends));
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    until_bind(&mut sharer, 20081, 0);
    agent.kill();

    // A new pod that nobody has told of, a new container of the owner, a pod of the group that starts only now.
    let late = Pod::new("late");
    let mut stranger = fixture.worker(&late);
    drop(old_container);
    let mut container = fixture.other_container(&owner);
    let mut second = fixture.worker(&pending);
    let judge = |stranger: &mut Worker, container: &mut Worker, second: &mut Worker| {
        for port in [20080, 20081] {
            assert_eq!(stranger.bind(&bind(port)), denied(), "{port}");
        }
        assert_eq!(container.bind(&bind(20080)), 0);
        assert_eq!(second.bind(&bind(20081)), 0);
    };
    judge(&mut stranger, &mut container, &mut second);
    drop(ending);
    fixture.remove_cgroup(ends.object["metadata"]["uid"].as_str().expect("a UID"));
    fixture.remove(&ends);
    fixture.put(&late);
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    judge(&mut stranger, &mut container, &mut second);
    assert_eq!(stranger.bind(&bind(20082)), 0, "its owner ended while nobody looked");
    assert_eq!(agent.wait_for_event("bind", "default/late")["owner"], "default/owner");
}

fn claims_survive_restart_without_server() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let mut server = ApiServer::start();
    let (owner, rival, stranger) =
        (Pod::new("owner").ports("20080"), Pod::new("rival").ports("20080"), Pod::new("stranger"));
    for pod in [&owner, &rival, &stranger] {
        server.put(pod);
    }
    let mut agent = start_synced(&fixture, &server, &kept(&folder, &[]));
    let (mut rightful, mut waits, mut other) =
        (fixture.worker(&owner), fixture.worker(&rival), fixture.worker(&stranger));
    until_bind(&mut other, 20080, denied());
    agent.kill();
    server.stop();
    let mut agent = start_on_cluster(&fixture, &server, &kept(&folder, &[]));
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error");
    assert_eq!(rightful.bind(&bind(20080)), 0);
    assert_eq!((waits.bind(&bind(20080)), other.bind(&bind(20080))), (denied(), denied()));
    assert_eq!(agent.wait_for_event("bind", "default/stranger")["owner"], "default/owner", "names are known too");
    // An older rival comes: what is in force stays with whom it is.
    let older = {
        let mut pod = Pod::new("older").ports("20080");
        pod.object["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
        pod
    };
    server.put(&older);
    server.start_again();
    agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    let mut late = fixture.worker(&older);
    assert_eq!((rightful.bind(&bind(20080)), late.bind(&bind(20080))), (0, denied()));
    server.delete(&owner);
    until_bind(&mut late, 20080, 0);
}

fn binds_without_agent_are_reported_with_names() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080 20081"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    until_bind(&mut other, 20080, denied());
    agent.kill();
    for _ in 0..7 {
        assert_eq!(other.bind(&bind(20081)), denied());
    }
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    let resumed = agent.wait_for_line("it takes over", |line| line["event"] == "takeover");
    // The one before the kill may or may not have been read by the agent that was killed.
    assert!([7, 8].contains(&resumed["conflicts"].as_u64().expect("a number")), "{resumed}");
    let told = agent.wait_for_line("it is told", |line| line["event"] == "bind" && line["port"] == 20081);
    assert_eq!((&told["pod"], &told["owner"]), (&"default/stranger".into(), &"default/owner".into()));
    assert_eq!(agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp), 8, "the totals go on");
}

/// Strangers and the owner try all the time, while agents are killed, ended and replaced by ones whose programs are
/// others (with the trace in them, or not).
fn restart_under_load_leaves_no_gap() {
    let full = env::var(FULL).is_ok_and(|full| full == "1");
    let (pods, attempts, agents) = if full { (8, 10_000_000, 24) } else { (2, 40_000, 6) };
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let owner = Pod::new("owner").ports("20080");
    let rightful = fixture.start(&owner);
    let strangers: Vec<Pod> = (0..pods).map(|number| Pod::new(&format!("stranger-{number}"))).collect();
    let mut workers: Vec<_> = strangers.iter().map(|pod| fixture.start(pod)).collect();
    let mut agent = fixture.enforce(&kept(&folder, &DENY_EACCES));
    let before = workers.len() as u64;
    for worker in &mut workers {
        assert_eq!(worker.bind(&bind(20080)), no_access());
    }
    // On an address of its own, so that what the kernel itself refuses is nobody's verdict.
    let at = |address| vec![Bind::tcp(address, 20080)];
    let held = Load::storm(rightful, at("127.0.0.2"));
    let storms: Vec<Load> = workers.into_iter().map(|worker| Load::storm(worker, at("127.0.0.3"))).collect();
    let (mut swaps, mut kills) = (0, 0);
    while storms.iter().chain([&held]).map(Load::attempts).sum::<u64>() < attempts || swaps < agents {
        // Agents with the trace are killed: they may be busy with it for as long as the storm lasts.
        let level = ["debug", "trace", "info", "trace"][swaps % 4];
        if swaps % 2 == 0 {
            agent.kill();
            kills += 1;
        } else {
            assert!(agent.terminate().success());
        }
        agent = fixture.enforce(&kept(&folder, &[&DENY_EACCES[..], &["--log-level", level]].concat()));
        storms.iter().chain([&held]).for_each(Load::wait_for_progress);
        swaps += 1;
    }
    let (_, owners) = held.stop();
    let (mut denials, mut through) = (before, 0);
    for storm in storms {
        let (_, counts) = storm.stop();
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [no_access()], "nobody got through: {counts:?}");
        through += counts.get(&0).copied().unwrap_or_default();
        denials += counts.values().sum::<u64>();
    }
    assert_never_denied(&owners);
    let binds = owners.values().sum::<u64>();
    let counted = agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
    assert_eq!(counted, denials, "each was counted once");
    figures::print(&[
        ("storm.attempts", denials + binds),
        ("storm.attempts_of_strangers", denials),
        ("storm.strangers_through", through),
        ("storm.attempts_of_the_owner", binds),
        ("storm.owner_refused", owners.get(&no_access()).copied().unwrap_or_default()),
        ("storm.kills", kills),
        ("storm.orderly_ends", swaps as u64 - kills),
    ]);
}

fn lease_without_renewal_expires() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let lease = kept(&folder, &["--lease", "1s"]);
    let mut agent = fixture.enforce(&lease);
    until_bind(&mut other, 20080, denied());
    // It is renewed for as long as the agent lives.
    let lives = Instant::now();
    while lives.elapsed() < Duration::from_millis(1500) {
        assert_eq!(other.bind(&bind(20080)), denied());
    }
    agent.kill();
    until_bind(&mut other, 20080, 0);
    let mut agent = fixture.enforce(&lease);
    agent.wait_for_line("it is told", |line| {
        line["event"] == "bind" && line["reason"] == "stale" && line["verdict"] == "audit"
    });
    assert!(agent.count(VerdictKind::Audit, Reason::Stale, Protocol::Tcp) >= 1);
    assert_eq!(other.bind(&bind(20080)), denied(), "an agent is back");
    assert!(agent.terminate().success());
    let mut agent = fixture.enforce(&kept(&folder, &["--lease", "0"]));
    assert_eq!(other.bind(&bind(20080)), denied());
    agent.kill();
}

fn mode_override_works_with_and_without_agent() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    assert_eq!(json(set_mode(&bpffs, &["-o", "json"]))["mode"], Value::Null);
    assert!(set_mode(&bpffs, &["audit"]).starts_with("this node is set to audit"), "before any agent");
    let told = json(set_mode(&bpffs, &["-o", "json"]));
    assert_eq!((&told["kind"], &told["mode"]), (&"LocalMode".into(), &"audit".into()));
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    agent.wait_for_line("it is told", |line| line["event"] == "node_mode" && line["mode"] == "audit");
    assert_eq!(other.bind(&bind(20080)), 0);
    assert!(set_mode(&bpffs, &["--clear"]).starts_with("no mode is set"));
    assert_eq!(other.bind(&bind(20080)), denied(), "at once");
    agent.kill();
    assert_eq!(other.bind(&bind(20080)), denied());
    set_mode(&bpffs, &["audit"]);
    assert_eq!(other.bind(&bind(20080)), 0, "no agent is needed");
    let agent = fixture.enforce(&kept(&folder, &[]));
    assert_eq!(other.bind(&bind(20080)), 0, "and no agent forgets it");
    set_mode(&bpffs, &["--clear"]);
    drop(agent);
    let _agent = fixture.agent(&kept(&folder, &["--mode", "audit"]));
    assert_eq!(other.bind(&bind(20080)), 0);
    set_mode(&bpffs, &["enforce"]);
    assert_eq!(other.bind(&bind(20080)), denied());
    assert!(set_mode(&bpffs, &[]).starts_with("this node is set to enforce"));
}

fn second_agent_waits_for_first() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let mut first = fixture.enforce(&kept(&folder, &[]));
    let mut second = fixture.spawn_agent(&kept(&folder, &["--mode", "enforce"]));
    second.wait_for_line("it waits", |line| line["event"] == "waiting_for_lock");
    assert!(!second.drain_log().iter().any(|line| line["event"] == "ready"));
    let mut third = fixture.spawn_agent(&kept(&folder, &["--mode", "enforce"]));
    third.wait_for_line("it waits", |line| line["event"] == "waiting_for_lock");
    assert!(third.terminate().success(), "whoever waits can be ended");
    assert_eq!(other.bind(&bind(20080)), denied());
    first.kill();
    second.wait_for_line("it is its turn", |line| line["event"] == "ready");
    assert_eq!(other.bind(&bind(20080)), denied());
}

/// A rolling update of the agent's own pods, which claim the port of its metrics. The programs of the old agent judge
/// the bind of the new one, whose pod they do not know.
fn upgrade_reports_nothing_about_the_agents_own_port() {
    const LISTEN: &str = "127.0.0.1:20489";
    for mode in ["audit", "enforce"] {
        let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
        let folder = bpffs.folder().display().to_string();
        let arguments =
            fixture.arguments("json", &kept(&folder, &["--mode", mode, "--listen", LISTEN, "--handover-grace", "1h"]));
        let pod = |name: &str| Pod::new(name).of_daemon_set("port-enforcer").ports("20489/tcp");
        let (old, new) = (pod("agent-old"), pod("agent-new"));
        fixture.put(&old);
        let mut first = Agent::spawn_in(&fixture.make_container_cgroup(old.uid_text()), &arguments);
        first.wait_for_line("it is ready", |line| line["event"] == "ready");
        assert!(first.terminate().success());
        fixture.remove(&old);
        fixture.remove_cgroup(old.uid_text());

        let cgroup = fixture.make_container_cgroup(new.uid_text());
        fixture.put(&new);
        let mut second = Agent::spawn_in(&cgroup, &arguments);
        second.wait_for_line("it is ready", |line| line["event"] == "ready");
        if mode == "enforce" {
            second.wait_for_line("its own bind is denied", |line| line["event"] == "listen_unavailable");
            second.wait_for_line("its pod is known", |line| line["event"] == "listen_recovered");
        }
        let lines = second.drain_log();
        let is_own =
            |line: &&Value| ["bind", "port_shared", "claim_conflict"].iter().any(|event| line["event"] == *event);
        assert_eq!(lines.iter().find(is_own), None, "in mode {mode}");
        // Somebody else on that port is still a conflict.
        let mut stranger = fixture.start(&Pod::new("stranger"));
        let bind = Bind::tcp("127.0.0.1", 20489);
        wait_until("the stranger is reported", || {
            assert_ne!(stranger.bind(&bind), 0);
            second.drain_log().iter().any(|line| line["event"] == "bind" && line["pod"] == "default/stranger")
        });
        assert!(second.terminate().success());
    }
}

fn is_of_stranger(event: &Event) -> bool {
    let about = event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some("stranger"));
    about || event.note.as_ref().is_some_and(|note| note.contains("default/stranger"))
}

/// The same on a cluster whose server cannot be reached while the agents change, with pods of all kinds on the node.
fn upgrade_during_outage_reports_nothing() {
    const LISTEN: &str = "127.0.0.1:20489";
    for mode in ["audit", "enforce"] {
        let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
        let folder = bpffs.folder().display().to_string();
        let mut server = ApiServer::start();
        let own = |name: &str| Pod::new(name).of_daemon_set("port-enforcer").ports("20489/tcp");
        let (old, new) = (server.put(&own("agent-old")), own("agent-new"));
        let owner = server.put(&Pod::new("owner").ports("20080"));
        let holder = server.put(&Pod::new("holder"));
        // Two that share by consent, and one that is never written down.
        let sharing =
            ["shares-1", "shares-2"].map(|name| server.put(&Pod::new(name).ports("20082/udp").share_group("dns")));
        let flags = ["--mode", mode, "--listen", LISTEN, "--handover-grace", "1h", "--bpffs", &folder];
        let arguments = cluster_arguments(&fixture, &server, &flags);
        let mut first = Agent::spawn_in(&fixture.make_container_cgroup(old.uid_text()), &arguments);
        first.wait_for_line("all pods are known", |line| line["event"] == "synced");
        let shared = |port| Bind::udp("0.0.0.0", port).reusing_port().kept();
        let mut workers: Vec<Worker> =
            [&owner, &holder, &sharing[0], &sharing[1]].map(|pod| fixture.worker(pod)).into();
        for (worker, kept) in workers.iter_mut().zip([bind(20080).kept(), shared(20081), shared(20082), shared(20082)])
        {
            assert_eq!(worker.bind(&kept), 0, "in mode {mode}");
        }
        wait_until("the health is served", || TcpStream::connect(LISTEN).is_ok());
        assert!(first.terminate().success());
        fixture.remove_cgroup(old.uid_text());
        server.delete(&old);
        let new = server.put(&new);
        server.stop();

        let mut second = Agent::spawn_in(&fixture.make_container_cgroup(new.uid_text()), &arguments);
        second.wait_for_line("it is ready", |line| line["event"] == "ready");
        second.wait_for_line("the trouble is told", |line| line["event"] == "api_error");
        for (worker, again) in workers.iter_mut().zip([20090, 20091, 20092, 20093]) {
            assert_eq!(worker.bind(&bind(again)), 0, "in mode {mode}");
        }
        server.start_again();
        second.wait_for_line("all pods are known", |line| line["event"] == "synced");
        wait_until("the health is served", || TcpStream::connect(LISTEN).is_ok());
        // What there was to say of the outage is said before this.
        let mut stranger = fixture.worker(&server.put(&Pod::new("stranger")));
        wait_until("the stranger is reported", || {
            stranger.bind(&bind(20080));
            server.events().iter().any(is_of_stranger)
        });
        let others: Vec<Event> = server.events().into_iter().filter(|event| !is_of_stranger(event)).collect();
        assert!(others.is_empty(), "in mode {mode}: {others:#?}");
        assert!(second.terminate().success());
    }
}

fn non_persistent_agent_leaves_nothing() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let mut agent = fixture.enforce(&kept(&folder, &[]));
    until_bind(&mut other, 20080, denied());
    agent.kill();
    let mut agent = fixture.enforce(&kept(&folder, &["--persist", "false"]));
    assert_eq!(other.bind(&bind(20080)), denied());
    assert!(agent.terminate().success());
    until_bind(&mut other, 20080, 0);
    assert_eq!(bpffs.list(), [""; 0]);
}

fn cleanup_removes_leftovers() {
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    fixture.put(&owner);
    let mut other = fixture.start(&stranger);
    let mut agent: Agent = fixture.enforce(&kept(&folder, &[]));
    until_bind(&mut other, 20080, denied());
    let refused = command(&bpffs, &["cleanup"]);
    assert_eq!(refused.status.code(), Some(4), "an agent is there");
    assert_eq!(other.bind(&bind(20080)), denied());
    agent.kill();
    let Output { stdout, .. } = command(&bpffs, &["cleanup"]);
    let said = String::from_utf8(stdout).expect("UTF-8");
    assert!(said.contains("nothing of them judges binds any more"), "{said}");
    wait_until("nothing is left", || other.bind(&bind(20080)) == 0);
    assert_eq!(bpffs.list(), [""; 0]);
}

fn missing_bpffs_is_reported() {
    let fixture = AgentFixture::new();
    let mut agent = fixture.enforce(&["--bpffs", "/nonexistent"]);
    let said = agent.wait_for_line("it is said", |line| line["event"] == "persistence_unavailable");
    assert!(said["message"].as_str().expect("words").contains("mount -t bpf"), "{said}");
    let output = enforcer().args(["mode", "audit", "--bpffs", "/nonexistent"]).output().expect("running the binary");
    assert_eq!(output.status.code(), Some(4));
}
