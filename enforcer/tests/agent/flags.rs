//! Flags of `enforcer run` that change verdicts.

use enforcer::kernel::probe;

use enforcer_testing::agent_fixture::{AgentFixture, bind, denied};
use enforcer_testing::pods::Pod;
use enforcer_testing::tests;

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    undeclared_flag_denies_undeclared_ports,
    node_reserved_flag_protects_ports,
    system_namespace_is_never_denied,
    errno_flag_chooses_error_number,
    quota_flag_limits_claims
];

fn undeclared_flag_denies_undeclared_ports() {
    let fixture = AgentFixture::new();
    let mut tenant = fixture.start(&Pod::new("tenant").ports("20080"));
    let mut agent = fixture.enforce(&["--undeclared", "deny"]);
    assert_eq!(tenant.bind(&bind(20080)), 0);
    assert_eq!(tenant.bind(&bind(0)), 0);
    assert_eq!(tenant.bind(&bind(20081)), denied());
    let told = agent.wait_for_event("bind", "default/tenant");
    assert_eq!((&told["reason"], &told["port"]), (&"undeclared".into(), &20081.into()));
    let message = told["message"].as_str().expect("a message");
    assert!(
        message.ends_with(" denied on node-1: no claim of the pod in force covers it, and undeclared ports are denied"),
        "{message}"
    );
}

fn node_reserved_flag_protects_ports() {
    let fixture = AgentFixture::new();
    let mut tenant = fixture.start(&Pod::new("tenant").ports("20022"));
    let mut system = fixture.start(&Pod::new("system").namespace("kube-system"));
    let mut agent = fixture.enforce(&["--node-reserved", "20022/tcp,21000-21010"]);
    let lost = agent.wait_for_event("claim_conflict", "default/tenant");
    assert_eq!((&lost["owner"], &lost["source"]), (&"the node".into(), &"node-reserved".into()));
    for port in [20022, 21000, 21010] {
        assert_eq!(tenant.bind(&bind(port)), denied());
        let told = agent.wait_for_event("bind", "default/tenant");
        assert_eq!((&told["reason"], &told["port"]), (&"reserved".into(), &port.into()));
        let message = told["message"].as_str().expect("a message");
        assert!(message.ends_with(" denied on node-1: reserved for the node (node-reserved)"), "{message}");
        assert_eq!(system.bind(&bind(port)), 0, "it belongs to node software too");
    }
}

fn system_namespace_is_never_denied() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut system = fixture.start(&Pod::new("system").namespace("infra"));
    let mut tenant = fixture.start(&Pod::new("tenant").namespace("kube-system"));
    let mut agent = fixture.enforce(&["--system-namespaces", "monitoring,infra"]);
    assert_eq!(system.bind(&bind(20080)), 0);
    assert_eq!(agent.wait_for_event("bind", "infra/system")["verdict"], "audit");
    assert_eq!(tenant.bind(&bind(20080)), denied(), "the list replaces the default");
    assert_eq!(agent.wait_for_event("bind", "kube-system/tenant")["verdict"], "deny");
}

fn errno_flag_chooses_error_number() {
    let choice = probe::features().expect("root").set_retval;
    for (word, errno) in [("eperm", libc::EPERM), ("eacces", libc::EACCES), ("eaddrinuse", libc::EADDRINUSE)] {
        let fixture = AgentFixture::new();
        fixture.put(&Pod::new("owner").ports("20080"));
        let mut stranger = fixture.start(&Pod::new("stranger"));
        let _agent = fixture.enforce(&["--deny-errno", word]);
        assert_eq!(stranger.bind(&bind(20080)), if choice { errno } else { libc::EPERM }, "{word}");
    }
}

fn quota_flag_limits_claims() {
    let fixture = AgentFixture::new();
    fixture.put(&Pod::new("greedy").ports("20080-20082 20090"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut agent = fixture.enforce(&["--max-ports-per-pod", "2"]);
    assert_eq!(agent.wait_for_event("claim_invalid", "default/greedy")["kind"], "quota");
    assert_eq!(stranger.bind(&bind(20080)), 0);
    assert_eq!(stranger.bind(&bind(20090)), denied());
}
