//! `Address already in use` comes with the holder's name: whoever holds the port, and whether or not anybody claims it.

use std::{net::TcpListener, thread::sleep, time::Duration};

use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::AgentFixture,
    pods::Pod,
    tests,
    worker::{Answer, Bind, Kind, Order, Worker, take},
};

use crate::{
    Test,
    status::{json, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![
    in_use_event_names_the_holder,
    in_use_event_names_host_daemon,
    host_daemon_is_named_by_its_unit,
    failing_bind_is_a_conflict_until_it_succeeds,
    in_use_event_names_first_binder,
    in_use_event_names_older_pod_of_workload,
    own_or_successful_bind_makes_no_event,
    sharing_with_earlier_socket_is_reported_at_once,
    later_sharing_is_reported
];

const PORT: u16 = 20080;

fn wait_for_held_event(agent: &mut Agent, pod: &str) -> Value {
    agent.wait_for_line(&format!("{pod} is told who holds the port"), |line| {
        line["event"] == "bind" && line["reason"] == "held" && line["pod"] == pod
    })
}

fn in_use_event_names_the_holder() {
    for mode in ["audit", "enforce"] {
        let fixture = AgentFixture::new();
        let (one, other) = (Pod::new("one"), Pod::new("other"));
        let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
        let mut agent = fixture.agent(&["--mode", mode]);
        for bind in [
            Bind::tcp("0.0.0.0", PORT),
            Bind { kind: Kind::Mptcp, ..Bind::tcp("127.0.0.1", PORT + 1) },
            Bind::udp("::", PORT),
        ] {
            let port = bind.port;
            assert_eq!(first.bind(&bind.clone().kept()), 0);
            let wanted = Bind { address: "127.0.0.1".parse().expect("an address"), v6: false, ..bind };
            assert_eq!(second.bind(&wanted), libc::EADDRINUSE, "the kernel refuses it");
            let told = wait_for_held_event(&mut agent, "default/other");
            assert_eq!((&told["verdict"], &told["holder"]), (&"allow".into(), &"default/one".into()), "{told}");
            let message = told["message"].as_str().expect("a sentence");
            assert!(message.starts_with(&format!("bind 127.0.0.1:{port}/")), "{message}");
            assert!(message.contains(" fails on node-1: held by default/one (container server, command "), "{message}");
            first.close();
        }
    }
}

fn in_use_event_names_host_daemon() {
    let fixture = AgentFixture::new();
    let pod = Pod::new("pod");
    let mut worker = fixture.start(&pod);
    let _before = TcpListener::bind(("0.0.0.0", PORT)).expect("a free port");
    let mut agent = fixture.agent(&[]);
    assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    let told = wait_for_held_event(&mut agent, "default/pod");
    assert_eq!(told["holder"], "a host process", "{told}");
    // One that came after the agent is known from the next look at the sockets on.
    let _after = TcpListener::bind(("0.0.0.0", PORT + 1)).expect("a free port");
    wait_until("the daemon is named", || {
        assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", PORT + 1)), libc::EADDRINUSE);
        sleep(Duration::from_millis(100));
        agent.drain_log().iter().any(|line| line["reason"] == "held" && line["port"] == PORT + 1)
    });
}

fn conflicts(fixture: &AgentFixture) -> Vec<Value> {
    json(fixture, &["status"])["conflicts"].as_array().expect("a list").clone()
}

fn host_daemon_is_named_by_its_unit() {
    let fixture = AgentFixture::new();
    let mut worker = fixture.start(&Pod::new("pod"));
    let mut daemon = Worker::start(&fixture.make_host_cgroup("system.slice/edge-proxy.service/main"));
    assert_eq!(daemon.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    let socket = socket(&fixture);
    let mut agent = fixture.agent(&served(&socket, &[]));
    assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    let told = wait_for_held_event(&mut agent, "default/pod");
    assert_eq!(told["holder"], "the host's edge-proxy.service", "{told}");
    let message = told["message"].as_str().expect("a sentence");
    let pid = daemon.pid();
    assert!(message.contains("held by the host's edge-proxy.service (command agent-"), "{message}");
    assert!(message.ends_with(&format!(", pid {pid})")), "{message}");

    let status = json(&fixture, &["status"]);
    let holders = status["holders"].as_array().expect("a list");
    let holder = holders.iter().find(|holder| holder["port"] == PORT).expect("it is held");
    assert_eq!((&holder["who"]["kind"], &holder["who"]["unit"]), (&"host".into(), &"edge-proxy.service".into()));
    assert_eq!(holder["pid"], pid, "{holder}");
}

/// A pod in `CrashLoopBackOff` because another one holds its port.
fn failing_bind_is_a_conflict_until_it_succeeds() {
    let fixture = AgentFixture::new();
    let (mut first, mut second) = (fixture.start(&Pod::new("one")), fixture.start(&Pod::new("other")));
    let socket = socket(&fixture);
    let _agent = fixture.agent(&served(&socket, &[]));
    assert_eq!(first.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    assert_eq!(conflicts(&fixture), [Value::Null; 0]);
    for _ in 0..3 {
        assert_eq!(second.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    }
    wait_until("the third attempt is counted", || conflicts(&fixture).iter().any(|conflict| conflict["count"] == 3));
    let all = conflicts(&fixture);
    let [conflict] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(conflict["kind"], "inUse");
    assert_eq!((&conflict["who"]["name"], &conflict["other"]["name"]), (&"other".into(), &"one".into()), "{conflict}");
    assert!(conflict["first"].as_str() <= conflict["last"].as_str(), "{conflict}");
    first.close();
    assert_eq!(second.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    wait_until("the conflict is over", || conflicts(&fixture).is_empty());
}

fn in_use_event_names_first_binder() {
    let fixture = AgentFixture::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
    let mut agent = fixture.enforce(&[]);
    let bind = Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", PORT) };
    assert_eq!(first.bind(&bind.clone().kept()), 0);
    assert_eq!(second.bind(&bind), libc::EADDRINUSE, "adopt is the default");
    let told = wait_for_held_event(&mut agent, "default/other");
    assert_eq!((&told["verdict"], &told["holder"]), (&"deny".into(), &"default/one".into()), "{told}");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains(" denied on node-1: held by default/one (container server, command "), "{message}");
    drop(first);
    assert_eq!(second.bind(&bind), 0);
}

fn in_use_event_names_older_pod_of_workload() {
    let fixture = AgentFixture::new();
    let (old, new) = (Pod::new("web-1").of_deployment("web"), Pod::new("web-2").of_deployment("web"));
    let (mut first, mut second) = (fixture.start(&old), fixture.start(&new));
    let mut agent = fixture.agent(&[]);
    assert_eq!(first.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    assert_eq!(second.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    let told = wait_for_held_event(&mut agent, "default/web-2");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains("held by default/web-1, an older pod of the same workload"), "{message}");
}

fn own_or_successful_bind_makes_no_event() {
    let fixture = AgentFixture::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
    let mut container = fixture.other_container(&one);
    let mut agent = fixture.enforce(&[]);
    assert_eq!(first.bind(&Bind::tcp("127.0.0.1", PORT).kept()), 0);
    assert_eq!(second.bind(&Bind::tcp("127.0.0.2", PORT)), 0, "another address");
    assert_eq!(container.bind(&Bind::tcp("127.0.0.1", PORT)), libc::EADDRINUSE, "its own, which is no conflict");
    first.close();
    assert_eq!(second.bind(&Bind::tcp("127.0.0.1", PORT)), 0, "nobody's any more");
    sleep(Duration::from_millis(300));
    let told = agent.drain_log();
    assert!(told.iter().all(|line| line["event"] != "bind"), "{told:?}");
}

fn sharing_with_earlier_socket_is_reported_at_once() {
    let fixture = AgentFixture::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
    let bind = Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", PORT) };
    assert_eq!(first.bind(&bind.clone().kept()), 0);
    let mut agent = fixture.enforce(&[]);
    assert_eq!(second.bind(&bind), 0, "it owns nothing, as it was there before");
    assert_eq!(second.bind(&bind.kept()), 0);
    let told = agent.wait_for_line("it is told", |line| line["event"] == "port_shared");
    assert_eq!(told["port"], PORT, "{told}");
    assert!(agent.drain_log().iter().all(|line| line["event"] != "bind"), "and nobody is said to have failed");
}

/// A socket that could not share its port when it was bound, and says later that it will: nothing that the programs see.
fn later_sharing_is_reported() {
    let fixture = AgentFixture::new();
    let (sly, victim) = (Pod::new("sly"), Pod::new("victim"));
    let (mut first, mut second) = (fixture.start(&sly), fixture.start(&victim));
    let mut agent = fixture.enforce(&[]);
    for bind in [Bind::tcp("0.0.0.0", PORT), Bind::udp("0.0.0.0", PORT + 1)] {
        let Answer::Opened(descriptor) = first.order(&Order::Open(bind.clone())) else { panic!("a socket") };
        let given = Order::BindGiven { pid: first.pid(), descriptor, bind: bind.clone() };
        assert!(matches!(first.order(&given), Answer::Bound { errno: 0, .. }));
        let socket = take(first.pid(), descriptor).expect("the worker's socket");
        rustix::net::sockopt::set_socket_reuseport(&socket, true).expect("an option");
        let sharing = Bind { reuse_port: true, ..bind }.kept();
        assert_eq!(second.bind(&sharing), 0, "both have it");
        let told =
            agent.wait_for_line("both are told", |line| line["event"] == "port_shared" && line["port"] == sharing.port);
        let names = [&told["holder"], &told["other"]];
        assert!(names.contains(&&"default/sly".into()) && names.contains(&&"default/victim".into()), "{told}");
    }
}
