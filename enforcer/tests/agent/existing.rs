//! Conflicts that were there before the agent: told once each, and nothing is taken away.

use std::net::TcpListener;

use enforcer_testing::{agent_fixture::AgentFixture, pods::Pod, tests, worker::Bind};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    existing_shared_port_is_reported_once,
    existing_holder_of_claimed_port_is_reported_once,
    intended_sharing_is_no_conflict
];

/// A bind that shares its port with others that do.
fn sharing(port: u16) -> Bind {
    Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", port).kept() }
}

fn existing_shared_port_is_reported_once() {
    let fixture = AgentFixture::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
    assert_eq!((first.bind(&sharing(20080)), second.bind(&sharing(20080))), (0, 0), "nobody judges yet");
    let mut agent = fixture.enforce(&[]);
    let told = agent.wait_for_line("the conflict is told", |line| line["event"] == "port_shared");
    assert_eq!((&told["port"], &told["protocol"], &told["address"]), (&20080.into(), &"tcp".into(), &"0.0.0.0".into()));
    let names = [told["holder"].as_str().expect("a name"), told["other"].as_str().expect("a name")];
    assert!(names.contains(&"default/one") && names.contains(&"default/other"), "{told}");
    let message = told["message"].as_str().expect("a sentence");
    assert!(message.contains("0.0.0.0:20080/tcp on node-1 is held by default/o"), "{message}");

    // The sockets are there as before, and nothing is told again: not at the next looks either.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert!(agent.drain_log().iter().all(|line| line["event"] != "port_shared"), "told once");
    let refused = second.bind(&Bind::tcp("0.0.0.0", 20080));
    assert_eq!(refused, libc::EADDRINUSE, "the sockets were left alone");
}

fn existing_holder_of_claimed_port_is_reported_once() {
    let fixture = AgentFixture::new();
    let (owner, squatter) = (Pod::new("owner").ports("20080, 20081"), Pod::new("squatter"));
    let mut worker = fixture.start(&squatter);
    assert_eq!(worker.bind(&Bind::tcp("127.0.0.1", 20080).kept()), 0, "nobody judges yet");
    // A daemon of the host has the other port.
    let _daemon = TcpListener::bind("127.0.0.1:20081").expect("a free port");
    fixture.put(&owner);
    let mut agent = fixture.enforce(&[]);
    for (port, holder) in [(20080, "default/squatter"), (20081, "a host process")] {
        let told =
            agent.wait_for_line("the conflict is told", |line| line["event"] == "port_shared" && line["port"] == port);
        assert_eq!((&told["holder"], &told["other"]), (&holder.into(), &"default/owner".into()), "{told}");
        let message = told["message"].as_str().expect("a sentence");
        assert!(message.contains("but claimed by default/owner (annotation)"), "{message}");
    }
}

fn intended_sharing_is_no_conflict() {
    let fixture = AgentFixture::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let (mut first, mut second) = (fixture.start(&one), fixture.start(&other));
    for port in [5353, 20053] {
        let bind = Bind { reuse_addr: true, ..Bind::udp("0.0.0.0", port).kept() };
        assert_eq!((first.bind(&bind), second.bind(&bind)), (0, 0), "nobody judges yet");
    }
    let mut agent = fixture.enforce(&[]);
    let told = agent.wait_for_line("a conflict is told", |line| line["event"] == "port_shared");
    assert_eq!(told["port"], 20053, "5353/udp is one of the default --shared-ports");
    assert!(agent.drain_log().iter().all(|line| line["event"] != "port_shared"), "and the only one");
}
