//! Ports of Ready pods that others answer: each way is published on both pods, and the normal moments of pods are not.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::AgentFixture,
    apiserver::ApiServer,
    pods::{POD_IP, Pod},
    tests,
    worker::{Bind, Worker},
};

use crate::{
    Test,
    backend::{Backend, BackendTest, backend_tests, start_synced},
    events::{note, wait},
    metrics::{SERVED, scrape},
    status::{json, served, socket},
};

pub(crate) const TESTS: &[Test] =
    tests![answered_port_is_a_conflict_for_as_long_as_it_holds, starts_crashes_and_handovers_are_not_published];

pub(crate) const BODIES: &[BackendTest] = backend_tests![
    failed_bind_that_lives_on_is_published_on_both_pods: NoControllers,
    shared_port_is_published_on_both_pods: NoControllers,
    pod_that_listens_elsewhere_is_published_on_both_pods: NoControllers,
    host_process_that_answers_is_published_on_pod_and_node: NoControllers,
];

const PORT: u16 = 20080;
const EVENT: &str = "PortAnsweredByOther";
const LINE: &str = "port_answered_by_other";

/// A pod whose readiness probe connects to this port every second.
fn probed(name: &str, port: u16) -> Pod {
    Pod::new(name).probe("readinessProbe", json!({ "periodSeconds": 1, "tcpSocket": { "port": port } }))
}

/// Binds share their ports, and nothing is denied.
const LENIENT: [&str; 4] = ["--mode", "audit", "--undeclared", "allow"];

/// Waits for the Events of both, and compares their notes. Neither shows a process.
fn assert_published(server: &dyn Backend, of_pod: &str, of_holder: &str) {
    let pods = wait(server, EVENT, "web");
    assert_eq!(note(&pods), format!("default/web is Ready on node-1, but {of_pod}; give one of the two another port"));
    assert_eq!((pods.type_.as_deref(), pods.action.as_deref()), (Some("Warning"), Some("Bind")));
    assert_eq!(pods.related.as_ref().and_then(|it| it.name.as_deref()), Some("other"));
    let others = wait(server, EVENT, "other");
    assert_eq!(note(&others), of_holder);
    assert_eq!(others.related.as_ref().and_then(|it| it.name.as_deref()), Some("web"));
    let count = server.events().iter().filter(|event| event.reason.as_deref() == Some(EVENT)).count();
    assert_eq!(count, 2, "one for each of them");
}

