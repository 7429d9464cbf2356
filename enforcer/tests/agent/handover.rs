//! The ports of a Deployment's pod wait for its successor.

use std::time::{Duration, Instant};

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    pods::Pod,
    tests,
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![other_pod_waits_for_end_of_grace_period, successor_of_workload_binds_at_once];

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
    assert_eq!((&held["verdict"], &held["owner"]), (&"deny".into(), &"default/web-1".into()));
    assert_eq!(old.bind(&bind(20080)), denied());
}

fn successor_of_workload_binds_at_once() {
    let fixture = AgentFixture::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    fixture.put(&owner);
    let mut squatter = fixture.start(&Pod::new("squatter").ports("20080"));
    let mut successor = fixture.start(&Pod::new("web-2").of_deployment("web").ports("20080"));
    let mut agent = fixture.enforce(&["--handover-grace", "1h"]);
    assert_eq!(successor.bind(&bind(20080)), denied());
    fixture.remove(&owner);
    agent.wait_for_event("claim_granted", "default/web-2");
    until_bind(&mut successor, 20080, 0);
    assert_eq!(squatter.bind(&bind(20080)), denied());
}
