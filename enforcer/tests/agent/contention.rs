//! A thousand pods that want one port.

use enforcer_ebpf::wire::Protocol;
use serde_json::Value;

use enforcer_testing::{
    agent::{Agent, until},
    agent_fixture::{Pod, Stage, bind, denied, until_bind},
    apiserver::ApiServer,
};

use crate::{
    Test,
    backend::{Backend as _, on_cluster, synced},
    claims_in_force::{Part, held},
};

pub(crate) const TESTS: &[Test] = &[
    ("of_a_thousand_that_were_there_one_is_in_force", of_a_thousand_that_were_there_one_is_in_force),
    ("of_a_thousand_that_come_the_first_stays_in_force", of_a_thousand_that_come_the_first_stays_in_force),
];

const CROWD: usize = 1000;
const PORT: u16 = 20080;
/// How many of those who wait are told when they wait for another one.
const TOLD_AGAIN: usize = 10;

/// The pods in the order of their arrival, which is that of their names turned around.
fn crowd() -> Vec<Pod> {
    let name = |number| format!("crowd-{:04}", CROWD - number);
    (0..CROWD).map(|number| Pod::new(&name(number)).ports(&PORT.to_string())).collect()
}

/// All claims that are in force are this pod's, and on both families.
fn is_alone(agent: &Agent, pod: &Pod) -> bool {
    let expected = [Part::AllV4, Part::AllV6].map(|part| ((Protocol::Tcp, PORT, part), pod.uid_text().to_owned()));
    held(agent).is_ok_and(|held| held == expected.into())
}

fn told_of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// Lets those in force go, one after the other: the next one is promoted each time, and not all others are told again.
/// Then something else is enforced as ever.
fn one_after_the_other(stage: &Stage, server: &ApiServer, agent: &mut Agent, crowd: &[Pod]) {
    const GO: usize = 5;
    agent.rest();
    for pair in crowd[..=GO].windows(2) {
        server.delete(&pair[0]);
        agent.event("claim_granted", &format!("default/{}", pair[1].name()));
        assert!(is_alone(agent, &pair[1]), "{}", pair[1].name());
    }
    let mut owners = stage.worker(&crowd[GO]);
    until_bind(&mut owners, PORT, 0);
    for pod in [&crowd[GO + 1], &crowd[CROWD - 1]] {
        assert_eq!(stage.worker(pod).bind(&bind(PORT)), denied());
    }
    server.put(&Pod::new("later").ports("20081"));
    until_bind(&mut owners, 20081, denied());
    let told = agent.rest();
    let again = told_of(&told, "claim_conflict").len();
    assert!((1..=GO * TOLD_AGAIN).contains(&again), "{again} were told that they wait for another one now");
    assert!(told.len() < GO * TOLD_AGAIN + 20, "{} lines", told.len());
}

fn of_a_thousand_that_were_there_one_is_in_force() {
    let stage = Stage::new();
    let server = ApiServer::start();
    let crowd = crowd();
    // In an order that is neither that of arrival nor that of names.
    for place in 0..CROWD {
        server.put(&crowd[place * 389 % CROWD]);
    }
    let mut agent = on_cluster(&stage, &server, &[]);
    let synced = agent.wait("all pods are known", |line| line["event"] == "synced");
    assert_eq!((&synced["claims"], &synced["conflicts"]), (&1.into(), &(CROWD - 1).into()));
    assert!(is_alone(&agent, &crowd[0]));
    until("all are told", || {
        let lines: Vec<Value> = agent.raw().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        told_of(&lines, "claim_conflict").len() == CROWD - 1
    });
    let told = agent.rest();
    assert!(told_of(&told, "claim_conflict").iter().all(|line| line["owner"] == "default/crowd-1000"));
    assert!(told.len() < CROWD + 10, "{} lines", told.len());
    one_after_the_other(&stage, &server, &mut agent, &crowd);
}

fn of_a_thousand_that_come_the_first_stays_in_force() {
    let stage = Stage::new();
    let server = ApiServer::start();
    let mut agent = synced(&stage, &server, &[]);
    let crowd = crowd();
    let mut owners = stage.worker(&crowd[0]);
    for pod in &crowd {
        server.put(pod);
    }
    agent.event("claim_conflict", &format!("default/{}", crowd[CROWD - 1].name()));
    assert!(is_alone(&agent, &crowd[0]));
    assert_eq!(owners.bind(&bind(PORT)), 0);
    let lost = told_of(&agent.rest(), "claim_conflict").len();
    assert_eq!(lost, CROWD - 2, "each is told once");
    one_after_the_other(&stage, &server, &mut agent, &crowd);
}
