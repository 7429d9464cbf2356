//! Pods that come and go as the controllers of a cluster and the kubelet make them, with others who want their ports.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use serde_json::Value;

use enforcer_testing::{
    agent::wait_until,
    agent_fixture::{AgentFixture, bind, until_bind},
    apiserver::ApiServer,
    pods::Pod,
    tests,
    worker::{Bind, Worker},
};

use crate::{
    Test,
    backend::{Backend, BackendTest, backend_tests, start_synced},
    bind_load::{DENY_EACCES, Load, assert_never_denied, no_access},
};

pub(crate) const TESTS: &[Test] = tests![static_pod_replaced_during_outage_keeps_port];

pub(crate) const BODIES: &[BackendTest] = backend_tests![
    daemon_set_update_keeps_port_from_others: NoControllers,
    terminating_pod_owns_port_until_it_is_gone: NoControllers,
    forged_mirror_pod_gains_no_rank: NoControllers,
    forged_mirror_pod_inherits_nothing: NoControllers,
    share_group_ends_at_its_namespace: Nothing,
];

/// The UIDs of static pods.
const HASHES: [&str; 2] = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"];

/// Waits until all that the server was told so far is enforced: changes come in their order, so the last is waited for,
/// which is of a port that nobody else wants. The worker's pod must be nobody known.
fn settle(server: &dyn Backend, nobody: &mut Worker) {
    static PORT: AtomicU16 = AtomicU16::new(21000);
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    server.put(&Pod::new(&format!("last-{port}")).ports(&port.to_string()));
    wait_until(&format!("the claim on {port} is enforced"), || nobody.bind(&bind(port)) != 0);
}

fn daemon_set_update_keeps_port_from_others(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let old = server.put(&Pod::new("web-old").of_daemon_set("web").ports("20080"));
    let claims = server.put(&Pod::new("squatter-1").ports("20080"));
    let says_nothing = server.put(&Pod::new("squatter-2"));
    let mut nobody = fixture.worker(&Pod::new("nobody"));
    let mut agent = start_synced(&fixture, server, &DENY_EACCES);
    agent.wait_for_event("claim_conflict", "default/squatter-1");
    let mut serving = fixture.worker(&old);
    until_bind(&mut serving, 20080, 0);
    assert_eq!(serving.bind(&bind(20080).kept()), 0);
    let loads = [claims, says_nothing].map(|squatter| Load::start(fixture.worker(&squatter), vec![bind(20080)]));
    let go_on = || loads.iter().for_each(Load::wait_for_progress);

    // As the controller and the kubelet do it: asked to go, it ends, has its last phase, loses its cgroup, is gone.
    server.ask_to_go(&old, Duration::from_secs(30));
    settle(server, &mut nobody);
    go_on();
    serving.close();
    assert_eq!(serving.bind(&bind(20080).kept()), 0, "a container that starts once more in its grace period");
    drop(serving);
    go_on();
    server.put(&old.clone().phase("Failed"));
    settle(server, &mut nobody);
    go_on();
    fixture.remove_cgroup(old.uid_text());
    go_on();
    server.delete(&old);
    settle(server, &mut nobody);
    go_on();
    // Only now does the controller make the next one.
    let new = server.put(&Pod::new("web-new").of_daemon_set("web").ports("20080"));
    let mut serving = fixture.worker(&new);
    settle(server, &mut nobody);
    assert_eq!(serving.bind(&bind(20080).kept()), 0);
    go_on();

    for load in loads {
        let (_, counts) = load.stop();
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&no_access()], "{counts:?}");
    }
}

