//! A thousand pods that want one port.

use enforcer_ebpf::wire::Protocol;
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, wait_until},
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::ApiServer,
    pods::Pod,
    tests,
};

use crate::{
    Test,
    backend::{Backend as _, start_on_cluster, start_synced},
    read_claims_in_force::{ClaimPart, claims_in_force},
};

pub(crate) const TESTS: &[Test] =
    tests![one_of_thousand_existing_claims_is_active, first_of_thousand_new_claims_stays_active];

const CONTENDERS: usize = 1000;
const PORT: u16 = 20080;
/// How many of those who wait are told when they wait for another one.
const TOLD_AGAIN: usize = 10;

/// The pods in the order of their arrival, which is that of their names turned around.
fn contenders() -> Vec<Pod> {
    let name = |number| format!("crowd-{:04}", CONTENDERS - number);
    (0..CONTENDERS).map(|number| Pod::new(&name(number)).ports(&PORT.to_string())).collect()
}

/// All claims that are in force are this pod's, and on both families.
fn is_alone(agent: &Agent, pod: &Pod) -> bool {
    let expected =
        [ClaimPart::AllV4, ClaimPart::AllV6].map(|part| ((Protocol::Tcp, PORT, part), pod.uid_text().to_owned()));
    claims_in_force(agent).is_ok_and(|held| held == expected.into())
}

fn lines_of_event<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// Lets those in force go, one after the other: the next one is promoted each time, and not all others are told again.
/// Then something else is enforced as ever.
fn one_after_the_other(fixture: &AgentFixture, server: &ApiServer, agent: &mut Agent, contenders: &[Pod]) {
    const GO: usize = 5;
    agent.drain_log();
    for pair in contenders[..=GO].windows(2) {
        server.delete(&pair[0]);
        agent.wait_for_event("claim_granted", &format!("default/{}", pair[1].name()));
        assert!(is_alone(agent, &pair[1]), "{}", pair[1].name());
    }
    let mut owners = fixture.worker(&contenders[GO]);
    until_bind(&mut owners, PORT, 0);
    for pod in [&contenders[GO + 1], &contenders[CONTENDERS - 1]] {
        assert_eq!(fixture.worker(pod).bind(&bind(PORT)), denied());
    }
    server.put(&Pod::new("later").ports("20081"));
    until_bind(&mut owners, 20081, denied());
    let told = agent.drain_log();
    let again = lines_of_event(&told, "claim_conflict").len();
    assert!((1..=GO * TOLD_AGAIN).contains(&again), "{again} were told that they wait for another one now");
    assert!(told.len() < GO * TOLD_AGAIN + 20, "{} lines", told.len());
}

fn one_of_thousand_existing_claims_is_active() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let contenders = contenders();
    // In an order that is neither that of arrival nor that of names.
    for place in 0..CONTENDERS {
        server.put(&contenders[place * 389 % CONTENDERS]);
    }
    let mut agent = start_on_cluster(&fixture, &server, &[]);
    let synced = agent.wait_for_line("all pods are known", |line| line["event"] == "synced");
    assert_eq!((&synced["claims"], &synced["conflicts"]), (&1.into(), &(CONTENDERS - 1).into()));
    assert!(is_alone(&agent, &contenders[0]));
    wait_until("all are told", || {
        let lines: Vec<Value> = agent.raw_log().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        lines_of_event(&lines, "claim_conflict").len() == CONTENDERS - 1
    });
    let told = agent.drain_log();
    assert!(lines_of_event(&told, "claim_conflict").iter().all(|line| line["owner"] == "default/crowd-1000"));
    assert!(told.len() < CONTENDERS + 10, "{} lines", told.len());
    one_after_the_other(&fixture, &server, &mut agent, &contenders);
}

fn first_of_thousand_new_claims_stays_active() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let mut agent = start_synced(&fixture, &server, &[]);
    let contenders = contenders();
    let mut owners = fixture.worker(&contenders[0]);
    for pod in &contenders {
        server.put(pod);
    }
    agent.wait_for_event("claim_conflict", &format!("default/{}", contenders[CONTENDERS - 1].name()));
    assert!(is_alone(&agent, &contenders[0]));
    assert_eq!(owners.bind(&bind(PORT)), 0);
    let lost = lines_of_event(&agent.drain_log(), "claim_conflict").len();
    assert_eq!(lost, CONTENDERS - 2, "each is told once");
    one_after_the_other(&fixture, &server, &mut agent, &contenders);
}
