//! The ports of a Deployment's pod wait for its successor.

use std::time::{Duration, Instant};

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    pods::Pod,
    tests,
};

use crate::{
    Test,
    status::{json, run, served, socket},
};

pub(crate) const TESTS: &[Test] = tests![
    other_pod_waits_for_end_of_grace_period,
    successor_of_workload_binds_at_once,
    port_that_was_never_bound_goes_to_the_next_at_once,
    operator_ends_the_grace
];

fn other_pod_waits_for_end_of_grace_period() {
    const GRACE: Duration = Duration::from_secs(2);
    let fixture = AgentFixture::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    let mut old = fixture.start(&owner);
    let mut squatter = fixture.start(&Pod::new("squatter").ports("20080"));
    let mut agent = fixture.enforce(&["--handover-grace", "2s"]);
    agent.wait_for_event("claim_conflict", "default/squatter");
    assert_eq!(old.bind(&bind(20080).kept()), 0);
    assert_eq!(squatter.bind(&bind(20080)), denied());
    assert_eq!(agent.wait_for_event("bind", "default/squatter")["owner"], "default/web-1");

    old.close();
    let removed = Instant::now();
    fixture.remove(&owner);
    let mut attempts = 0;
    wait_until("the squatter is served", || {
        attempts += 1;
        squatter.bind(&bind(20080)) == 0
    });
    assert!(removed.elapsed() >= GRACE, "served after {:?}, and {attempts} attempts", removed.elapsed());
    assert!(attempts > 1);
    let told = agent.wait_for_event("claim_granted", "default/squatter");
    assert_eq!(told["message"], "claim of default/squatter on 20080/tcp is now in force on node-1");
    let held = agent.drain_log().into_iter().find(|line| line["event"] == "bind").expect("the wait was told");
    assert_eq!((&held["verdict"], &held["owner"]), (&"deny".into(), &"Deployment default/web".into()), "{held}");
    let message = held["message"].as_str().expect("a sentence");
    assert!(message.contains(": kept for Deployment default/web until ") && message.ends_with(" (handover grace)"));
    assert_eq!(old.bind(&bind(20080)), denied());
}

fn successor_of_workload_binds_at_once() {
    let fixture = AgentFixture::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    let mut old = fixture.start(&owner);
    let mut squatter = fixture.start(&Pod::new("squatter").ports("20080"));
    let _agent = fixture.enforce(&["--handover-grace", "1h"]);
    assert_eq!(old.bind(&bind(20080).kept()), 0);
    let successor = Pod::new("web-2").of_deployment("web").ports("20080");
    let mut successors = fixture.start(&successor);
    old.close();
    fixture.remove(&owner);
    until_bind(&mut successors, 20080, 0);
    assert_eq!(squatter.bind(&bind(20080)), denied());
}

/// The owner was never started, as with an image that cannot be pulled.
fn port_that_was_never_bound_goes_to_the_next_at_once() {
    let fixture = AgentFixture::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    fixture.put(&owner);
    let mut next = fixture.start(&Pod::new("next").ports("20080"));
    let mut agent = fixture.enforce(&["--handover-grace", "1h"]);
    assert_eq!(next.bind(&bind(20080)), denied());
    fixture.remove(&owner);
    agent.wait_for_event("claim_granted", "default/next");
    assert_eq!(next.bind(&bind(20080)), 0);
}

fn operator_ends_the_grace() {
    let fixture = AgentFixture::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080, 20081");
    let mut old = fixture.start(&owner);
    let mut next = fixture.start(&Pod::new("next").ports("20080, 20081"));
    let socket = socket(&fixture);
    let mut agent = fixture.enforce(&served(&socket, &["--handover-grace", "1h"]));
    for port in [20080, 20081] {
        assert_eq!(old.bind(&bind(port).kept()), 0);
    }
    old.close();
    fixture.remove(&owner);
    wait_until("the ports are kept", || {
        let status = json(&fixture, &["status"]);
        status["claims"].as_array().expect("a list").iter().any(|claim| claim["owner"]["kind"] == "remnant")
    });
    let explanation = json(&fixture, &["explain", "20080", "--pod", "default/next"]);
    let remedy = explanation["remedy"].as_str().expect("a remedy");
    assert!(remedy.starts_with("wait for the end of the handover grace"), "{remedy}");

    let nothing = run(&fixture, &["release", "20082/tcp"]);
    assert_eq!(nothing, (0, "20082/tcp is kept for nobody: nothing to release\n".to_owned(), String::new()));
    let released = json(&fixture, &["release", "20080/tcp"]);
    assert_eq!(released["workloads"], serde_json::json!(["Deployment default/web"]), "{released}");
    agent.wait_for_line("it is logged", |line| line["event"] == "handover_released" && line["port"] == 20080);
    assert_eq!(next.bind(&bind(20080)), 0);
    assert_eq!(next.bind(&bind(20081)), denied(), "the other port is still kept");
    let (code, _, stderr) = run(&fixture, &["release", "0"]);
    assert!(code == 2 && stderr.contains("write a port from 1 to 65535"), "{stderr}");
}
