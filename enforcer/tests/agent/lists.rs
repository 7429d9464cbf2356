//! A list of the pods that comes in pieces, late, or not to its end: what was known stays enforced, and the list is
//! taken in once it is whole.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, until, until_at_last},
    agent_fixture::{Pod, Stage, bind, denied},
    apiserver::{ApiServer, Fault, Target},
    worker::Worker,
};

use crate::{
    Test,
    backend::{Backend as _, on_cluster, synced},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_streamed_list_is_cut", a_streamed_list_is_cut),
    ("a_paged_list_is_cut", a_paged_list_is_cut),
    ("a_later_page_never_comes", a_later_page_never_comes),
    ("a_slow_server_is_waited_for", a_slow_server_is_waited_for),
    ("the_first_list_is_cut", the_first_list_is_cut),
];

/// More than the agent waits at most before it tries again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

const PODS: Target = Target::ALL.resource("pods");

/// A server, an agent that has lost its place in history there, and what must be so until it knows all pods again.
struct Scene {
    server: ApiServer,
    gone: Pod,
    stays: Pod,
    strangers: Worker,
    stayers: Worker,
}

impl Scene {
    /// Lets the agent know some pods; then one goes and another comes while the server is away.
    fn new(stage: &Stage, streamed: bool, more: usize) -> (Self, Agent) {
        let server = ApiServer::start();
        server.set_streaming_lists(streamed);
        let (gone, stays) = (Pod::new("gone").ports("20080"), Pod::new("stays").ports("20081"));
        server.put(&gone);
        server.put(&stays);
        for number in 0..more {
            server.put(&Pod::new(&format!("more-{number}")));
        }
        let agent = synced(stage, &server, &[]);
        let (strangers, stayers) = (stage.worker(&Pod::new("stranger")), stage.worker(&stays));
        let mut scene = Self { server, gone, stays, strangers, stayers };
        scene.knows_the_old();
        scene.server.stop();
        (scene, agent)
    }

    /// The server listens again, with another history.
    fn go_on(&mut self) {
        self.server.delete(&self.gone);
        self.server.put(&Pod::new("comes").ports("20082"));
        self.server.compact();
        self.server.start_again();
    }

    fn knows_the_old(&mut self) {
        for port in [20080, 20081] {
            assert_eq!(self.strangers.bind(&bind(port)), denied());
        }
        assert_eq!(self.stayers.bind(&bind(20081)), 0);
        assert_eq!(self.strangers.bind(&bind(20082)), 0);
    }

    fn learns_the_new(&mut self) {
        until_at_last(LONGEST_PAUSE, "the list is known", || self.strangers.bind(&bind(20082)) == denied());
        assert_eq!(self.strangers.bind(&bind(20080)), 0, "it is one list");
        assert_eq!(self.strangers.bind(&bind(20081)), denied());
        assert_eq!(self.stayers.bind(&bind(20081)), 0);
    }
}

/// Lets the agent meet the fault a few times: nothing changes until it is over.
fn nothing_changes_during(streamed: bool, more: usize, target: Target, fault: Fault) {
    let stage = Stage::new();
    let (mut scene, mut agent) = Scene::new(&stage, streamed, more);
    let outage = scene.server.fault(target, fault);
    let away = |line: &Value| line["event"] == "api_error" && line["resource"] == "pods";
    agent.wait("it is told that the server is away", away);
    scene.go_on();
    for hits in 1..=2 {
        until("the list is cut again", || outage.hits() >= hits);
        scene.knows_the_old();
    }
    // A process that starts now is known as well. The storm takes time in which an agent without patience would ask often.
    scene.stayers = stage.worker(&scene.stays);
    scene.knows_the_old();
    let denials = scene.strangers.storm(&bind(20080), 100_000, 1);
    assert_eq!(denials, HashMap::from([(denied(), 100_000)]));
    assert!(outage.hits() < 10, "it is tried again with more and more time between, {} times", outage.hits());
    drop(outage);
    scene.learns_the_new();
    agent.wait("the watch is back", |line| line["event"] == "api_recovered" && line["resource"] == "pods");
}

fn a_streamed_list_is_cut() {
    // After "comes" and one of the many others, before "stays".
    nothing_changes_during(true, 30, PODS, Fault::CutWatchAfter(2));
}

fn a_paged_list_is_cut() {
    nothing_changes_during(false, 30, PODS, Fault::CutList);
}

fn a_later_page_never_comes() {
    // A page has 50 pods at most.
    nothing_changes_during(false, 120, PODS, Fault::CutLaterPage);
}

fn a_slow_server_is_waited_for() {
    for (streamed, fault) in [
        (true, Fault::DelayAnswer(Duration::from_millis(700))),
        (true, Fault::DelayBody(Duration::from_millis(700))),
        (false, Fault::DelayBody(Duration::from_millis(700))),
    ] {
        let stage = Stage::new();
        let (mut scene, _agent) = Scene::new(&stage, streamed, 0);
        let outage = scene.server.fault(PODS, fault);
        scene.go_on();
        until("the list is asked for", || outage.hits() > 0);
        scene.knows_the_old();
        scene.learns_the_new();
    }
}

fn the_first_list_is_cut() {
    for streamed in [true, false] {
        let stage = Stage::new();
        let server = ApiServer::start();
        server.set_streaming_lists(streamed);
        let (first, last) = (Pod::new("a").ports("20080"), Pod::new("z").ports("20081"));
        server.put(&first);
        server.put(&last);
        let fault = if streamed { Fault::CutWatchAfter(1) } else { Fault::CutList };
        let outage = server.fault(PODS, fault);
        let mut agent = on_cluster(&stage, &server, &[]);
        agent.wait("the trouble is told", |line| line["event"] == "api_error" && line["resource"] == "pods");
        until("it is tried again", || outage.hits() > 1);
        let mut strangers = stage.worker(&Pod::new("stranger"));
        assert_eq!(strangers.bind(&bind(20080)), 0, "half a list is none");
        assert!(!agent.rest().iter().any(|line| line["event"] == "synced"));
        drop(outage);
        agent.wait("all pods are known", |line| line["event"] == "synced");
        for port in [20080, 20081] {
            assert_eq!(strangers.bind(&bind(port)), denied());
        }
    }
}
