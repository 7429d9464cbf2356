//! A list of the pods that comes in pieces, late, or not to its end: what was known stays enforced, and the list is
//! taken in once it is whole.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, wait_until, wait_until_within},
    agent_fixture::{AgentFixture, bind, denied},
    apiserver::{ApiServer, Fault, Target},
    pods::Pod,
    tests,
    worker::Worker,
};

use crate::{
    Test,
    backend::{Backend as _, start_on_cluster, start_synced},
};

pub(crate) const TESTS: &[Test] = tests![
    cut_streamed_list_is_retried,
    cut_unstreamed_list_is_retried,
    unstreamed_list_comes_from_cache,
    slow_server_is_waited_for,
    cut_first_list_is_retried
];

/// More than the agent waits at most before it tries again.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

const PODS: Target = Target::ALL.resource("pods");

/// A server, an agent that has lost its place in history there, and what must be so until it knows all pods again.
struct ListFixture {
    server: ApiServer,
    gone: Pod,
    stays: Pod,
    strangers: Worker,
    stayers: Worker,
}

impl ListFixture {
    /// Lets the agent know some pods; then one goes and another comes while the server is away.
    fn new(fixture: &AgentFixture, streamed: bool, more: usize) -> (Self, Agent) {
        let server = ApiServer::start();
        server.set_streaming_lists(streamed);
        let (gone, stays) = (Pod::new("gone").ports("20080"), Pod::new("stays").ports("20081"));
        server.put(&gone);
        server.put(&stays);
        for number in 0..more {
            server.put(&Pod::new(&format!("more-{number}")));
        }
        let agent = start_synced(fixture, &server, &[]);
        let (strangers, stayers) = (fixture.worker(&Pod::new("stranger")), fixture.worker(&stays));
        let mut lists = Self { server, gone, stays, strangers, stayers };
        lists.knows_the_old();
        lists.server.stop();
        (lists, agent)
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
        wait_until_within(LONGEST_PAUSE, "the list is known", || self.strangers.bind(&bind(20082)) == denied());
        assert_eq!(self.strangers.bind(&bind(20080)), 0, "it is one list");
        assert_eq!(self.strangers.bind(&bind(20081)), denied());
        assert_eq!(self.stayers.bind(&bind(20081)), 0);
    }
}

/// Lets the agent meet the fault a few times: nothing changes until it is over.
fn nothing_changes_during(streamed: bool, fault: Fault) {
    let fixture = AgentFixture::new();
    let (mut lists, mut agent) = ListFixture::new(&fixture, streamed, 30);
    let outage = lists.server.fault(PODS, fault);
    let away = |line: &Value| line["event"] == "api_error" && line["resource"] == "pods";
    agent.wait_for_line("it is told that the server is away", away);
    lists.go_on();
    for hits in 1..=2 {
        wait_until("the list is cut again", || outage.hits() >= hits);
        lists.knows_the_old();
    }
    // A process that starts now is known as well. The storm takes time in which an agent without patience would ask
    // often.
    lists.stayers = fixture.worker(&lists.stays);
    lists.knows_the_old();
    let denials = lists.strangers.storm(&bind(20080), 100_000, 1);
    assert_eq!(denials, HashMap::from([(denied(), 100_000)]));
    assert!(outage.hits() < 10, "it is tried again with more and more time between, {} times", outage.hits());
    drop(outage);
    lists.learns_the_new();
    agent.wait_for_line("the watch is back", |line| line["event"] == "api_recovered" && line["resource"] == "pods");
}

fn cut_streamed_list_is_retried() {
    // After "comes" and one of the many others, before "stays".
    nothing_changes_during(true, Fault::CutWatchAfter(2));
}

fn cut_unstreamed_list_is_retried() {
    nothing_changes_during(false, Fault::CutList);
}

/// A list of the newest version makes the server read the pods of all nodes from etcd, once for each agent.
fn unstreamed_list_comes_from_cache() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    for number in 0..120 {
        server.put(&Pod::new(&format!("pod-{number}")));
    }
    let _agent = start_synced(&fixture, &server, &[]);
    let requests = server.requests();
    let lists: Vec<_> =
        requests.iter().filter(|request| request.verb == "list" && request.resource == "pods").collect();
    let [list] = lists.as_slice() else { panic!("one list without pages: {lists:?}") };
    assert!(list.query.split('&').any(|parameter| parameter == "resourceVersion=0"), "{}", list.query);
}

fn slow_server_is_waited_for() {
    for (streamed, fault) in [
        (true, Fault::DelayAnswer(Duration::from_millis(700))),
        (true, Fault::DelayBody(Duration::from_millis(700))),
        (false, Fault::DelayBody(Duration::from_millis(700))),
    ] {
        let fixture = AgentFixture::new();
        let (mut lists, _agent) = ListFixture::new(&fixture, streamed, 0);
        let outage = lists.server.fault(PODS, fault);
        lists.go_on();
        wait_until("the list is asked for", || outage.hits() > 0);
        lists.knows_the_old();
        lists.learns_the_new();
    }
}

fn cut_first_list_is_retried() {
    for streamed in [true, false] {
        let fixture = AgentFixture::new();
        let server = ApiServer::start();
        server.set_streaming_lists(streamed);
        let (first, last) = (Pod::new("a").ports("20080"), Pod::new("z").ports("20081"));
        server.put(&first);
        server.put(&last);
        let fault = if streamed { Fault::CutWatchAfter(1) } else { Fault::CutList };
        let outage = server.fault(PODS, fault);
        let mut agent = start_on_cluster(&fixture, &server, &[]);
        agent.wait_for_line("the trouble is told", |line| line["event"] == "api_error" && line["resource"] == "pods");
        wait_until("it is tried again", || outage.hits() > 1);
        let mut strangers = fixture.worker(&Pod::new("stranger"));
        assert_eq!(strangers.bind(&bind(20080)), 0, "half a list is none");
        assert!(!agent.drain_log().iter().any(|line| line["event"] == "synced"));
        drop(outage);
        agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
        for port in [20080, 20081] {
            assert_eq!(strangers.bind(&bind(port)), denied());
        }
    }
}
