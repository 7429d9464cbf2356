//! The ports of a Deployment's pod wait for its successor.

use std::time::{Duration, Instant};

use enforcer_testing::{
    agent::until,
    agent_fixture::{Pod, Stage, bind, denied, until_bind},
};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_squatter_waits_until_the_grace_is_over", a_squatter_waits_until_the_grace_is_over),
    ("the_successor_is_served_at_once", the_successor_is_served_at_once),
];

fn a_squatter_waits_until_the_grace_is_over() {
    const GRACE: Duration = Duration::from_secs(2);
    let stage = Stage::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    let mut old = stage.start(&owner);
    let mut squatter = stage.start(&Pod::new("squatter").ports("20080"));
    let mut agent = stage.enforce(&["--handover-grace", "2s"]);
    agent.event("claim_conflict", "default/squatter");
    assert_eq!(old.bind(&bind(20080).kept()), 0);
    assert_eq!(squatter.bind(&bind(20080)), denied());
    assert_eq!(agent.event("bind", "default/squatter")["owner"], "default/web-1");

    old.close();
    let removed = Instant::now();
    stage.remove(&owner);
    let mut attempts = 0;
    until("the squatter is served", || {
        attempts += 1;
        squatter.bind(&bind(20080)) == 0
    });
    assert!(removed.elapsed() >= GRACE, "served after {:?}, and {attempts} attempts", removed.elapsed());
    assert!(attempts > 1);
    let told = agent.event("claim_granted", "default/squatter");
    assert_eq!(told["message"], "claim of default/squatter on 20080/tcp is now in force on node-1");
    let held = agent.rest().into_iter().find(|line| line["event"] == "bind").expect("the wait was told");
    assert_eq!((&held["verdict"], &held["owner"]), (&"deny".into(), &"default/web-1".into()));
    assert_eq!(old.bind(&bind(20080)), denied());
}

fn the_successor_is_served_at_once() {
    let stage = Stage::new();
    let owner = Pod::new("web-1").of_deployment("web").ports("20080");
    stage.put(&owner);
    let mut squatter = stage.start(&Pod::new("squatter").ports("20080"));
    let mut successor = stage.start(&Pod::new("web-2").of_deployment("web").ports("20080"));
    let mut agent = stage.enforce(&["--handover-grace", "1h"]);
    assert_eq!(successor.bind(&bind(20080)), denied());
    stage.remove(&owner);
    agent.event("claim_granted", "default/web-2");
    until_bind(&mut successor, 20080, 0);
    assert_eq!(squatter.bind(&bind(20080)), denied());
}
