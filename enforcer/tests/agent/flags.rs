//! Flags of `enforcer run` that change verdicts.

use enforcer::kernel::probe;

use enforcer_testing::agent_fixture::{Pod, Stage, bind, denied};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("undeclared_ports_are_denied", undeclared_ports_are_denied),
    ("the_node_keeps_its_ports", the_node_keeps_its_ports),
    ("system_namespaces_are_never_denied", system_namespaces_are_never_denied),
    ("the_error_number_is_chosen", the_error_number_is_chosen),
    ("the_quota_is_chosen", the_quota_is_chosen),
];

fn undeclared_ports_are_denied() {
    let stage = Stage::new();
    let mut tenant = stage.start(&Pod::new("tenant").ports("20080"));
    let mut agent = stage.enforce(&["--undeclared", "deny"]);
    assert_eq!(tenant.bind(&bind(20080)), 0);
    assert_eq!(tenant.bind(&bind(0)), 0);
    assert_eq!(tenant.bind(&bind(20081)), denied());
    let told = agent.event("bind", "default/tenant");
    assert_eq!((&told["reason"], &told["port"]), (&"undeclared".into(), &20081.into()));
    let message = told["message"].as_str().expect("a message");
    assert!(
        message.ends_with(" denied on node-1: no claim of the pod in force covers it, and undeclared ports are denied"),
        "{message}"
    );
}

fn the_node_keeps_its_ports() {
    let stage = Stage::new();
    let mut tenant = stage.start(&Pod::new("tenant").ports("20022"));
    let mut system = stage.start(&Pod::new("system").namespace("kube-system"));
    let mut agent = stage.enforce(&["--node-reserved", "20022/tcp,21000-21010"]);
    let lost = agent.event("claim_conflict", "default/tenant");
    assert_eq!((&lost["owner"], &lost["source"]), (&"the node".into(), &"node-reserved".into()));
    for port in [20022, 21000, 21010] {
        assert_eq!(tenant.bind(&bind(port)), denied());
        let told = agent.event("bind", "default/tenant");
        assert_eq!((&told["reason"], &told["port"]), (&"reserved".into(), &port.into()));
        let message = told["message"].as_str().expect("a message");
        assert!(message.ends_with(" denied on node-1: reserved for the node (node-reserved)"), "{message}");
        assert_eq!(system.bind(&bind(port)), 0, "it belongs to node software too");
    }
}

fn system_namespaces_are_never_denied() {
    let stage = Stage::new();
    stage.put(&Pod::new("owner").ports("20080"));
    let mut system = stage.start(&Pod::new("system").namespace("infra"));
    let mut tenant = stage.start(&Pod::new("tenant").namespace("kube-system"));
    let mut agent = stage.enforce(&["--system-namespaces", "monitoring,infra"]);
    assert_eq!(system.bind(&bind(20080)), 0);
    assert_eq!(agent.event("bind", "infra/system")["verdict"], "audit");
    assert_eq!(tenant.bind(&bind(20080)), denied(), "the list replaces the default");
    assert_eq!(agent.event("bind", "kube-system/tenant")["verdict"], "deny");
}

fn the_error_number_is_chosen() {
    let choice = probe::features().expect("root").set_retval;
    for (word, errno) in [("eperm", libc::EPERM), ("eacces", libc::EACCES), ("eaddrinuse", libc::EADDRINUSE)] {
        let stage = Stage::new();
        stage.put(&Pod::new("owner").ports("20080"));
        let mut stranger = stage.start(&Pod::new("stranger"));
        let _agent = stage.enforce(&["--deny-errno", word]);
        assert_eq!(stranger.bind(&bind(20080)), if choice { errno } else { libc::EPERM }, "{word}");
    }
}

fn the_quota_is_chosen() {
    let stage = Stage::new();
    stage.put(&Pod::new("greedy").ports("20080-20082 20090"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let mut agent = stage.enforce(&["--max-ports-per-pod", "2"]);
    assert_eq!(agent.event("claim_invalid", "default/greedy")["kind"], "quota");
    assert_eq!(stranger.bind(&bind(20080)), 0);
    assert_eq!(stranger.bind(&bind(20090)), denied());
}
