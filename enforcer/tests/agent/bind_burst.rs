//! A burst of binds that fills the ring of bound and released sockets does not stop it.

use std::{thread::sleep, time::Duration};

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::AgentFixture,
    pods::Pod,
    tests,
    worker::{Bind, run_on},
};
use serde_json::Value;

use crate::{
    Test,
    status::{json, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![holders_are_known_after_a_burst];

const PORT: u16 = 20080;
/// First port of the burst, and number of ports.
const BURST: (u16, u16) = (21_000, 1_000);

fn holder(fixture: &AgentFixture, port: u16) -> Option<Value> {
    let status = json(fixture, &["status"]);
    status["holders"].as_array().expect("a list").iter().find(|holder| holder["port"] == port).cloned()
}

/// The agent and the pod run on different processors, so that the records come faster than they are read.
fn holders_are_known_after_a_burst() {
    let fixture = AgentFixture::new();
    let pods = ["busy", "quiet", "late"].map(Pod::new);
    let [mut busy, mut quiet, mut late] = pods.each_ref().map(|pod| fixture.start(pod));
    let socket = socket(&fixture);
    let mut agent = fixture.agent(&served(&socket, &[]));
    run_on(agent.pid(), 0);
    for worker in [&busy, &quiet, &late] {
        worker.run_on(1);
    }
    for round in 0..3 {
        let counts = busy.burst(&Bind::tcp("0.0.0.0", BURST.0), BURST.1, 20_000);
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&0], "{counts:?}");

        // What comes while the ring is full is lost; this is for what comes after.
        sleep(Duration::from_secs(1));
        let port = PORT + round;
        assert_eq!(quiet.bind(&Bind::tcp("0.0.0.0", port).kept()), 0);
        // A scan finds the socket too, but neither its process nor the moment of its bind.
        wait_until("the record of the holder is read", || {
            holder(&fixture, port).is_some_and(|holder| holder["pid"].is_number())
        });
        let holder = holder(&fixture, port).expect("it holds the port");
        assert_eq!((&holder["who"]["name"], &holder["sinceIsExact"]), (&"quiet".into(), &true.into()), "{holder}");
        assert!(holder["command"].is_string(), "{holder}");

        assert_eq!(late.bind(&Bind::tcp("0.0.0.0", port)), libc::EADDRINUSE);
        let told = agent.wait_for_line("the holder is named", |line| line["event"] == "bind" && line["port"] == port);
        assert_eq!((&told["pod"], &told["holder"]), (&"default/late".into(), &"default/quiet".into()), "{told}");
    }
    // The marks of the burst's ports are gone: nobody is said to hold them.
    for port in BURST.0..BURST.0 + BURST.1 {
        assert_eq!(late.bind(&Bind::tcp("0.0.0.0", port)), 0);
    }
    wait_until("nobody holds a port of the burst", || {
        let status = json(&fixture, &["status"]);
        let mut holders = status["holders"].as_array().expect("a list").iter();
        let burst = u64::from(BURST.0)..u64::from(BURST.0 + BURST.1);
        !holders.any(|holder| holder["port"].as_u64().is_some_and(|port| burst.contains(&port)))
    });
    assert!(agent.drain_log().iter().all(|line| line["event"] != "bind"), "nobody failed");
}
