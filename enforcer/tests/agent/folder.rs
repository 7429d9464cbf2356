//! The folder of manifests changes while the agent runs.

use std::fs;

use enforcer_testing::{
    agent::Agent,
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    pods::Pod,
    tests,
    worker::Worker,
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![
    manifest_changes_are_followed,
    recreated_folder_is_read_again,
    replaced_folder_is_read,
    atomically_replaced_folder_is_read
];

/// How many lines of this event came that nobody waited for.
fn count(agent: &mut Agent, event: &str) -> usize {
    agent.drain_log().iter().filter(|line| line["event"] == event).count()
}

fn manifest_changes_are_followed() {
    let fixture = AgentFixture::new();
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let mut agent = fixture.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), 0);

    let owner = Pod::new("owner");
    fixture.put(&owner.clone().ports("20080"));
    until_bind(&mut stranger, 20080, denied());

    fixture.put(&owner.clone().ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    assert_eq!(stranger.bind(&bind(20080)), 0, "what it no longer claims is free");
    assert_eq!(count(&mut agent, "manifest_invalid"), 0);

    fixture.write("owner.yaml", "kind: {");
    let told = agent.wait_for_line("the broken manifest is told", |line| line["event"] == "manifest_invalid");
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains("owner.yaml, document 1: is not valid YAML"), "{message}");
    assert!(message.ends_with("its last good version stays in force"), "{message}");
    assert_eq!(stranger.bind(&bind(20081)), denied(), "the old claims stay in force");

    let other = Pod::new("other").ports("20082");
    fixture.put(&other);
    until_bind(&mut stranger, 20082, denied());
    assert_eq!(stranger.bind(&bind(20081)), denied(), "another look changes nothing");
    assert_eq!(count(&mut agent, "manifest_invalid"), 0, "it is told once");

    fixture.remove(&owner);
    until_bind(&mut stranger, 20081, 0);
    assert_eq!(stranger.bind(&bind(20082)), denied());
    fixture.remove(&other);
    until_bind(&mut stranger, 20082, 0);
    assert_eq!(count(&mut agent, "manifest_invalid"), 0);
}

/// An agent that enforces port 20080, and a stranger.
fn enforced(fixture: &AgentFixture) -> (Agent, Worker) {
    fixture.put(&Pod::new("owner").ports("20080"));
    let mut stranger = fixture.start(&Pod::new("stranger"));
    let agent = fixture.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    (agent, stranger)
}

/// Waits until the agent misses its folder.
fn lost(agent: &mut Agent) {
    let told = agent.wait_for_line("the folder is missed", |line| line["event"] == "source_lost");
    assert_eq!(told["level"], "ERROR");
    let message = told["message"].as_str().expect("a message");
    assert!(message.ends_with("the claims stay as they were"), "{message}");
}

fn back(agent: &mut Agent) {
    agent.wait_for_line("the folder is found again", |line| line["event"] == "source_recovered");
}

fn recreated_folder_is_read_again() {
    let fixture = AgentFixture::new();
    let (mut agent, mut stranger) = enforced(&fixture);
    for _ in 0..2 {
        fs::rename(fixture.folder(), fixture.path_beside("away")).expect("renaming the folder");
        lost(&mut agent);
        assert_eq!(stranger.bind(&bind(20080)), denied(), "the claims stay");
        fs::rename(fixture.path_beside("away"), fixture.folder()).expect("renaming the folder");
        back(&mut agent);
        assert_eq!(stranger.bind(&bind(20080)), denied(), "the claims stay");
    }
    fixture.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    assert_eq!(count(&mut agent, "source_lost"), 0, "it is told once each time");
}

/// As when a volume is mounted anew: what is watched is the folder that has the name, whichever it is.
fn replaced_folder_is_read() {
    let fixture = AgentFixture::new();
    let (mut agent, mut stranger) = enforced(&fixture);
    fs::remove_dir_all(fixture.folder()).expect("removing the folder");
    lost(&mut agent);
    fs::create_dir(fixture.folder()).expect("a folder");
    back(&mut agent);
    until_bind(&mut stranger, 20080, 0);
    fixture.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    fixture.put(&Pod::new("newer").ports("20082"));
    until_bind(&mut stranger, 20082, denied());
}

fn atomically_replaced_folder_is_read() {
    let fixture = AgentFixture::new();
    let (_agent, mut stranger) = enforced(&fixture);
    fs::create_dir(fixture.path_beside("next")).expect("a folder");
    fs::rename(fixture.folder(), fixture.path_beside("away")).expect("renaming the folder");
    fs::rename(fixture.path_beside("next"), fixture.folder()).expect("renaming the folder");
    until_bind(&mut stranger, 20080, 0);
    fixture.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
}