fn failed_bind_that_lives_on_is_published_on_both_pods(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (web, other) = (server.put(&probed("web", PORT)), server.put(&Pod::new("other").running(true)));
    let mut agent = start_synced(&fixture, server, &LENIENT);
    let (mut webs, mut others) = (fixture.worker(&web), fixture.worker(&other));
    assert_eq!(others.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    assert_eq!(webs.bind(&Bind::tcp("0.0.0.0", PORT)), libc::EADDRINUSE, "and it lives on");
    server.put(&web.running(true));
    assert_published(
        server,
        "its probe on 10.0.0.5:20080/tcp is answered by default/other, which holds 0.0.0.0:20080/tcp",
        "default/web (10.0.0.5:20080/tcp) is Ready on node-1, but this pod answers its port",
    );
    let line = agent.wait_for_event(LINE, "default/web");
    assert_eq!((&line["holder"], &line["port"]), (&"default/other".into(), &PORT.into()), "{line}");
    let message = line["message"].as_str().expect("a sentence");
    assert!(message.contains("answered by default/other (container server, command agent-"), "{message}");
}

fn shared_port_is_published_on_both_pods(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let (web, other) = (server.put(&probed("web", PORT).running(true)), server.put(&Pod::new("other").running(true)));
    let _agent = start_synced(&fixture, server, &LENIENT);
    let (mut webs, mut others) = (fixture.worker(&web), fixture.worker(&other));
    let sharing = Bind { reuse_port: true, ..Bind::tcp("0.0.0.0", PORT).kept() };
    assert_eq!((webs.bind(&sharing), others.bind(&sharing)), (0, 0));
    assert_published(
        server,
        "its probe on 10.0.0.5:20080/tcp is answered by default/other too, which holds 0.0.0.0:20080/tcp at the same time",
        "default/web (10.0.0.5:20080/tcp) is Ready on node-1, but this pod answers its port",
    );
}

/// It declares the port, and nothing probes it.
fn pod_that_listens_elsewhere_is_published_on_both_pods(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let mut web = Pod::new("web").running(true);
    web.object["spec"]["containers"][0]["ports"] = json!([{ "containerPort": PORT, "hostPort": PORT }]);
    let (web, other) = (server.put(&web), server.put(&Pod::new("other").running(true)));
    let _agent = start_synced(&fixture, server, &LENIENT);
    let (mut webs, mut others) = (fixture.worker(&web), fixture.worker(&other));
    for (address, port) in [("127.0.0.1", PORT), ("0.0.0.0", PORT + 1)] {
        assert_eq!(webs.bind(&Bind::tcp(address, port).kept()), 0);
    }
    assert_eq!(others.bind(&Bind::tcp(POD_IP, PORT).kept()), 0);
    assert_published(
        server,
        "20080/tcp, which it declares, is held by default/other as 10.0.0.5:20080/tcp",
        "default/web (20080/tcp) is Ready on node-1, but this pod answers its port",
    );
}

fn host_process_that_answers_is_published_on_pod_and_node(server: &dyn Backend) {
    let fixture = AgentFixture::new();
    let mut daemon = Worker::start(&fixture.make_host_cgroup("system.slice/edge-proxy.service/main"));
    assert_eq!(daemon.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    let web = server.put(&probed("web", PORT).running(true));
    let _webs = fixture.worker(&web);
    let _agent = start_synced(&fixture, server, &LENIENT);
    let pods = wait(server, EVENT, "web");
    let holder = "is answered by the host's edge-proxy.service, which holds 0.0.0.0:20080/tcp";
    assert!(note(&pods).contains(holder), "{}", note(&pods));
    let nodes = wait(server, EVENT, "node-1");
    let expected = "default/web (10.0.0.5:20080/tcp) is Ready on node-1, but the node answers its port";
    assert_eq!(note(&nodes), expected);
}

fn conflicts(fixture: &AgentFixture) -> Vec<Value> {
    json(fixture, &["status"])["conflicts"].as_array().expect("a list").clone()
}

fn answered(scraped: u64) {
    let gauge = "port_enforcer_ports_answered_by_other";
    wait_until("the gauge follows", || scrape().count(gauge, &[]) == Some(scraped));
}

fn answered_port_is_a_conflict_for_as_long_as_it_holds() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let (web, other) = (server.put(&probed("web", PORT).running(true)), server.put(&Pod::new("other")));
    let socket = socket(&fixture);
    let mut agent = start_synced(&fixture, &server, &served(&socket, &[&LENIENT[..], &SERVED].concat()));
    let (_webs, mut others) = (fixture.worker(&web), fixture.worker(&other));
    assert_eq!(conflicts(&fixture), [Value::Null; 0]);
    for _ in 0..2 {
        assert_eq!(others.bind(&Bind::tcp("::", PORT).kept()), 0);
        let line = agent.wait_for_event(LINE, "default/web");
        let all = conflicts(&fixture);
        let [conflict] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((&conflict["kind"], &conflict["ports"]), (&"answeredByOther".into(), &"10.0.0.5:20080/tcp".into()));
        assert_eq!((&conflict["who"]["name"], &conflict["other"]["name"]), (&"web".into(), &"other".into()));
        assert_eq!(conflict["message"], line["message"]);
        assert!(conflict["first"].is_string(), "{conflict}");
        answered(1);
        let explanation = json(&fixture, &["explain", "20080"]);
        let message = explanation["message"].as_str().expect("a sentence");
        assert!(
            message.contains("The probe of default/web on 10.0.0.5:20080/tcp is answered by default/other"),
            "{message}"
        );
        wait_until("the ledger has it", || {
            let ledger = server.ledger("node-1").unwrap_or_default();
            let conflict = &ledger["status"]["conflicts"][0];
            conflict["kind"] == "answeredByOther" && conflict["other"]["name"] == "other"
        });
        others.close();
        wait_until("it is over", || conflicts(&fixture).is_empty());
        answered(0);
    }
    // The pod says itself that something is wrong.
    assert_eq!(others.bind(&Bind::tcp("::", PORT).kept()), 0);
    agent.wait_for_event(LINE, "default/web");
    server.put(&web.running(false));
    wait_until("it is over", || conflicts(&fixture).is_empty());
}

/// All that happens here is normal, but for the last pair: that it is the only one which is published shows that nothing
/// else was, as all of them are judged by the same period.
fn starts_crashes_and_handovers_are_not_published() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let put = |pod: Pod| server.put(&pod);
    let slow = put(probed("slow", 20081).running(true));
    let crashing = put(probed("crashing", 20082).running(true));
    let old = put(probed("web-1", 20083).of_revision("web", "5d4f8").running(true));
    let new = put(probed("web-2", 20083).of_revision("web", "6fdf9").running(true));
    let leaving = put(probed("leaving", 20084).of_deployment("before").running(true));
    let coming = put(probed("coming", 20084).of_deployment("after").running(true));
    let forced = put(probed("forced", 20085).running(true));
    let alone = put(probed("alone", 20086).running(true));
    let waiting = put(probed("waiting", 20086).running(false));
    let mut rubbish = Pod::new("rubbish").running(true);
    for (kind, probe) in [
        ("livenessProbe", json!({ "periodSeconds": -7, "tcpSocket": { "port": -1 } })),
        ("readinessProbe", json!({ "httpGet": { "port": "\u{1b}[2J", "host": "%" } })),
        ("startupProbe", json!({ "periodSeconds": i32::MAX, "grpc": { "port": 70_000 } })),
    ] {
        rubbish = rubbish.probe(kind, probe);
    }
    put(rubbish);
    Backend::ask_to_go(&server, &leaving, Duration::from_mins(1));
    let mut agent = start_synced(&fixture, &server, &LENIENT);
    let _slow = fixture.worker(&slow);
    let mut keep = Vec::new();
    for (pod, port) in [(&old, 20083), (&leaving, 20084), (&forced, 20085), (&alone, 20086)] {
        let mut worker = fixture.worker(pod);
        assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", port).kept()), 0);
        keep.push(worker);
    }
    server.delete(&forced);
    let heir = put(probed("heir", 20085).running(true));
    for (pod, port) in [(&new, 20083), (&coming, 20084), (&heir, 20085), (&waiting, 20086)] {
        let mut worker = fixture.worker(pod);
        assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", port)), libc::EADDRINUSE);
        keep.push(worker);
    }
    let crash = || {
        let mut worker = fixture.worker(&crashing);
        assert_eq!(worker.bind(&Bind::tcp("0.0.0.0", 20082).kept()), 0, "nobody is in the way");
    };
    for _ in 0..10 {
        crash();
    }

    let (web, other) = (put(probed("web", PORT).running(true)), put(Pod::new("other").running(true)));
    let _web = fixture.worker(&web);
    let mut others = fixture.worker(&other);
    assert_eq!(others.bind(&Bind::tcp("0.0.0.0", PORT).kept()), 0);
    let published = || -> BTreeSet<String> {
        let events = server.events().into_iter().filter(|event| event.reason.as_deref() == Some(EVENT));
        events.filter_map(|event| event.regarding?.name).collect()
    };
    wait_until("the last pair is published", || {
        crash();
        published().len() >= 2
    });
    assert_eq!(published(), BTreeSet::from(["other".to_owned(), "web".to_owned()]), "and nobody else");
    assert_eq!(lines(&mut agent), ["default/web"]);
}

fn lines(agent: &mut Agent) -> Vec<String> {
    let lines = agent.drain_log().into_iter().filter(|line| line["event"] == LINE);
    lines.filter_map(|line| line["pod"].as_str().map(str::to_owned)).collect()
}
