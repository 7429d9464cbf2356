//! The folder of manifests changes while the agent runs.

use std::fs;

use enforcer_testing::{
    agent::Agent,
    agent_fixture::{Pod, Stage, bind, denied, until_bind},
    worker::Worker,
};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_manifest_is_added_edited_broken_removed", a_manifest_is_added_edited_broken_removed),
    ("the_folder_goes_and_comes_back", the_folder_goes_and_comes_back),
    ("another_folder_takes_the_folders_place", another_folder_takes_the_folders_place),
    ("a_folder_is_replaced_at_once", a_folder_is_replaced_at_once),
];

/// How many lines of this event came that nobody waited for.
fn count(agent: &mut Agent, event: &str) -> usize {
    agent.rest().iter().filter(|line| line["event"] == event).count()
}

fn a_manifest_is_added_edited_broken_removed() {
    let stage = Stage::new();
    let mut stranger = stage.start(&Pod::new("stranger"));
    let mut agent = stage.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), 0);

    let owner = Pod::new("owner");
    stage.put(&owner.clone().ports("20080"));
    until_bind(&mut stranger, 20080, denied());

    stage.put(&owner.clone().ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    assert_eq!(stranger.bind(&bind(20080)), 0, "what it no longer claims is free");
    assert_eq!(count(&mut agent, "manifest_invalid"), 0);

    stage.write("owner.yaml", "kind: {");
    let told = agent.wait("the broken manifest is told", |line| line["event"] == "manifest_invalid");
    let message = told["message"].as_str().expect("a message");
    assert!(message.contains("owner.yaml, document 1: is not valid YAML"), "{message}");
    assert!(message.ends_with("its last good version stays in force"), "{message}");
    assert_eq!(stranger.bind(&bind(20081)), denied(), "the old claims stay in force");

    let other = Pod::new("other").ports("20082");
    stage.put(&other);
    until_bind(&mut stranger, 20082, denied());
    assert_eq!(stranger.bind(&bind(20081)), denied(), "another look changes nothing");
    assert_eq!(count(&mut agent, "manifest_invalid"), 0, "it is told once");

    stage.remove(&owner);
    until_bind(&mut stranger, 20081, 0);
    assert_eq!(stranger.bind(&bind(20082)), denied());
    stage.remove(&other);
    until_bind(&mut stranger, 20082, 0);
    assert_eq!(count(&mut agent, "manifest_invalid"), 0);
}

/// An agent that enforces port 20080, and a stranger.
fn enforced(stage: &Stage) -> (Agent, Worker) {
    stage.put(&Pod::new("owner").ports("20080"));
    let mut stranger = stage.start(&Pod::new("stranger"));
    let agent = stage.enforce(&[]);
    assert_eq!(stranger.bind(&bind(20080)), denied());
    (agent, stranger)
}

/// Waits until the agent misses its folder.
fn lost(agent: &mut Agent) {
    let told = agent.wait("the folder is missed", |line| line["event"] == "source_lost");
    assert_eq!(told["level"], "ERROR");
    let message = told["message"].as_str().expect("a message");
    assert!(message.ends_with("the claims stay as they were"), "{message}");
}

fn back(agent: &mut Agent) {
    agent.wait("the folder is found again", |line| line["event"] == "source_recovered");
}

fn the_folder_goes_and_comes_back() {
    let stage = Stage::new();
    let (mut agent, mut stranger) = enforced(&stage);
    for _ in 0..2 {
        fs::rename(stage.folder(), stage.beside("away")).expect("renaming the folder");
        lost(&mut agent);
        assert_eq!(stranger.bind(&bind(20080)), denied(), "the claims stay");
        fs::rename(stage.beside("away"), stage.folder()).expect("renaming the folder");
        back(&mut agent);
        assert_eq!(stranger.bind(&bind(20080)), denied(), "the claims stay");
    }
    stage.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    assert_eq!(count(&mut agent, "source_lost"), 0, "it is told once each time");
}

/// As when a volume is mounted anew: what is watched is the folder that has the name, whichever it is.
fn another_folder_takes_the_folders_place() {
    let stage = Stage::new();
    let (mut agent, mut stranger) = enforced(&stage);
    fs::remove_dir_all(stage.folder()).expect("removing the folder");
    lost(&mut agent);
    fs::create_dir(stage.folder()).expect("a folder");
    back(&mut agent);
    until_bind(&mut stranger, 20080, 0);
    stage.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
    stage.put(&Pod::new("newer").ports("20082"));
    until_bind(&mut stranger, 20082, denied());
}

fn a_folder_is_replaced_at_once() {
    let stage = Stage::new();
    let (_agent, mut stranger) = enforced(&stage);
    fs::create_dir(stage.beside("next")).expect("a folder");
    fs::rename(stage.folder(), stage.beside("away")).expect("renaming the folder");
    fs::rename(stage.beside("next"), stage.folder()).expect("renaming the folder");
    until_bind(&mut stranger, 20080, 0);
    stage.put(&Pod::new("new").ports("20081"));
    until_bind(&mut stranger, 20081, denied());
}
