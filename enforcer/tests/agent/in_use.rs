//! `Address already in use` comes with the holder's name: whoever holds the port, and whether or not anybody claims it.

use std::{net::TcpListener, thread::sleep, time::Duration};

use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, until},
    agent_fixture::{Pod, Stage},
    worker::{Answer, Bind, Kind, Order, take},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("the_kernels_refusal_comes_with_the_holders_name", the_kernels_refusal_comes_with_the_holders_name),
    ("a_daemon_of_the_host_is_named", a_daemon_of_the_host_is_named),
    ("who_was_first_to_bind_owns_the_port_and_is_named", who_was_first_to_bind_owns_the_port_and_is_named),
    ("an_older_pod_of_the_workload_is_told_as_that", an_older_pod_of_the_workload_is_told_as_that),
    ("what_succeeds_or_is_the_pods_own_is_not_told", what_succeeds_or_is_the_pods_own_is_not_told),
    (
        "who_shares_with_one_from_before_the_agent_is_told_at_once",
        who_shares_with_one_from_before_the_agent_is_told_at_once,
    ),
    ("who_shares_later_is_told", who_shares_later_is_told),
];

const PORT: u16 = 20080;

fn told_held(agent: &mut Agent, pod: &str) -> Value {
    agent.wait(&format!("{pod} is told who holds the port"), |line| {
        line["event"] == "bind" && line["reason"] == "held" && line["pod"] == pod
    })
}

fn the_kernels_refusal_comes_with_the_holders_name() {
    for mode in ["audit", "enforce"] {
        let stage = Stage::new();
        let (one, other) = (Pod::new("one"), Pod::new("other"));
        let (mut first, mut second) = (stage.start(&one), stage.start(&other));
        let mut agent = stage.agent(&["--mode", mode]);
        for bind in [
            Bind::tcp("0.0.0.0", PORT),
            Bind { kind: Kind::Mptcp, ..Bind::tcp("127.0.0.1", PORT + 1) },
            Bind::udp("::", PORT),
        ] {
            let port = bind.port;
            assert_eq!(first.bind(&bind.clone().kept()), 0);
            let wanted = Bind { address: "127.0.0.1".parse().expect("an address"), v6: false, ..bind };
            assert_eq!(second.bind(&wanted), libc::EADDRINUSE, "the kernel refuses it");
            let told = told_held(&mut agent, "default/other");
            assert_eq!((&told["verdict"], &told["holder"]), (&"allow".into(), &"default/one".into()), "{told}");
            let message = told["message"].as_str().expect("a sentence");
            assert!(message.starts_with(&format!("bind 127.0.0.1:{port}/")), "{message}");
            assert!(message.contains(" fails on node-1: held by default/one (container server, command "), "{message}");
            first.close();
        }
    }
}

fn a_daemon_of_the_host_is_named() {
    let stage = Stage::new();
    let pod = Pod::new("pod");
    let mut worker = stage.start(&pod);
    let _before = TcpListener::bind(("0.0.0.0", PORT)).expect("a free port");
    let mut agent = stage.agent(&[]);
    assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    let told = told_held(&mut agent, "default/pod");
    assert_eq!(told["holder"], "a host process", "{told}");
    // One that came after the agent is known from the next look at the sockets on.
    let _after = TcpListener::bind(("0.0.0.0", PORT + 1)).expect("a free port");
    until("the daemon is named", || {
        assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", PORT + 1)), libc::EADDRINUSE);
        sleep(Duration::from_millis(100));
        agent.rest().iter().any(|line| line["reason"] == "held" && line["port"] == PORT + 1)
    });
}

