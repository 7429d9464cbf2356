//! Upgrade from another version of the agent: its binary is named by an environment variable.

use std::{env, path::PathBuf};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use enforcer_testing::{
    agent::Agent,
    agent_fixture::{AgentFixture, bind, until_bind},
    bpffs::Bpffs,
    figures,
    pods::Pod,
    worker::Bind,
};
use libtest_mimic::{Completion, Trial};

use crate::bind_load::{DENY_EACCES, Load, assert_never_denied, no_access};

/// Path of the `enforcer` binary of the version to upgrade from.
const PREDECESSOR: &str = "PORT_ENFORCER_TEST_PREDECESSOR";

/// Attempts of strangers, at least, while agents replace each other; with `PORT_ENFORCER_TEST_FULL=1` in the environment
/// ten times as many.
const ATTEMPTS: u64 = 100_000;

fn attempts() -> u64 {
    if env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|full| full == "1") { 10 * ATTEMPTS } else { ATTEMPTS }
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("upgrade::upgrade_under_load_leaves_no_gap", || Ok(upgrade_under_load_leaves_no_gap()))]
}

/// Strangers and the owner try all the time, while an agent of this version takes over from one of another version, and
/// then from itself.
fn upgrade_under_load_leaves_no_gap() -> Completion {
    let Some(predecessor) = env::var_os(PREDECESSOR).map(PathBuf::from) else {
        return Completion::ignored_with(format!("{PREDECESSOR} names no binary of another version"));
    };
    let (fixture, bpffs) = (AgentFixture::new(), Bpffs::new());
    let folder = bpffs.folder().display().to_string();
    let flags = [&["--mode", "enforce", "--bpffs", &folder], &DENY_EACCES[..]].concat();
    let rightful = fixture.start(&Pod::new("owner").ports("20080"));
    let mut strangers: Vec<_> = (0..2).map(|number| fixture.start(&Pod::new(&format!("stranger-{number}")))).collect();
    let mut holder = fixture.start(&Pod::new("holder"));
    let (mut old, _) = Agent::start_program(&predecessor, fixture.arguments("json", &flags));
    for stranger in &mut strangers {
        until_bind(stranger, 20080, no_access());
    }
    // A port that nobody claims: its first pod holds it, and keeps it over the upgrade.
    let shared = |address| Bind::udp(address, 20081).reusing_addr();
    assert_eq!(holder.bind(&shared("127.0.0.1").kept()), 0);
    let before = old.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);

    let at = |address| vec![Bind::tcp(address, 20080)];
    let owner = Load::storm(rightful, at("127.0.0.2"));
    let storms: Vec<Load> = strangers.into_iter().map(|worker| Load::storm(worker, at("127.0.0.3"))).collect();
    assert!(old.terminate().success());
    let mut agent = fixture.spawn_agent(&flags);
    let takeover = agent.wait_for_line("the takeover is logged", |line| line["event"] == "takeover");
    assert_eq!(takeover["pods"], 4, "{takeover}");
    agent.wait_for_line("the agent is ready", |line| line["event"] == "ready");
    let mut swaps = 1;
    while storms.iter().map(Load::attempts).sum::<u64>() < attempts() || swaps < 3 {
        agent.kill();
        agent = fixture.agent(&flags);
        storms.iter().chain([&owner]).for_each(Load::wait_for_progress);
        swaps += 1;
    }

    let (_, owners) = owner.stop();
    assert_never_denied(&owners);
    let mut denials = before;
    let mut strangers = Vec::new();
    for storm in storms {
        let (worker, counts) = storm.stop();
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [no_access()], "a stranger got through: {counts:?}");
        denials += counts.values().sum::<u64>();
        strangers.push(worker);
    }
    let counted = agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
    assert_eq!(counted, denials, "each denial is counted once, across versions");
    assert_ne!(strangers[0].bind(&shared("127.0.0.1")), 0, "the port is held since before the upgrade");
    assert_eq!(strangers[0].bind(&bind(20082)), 0, "an unclaimed port is free");
    let binds = owners.values().sum::<u64>();
    figures::print(&[
        ("storm.upgrade_from_another_version.attempts", denials - before + binds),
        ("storm.upgrade_from_another_version.agents", swaps),
    ]);
    Completion::Completed
}