fn terminating_pod_owns_port_until_it_is_gone(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let owner = server.put(&Pod::new("web-1").of_deployment("web").ports("20080"));
    let stranger = server.put(&Pod::new("stranger").of_deployment("other"));
    let mut agent = start_synced(&fixture, server, &DENY_EACCES);
    let (mut owners, mut strangers) = (fixture.worker(&owner), fixture.worker(&stranger));
    let mut nobody = fixture.worker(&Pod::new("nobody"));
    settle(server, &mut nobody);
    let successor = server.put(&Pod::new("web-2").of_deployment("web").ports("20080"));
    let mut successors = fixture.worker(&successor);
    settle(server, &mut nobody);
    assert_eq!(successors.bind(&bind(20080)), 0, "siblings do not deny each other");

    // The time that a deletion names lies ahead.
    server.ask_to_go(&owner, Duration::from_secs(30));
    settle(server, &mut nobody);
    assert_eq!(owners.bind(&bind(20080).kept()), 0);
    owners.close();
    assert_eq!(owners.bind(&bind(20080)), 0, "and again");
    assert_eq!(strangers.bind(&bind(20080)), no_access());
    let told = agent.wait_for_event("bind", "default/stranger");
    assert_eq!(told["owner"], "default/web-2", "the sibling that stays stands for both");
    assert_eq!(successors.bind(&bind(20080).kept()), 0, "the next of its workload may");
    assert_eq!(strangers.bind(&bind(20080)), no_access());

    drop(owners);
    fixture.remove_cgroup(owner.uid_text());
    server.delete(&owner);
    settle(server, &mut nobody);
    successors.close();
    assert_eq!(successors.bind(&bind(20080)), 0);
    assert_eq!(strangers.bind(&bind(20080)), no_access());
}

fn static_pod_replaced_during_outage_keeps_port() {
    let fixture = AgentFixture::new();
    let mut server = ApiServer::start();
    let mirror = |hash| Pod::new("apiserver-node-1").mirror_of(hash).ports("20643");
    let before = server.put(&mirror(HASHES[0]));
    server.put(&Pod::new("waiting").ports("20643"));
    let mut old = fixture.worker_with_uid(HASHES[0]);
    let mut agent = start_synced(&fixture, &server, &DENY_EACCES);
    let lost = agent.wait_for_event("claim_conflict", "default/waiting");
    assert_eq!(lost["owner"], "default/apiserver-node-1");
    assert_eq!(old.bind(&bind(20643).kept()), 0);
    let mut unknown = fixture.worker(&Pod::new("unknown"));
    assert_eq!(unknown.bind(&bind(20643)), no_access(), "a caller that has the form of the API's pods");

    server.stop();
    agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error");
    old.close();
    // It has nothing but its cgroup to be known by, and binds from its first moment.
    let load = Load::start(fixture.worker_with_uid(HASHES[1]), vec![bind(20643)]);
    drop(old);
    fixture.remove_cgroup(HASHES[0]);
    agent.wait_for_event("claim_granted", "default/waiting");
    load.wait_for_progress();
    server.start_again();
    server.delete(&before);
    let after = server.put(&mirror(HASHES[1]));
    assert_ne!(after.uid_text(), before.uid_text());
    let lost = agent.wait_for_line("the static pod is known again", |line| {
        line["event"] == "claim_conflict"
            && line["pod"] == "default/waiting"
            && line["owner"] == "default/apiserver-node-1"
    });
    assert_eq!(lost["source"], "annotation");
    load.wait_for_progress();
    let (mut new, counts) = load.stop();
    assert_never_denied(&counts);
    assert_eq!(new.bind(&bind(20643).kept()), 0);
    assert_eq!(unknown.bind(&bind(20643)), no_access());
}