fn who_was_first_to_bind_owns_the_port_and_is_named() {
    let stage = Stage::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (stage.start(&one), stage.start(&other));
    let mut agent = stage.enforce(&[]);
    let bind = Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", PORT) };
    assert_eq!(first.bind(&bind.clone().kept()), 0);
    assert_eq!(second.bind(&bind), libc::EADDRINUSE, "adopt is the default");
    let told = told_held(&mut agent, "default/other");
    assert_eq!((&told["verdict"], &told["holder"]), (&"deny".into(), &"default/one".into()), "{told}");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains(" denied on node-1: held by default/one (container server, command "), "{message}");
    drop(first);
    assert_eq!(second.bind(&bind), 0);
}

fn an_older_pod_of_the_workload_is_told_as_that() {
    let stage = Stage::new();
    let (old, new) = (Pod::new("web-1").of_deployment("web"), Pod::new("web-2").of_deployment("web"));
    let (mut first, mut second) = (stage.start(&old), stage.start(&new));
    let mut agent = stage.agent(&[]);
    assert_eq!(first.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    assert_eq!(second.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE);
    let told = told_held(&mut agent, "default/web-2");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains("held by default/web-1, an older pod of the same workload"), "{message}");
}

fn what_succeeds_or_is_the_pods_own_is_not_told() {
    let stage = Stage::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (stage.start(&one), stage.start(&other));
    let mut container = stage.other_container(&one);
    let mut agent = stage.enforce(&[]);
    assert_eq!(first.bind(&Bind::tcp("127.0.0.1", PORT).kept()), 0);
    assert_eq!(second.bind(&Bind::tcp("127.0.0.2", PORT)), 0, "another address");
    assert_eq!(container.bind(&Bind::tcp("127.0.0.1", PORT)), libc::EADDRINUSE, "its own, which is no conflict");
    first.close();
    assert_eq!(second.bind(&Bind::tcp("127.0.0.1", PORT)), 0, "nobody's any more");
    sleep(Duration::from_millis(300));
    let told = agent.rest();
    assert!(told.iter().all(|line| line["event"] != "bind"), "{told:?}");
}

fn who_shares_with_one_from_before_the_agent_is_told_at_once() {
    let stage = Stage::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (stage.start(&one), stage.start(&other));
    let bind = Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", PORT) };
    assert_eq!(first.bind(&bind.clone().kept()), 0);
    let mut agent = stage.enforce(&[]);
    assert_eq!(second.bind(&bind), 0, "it owns nothing, as it was there before");
    assert_eq!(second.bind(&bind.kept()), 0);
    let told = agent.wait("it is told", |line| line["event"] == "port_shared");
    assert_eq!(told["port"], PORT, "{told}");
    assert!(agent.rest().iter().all(|line| line["event"] != "bind"), "and nobody is said to have failed");
}

/// A socket that could not share its port when it was bound, and says later that it will: nothing that the programs see.
fn who_shares_later_is_told() {
    let stage = Stage::new();
    let (sly, victim) = (Pod::new("sly"), Pod::new("victim"));
    let (mut first, mut second) = (stage.start(&sly), stage.start(&victim));
    let mut agent = stage.enforce(&[]);
    for bind in [Bind::tcp("0.0.0.0", PORT), Bind::udp("0.0.0.0", PORT + 1)] {
        let Answer::Opened(descriptor) = first.order(&Order::Open(bind.clone())) else { panic!("a socket") };
        let given = Order::BindGiven { pid: first.pid(), descriptor, bind: bind.clone() };
        assert!(matches!(first.order(&given), Answer::Bound { errno: 0, .. }));
        let socket = take(first.pid(), descriptor).expect("the worker's socket");
        rustix::net::sockopt::set_socket_reuseport(&socket, true).expect("an option");
        let sharing = Bind { reuse_port: true, ..bind }.kept();
        assert_eq!(second.bind(&sharing), 0, "both have it");
        let told = agent.wait("both are told", |line| line["event"] == "port_shared" && line["port"] == sharing.port);
        let names = [&told["holder"], &told["other"]];
        assert!(names.contains(&&"default/sly".into()) && names.contains(&&"default/victim".into()), "{told}");
    }
}