fn forged_mirror_pod_gains_no_rank(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let victim = server.put(&Pod::new("victim").ports("20081"));
    let real = server.put(&Pod::new("real").mirror_of(HASHES[0]).ports("20643"));
    let mut fixed = fixture.worker_with_uid(HASHES[0]);
    let mut agent = start_synced(&fixture, server, &DENY_EACCES);
    let forged = Pod::new("forged").namespace("tenant").mirror_of(HASHES[0]).ports("20081 20082");
    let forged = server.put(&forged);
    agent.wait_for_event("identity_rejected", "tenant/forged");
    let lost = agent.wait_for_event("claim_conflict", "tenant/forged");
    assert_eq!(lost["owner"], "default/victim", "it has no rank");
    // Of a static pod that is not there.
    let ghost = server.put(&Pod::new("ghost").namespace("tenant").mirror_of(HASHES[1]).ports("20081"));
    agent.wait_for_event("claim_conflict", "tenant/ghost");

    let mut nobody = fixture.worker(&Pod::new("nobody"));
    settle(server, &mut nobody);
    let mut victims = fixture.worker(&victim);
    for pod in [&forged, &ghost] {
        let mut worker = fixture.worker(pod);
        for port in [20081, 20643] {
            assert_eq!(worker.bind(&bind(port)), no_access(), "it is not exempt");
            let told = agent.wait_for_event("bind", &format!("tenant/{}", pod.name()));
            assert_eq!((&told["verdict"], &told["port"]), (&"deny".into(), &port.into()));
        }
    }
    let mut pretender = fixture.worker(&forged);
    assert_eq!(pretender.bind(&bind(20082)), 0, "what nobody else wants is its own");
    assert_eq!(victims.bind(&bind(20082)), no_access());
    assert_eq!(victims.bind(&bind(20081)), 0);
    assert_eq!(fixed.bind(&bind(20643)), 0);
    // A reference to the same node makes nobody kin.
    server.ask_to_go(&real, Duration::from_secs(30));
    settle(server, &mut nobody);
    assert_eq!(pretender.bind(&bind(20643)), no_access());
    assert_eq!(fixed.bind(&bind(20643)), 0);
}

fn forged_mirror_pod_inherits_nothing(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let victim = server.put(&Pod::new("victim").ports("20081"));
    let mirror = || Pod::new("real").mirror_of(HASHES[0]).ports("20643");
    let real = server.put(&mirror());
    let mut fixed = fixture.worker_with_uid(HASHES[0]);
    let mut agent = start_synced(&fixture, server, &DENY_EACCES);
    server.put(&Pod::new("forged").namespace("tenant").mirror_of(HASHES[0]).ports("20081"));
    agent.wait_for_event("identity_rejected", "tenant/forged");
    // Somebody deletes the mirror pod; the static pod runs on, and the kubelet makes it a new one.
    server.delete(&real);
    agent.wait_for_event("identity_rejected", "tenant/forged");
    let mut nobody = fixture.worker(&Pod::new("nobody"));
    settle(server, &mut nobody);
    let mut victims = fixture.worker(&victim);
    assert_eq!(victims.bind(&bind(20081)), 0);
    assert_eq!(fixed.bind(&bind(20081)), 0, "node software is never denied");
    let told = agent.wait_for_line("it is told", |line| line["event"] == "bind" && line["verdict"] == "audit");
    assert_eq!((&told["owner"], &told["pod"]), (&"default/victim".into(), &Value::Null));
    server.put(&mirror());
    settle(server, &mut nobody);
    assert_eq!(fixed.bind(&bind(20643)), 0);
    assert_eq!(victims.bind(&bind(20643)), no_access());
    assert_eq!(agent.wait_for_event("bind", "default/victim")["owner"], "default/real");
}

fn share_group_ends_at_its_namespace(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let member = |name, namespace| Pod::new(name).namespace(namespace).share_group("web").ports("20080/udp");
    let one = server.put(&member("one", "team-a"));
    let mut agent = start_synced(&fixture, server, &DENY_EACCES);
    let (other, foreign) = (server.put(&member("other", "team-a")), server.put(&member("foreign", "team-b")));
    let lost = agent.wait_for_event("claim_conflict", "team-b/foreign");
    assert_eq!(lost["owner"], "team-a/one");
    let [mut one, mut other, mut foreign] = [one, other, foreign].map(|pod| fixture.worker(&pod));
    // Without the agent, the kernel would let all three share.
    let share = Bind { reuse_port: true, ..Bind::udp("0.0.0.0", 20080) }.kept();
    assert_eq!(one.bind(&share), 0);
    assert_eq!(other.bind(&share), 0);
    assert_eq!(foreign.bind(&share), no_access());
    let told = agent.wait_for_event("bind", "team-b/foreign");
    assert_eq!((&told["reason"], &told["protocol"]), (&"claimed".into(), &"udp".into()));
}
