//! SIGKILL after every step that outlives the process: whatever judged before goes on, and the next start or cleanup
//! heals what was left half-way.
//!
//! A start takes a third of a second, so of steps that differ in nothing but the pin only the first and the last are
//! tried, unless `PORT_ENFORCER_TEST_EVERY_STEP` is 1. On a machine of the matrix, where it may take many seconds,
//! that is one of five of them. What switches a link is always tried.

use std::{
    collections::BTreeSet,
    env, thread,
    time::{Duration, Instant},
};

use enforcer::kernel::pins::clean_up;
use libtest_mimic::Completion;

use enforcer_testing::{
    figures,
    mini_agent::{MiniNode, PodSpec, Task, expected_pins, only_owner_may_bind, shared_bind},
    own_machine,
    reconciler_fixture::denied,
    tests,
    worker::Worker,
};

use crate::{
    DONE, Outcome, Test,
    cleanup::{counters, programs_counting_in, programs_of_an_agent},
};

pub(crate) const TESTS: &[Test] = tests![
    first_start_killed_at_each_step_recovers,
    upgrade_killed_at_each_step_recovers,
    recovery_killed_at_each_step_recovers,
    newer_of_two_live_generations_is_read,
    end_of_persistence_killed_at_each_step_recovers,
    cleanup_killed_at_each_step_recovers
];

const PORT: u16 = 20080;

/// What is tried, and what is checked around it.
struct FaultFixture {
    node: MiniNode,
    owner: Worker,
    stranger: Worker,
}

impl FaultFixture {
    fn new() -> Self {
        let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")]);
        let (owner, stranger) = (node.worker("owner"), node.worker("stranger"));
        Self { node, owner, stranger }
    }

    fn judged(&mut self) -> bool {
        only_owner_may_bind(&mut self.owner, &mut self.stranger, PORT)
    }

    /// Nobody judges.
    fn free(&mut self) -> bool {
        (self.owner.bind(&shared_bind(PORT)), self.stranger.bind(&shared_bind(PORT))) == (0, 0)
    }

    /// Whoever judges, the owner is not in anybody's way.
    fn owner_binds(&mut self) -> bool {
        let stranger = self.stranger.bind(&shared_bind(PORT));
        self.owner.bind(&shared_bind(PORT)) == 0 && [0, denied()].contains(&stranger)
    }

    fn clean_up(&mut self) {
        clean_up(&self.node.bpffs.folder()).expect("a cleanup").expect("no agent runs");
        assert!(!self.node.bpffs.folder().exists());
        assert!(self.free());
    }

    /// The generations that are pinned, in whatever state.
    fn generations(&self) -> usize {
        let pins = self.node.bpffs.list();
        let names = pins.iter().filter_map(|pin| pin.strip_prefix("v3/g")?.split('/').next());
        names.collect::<BTreeSet<_>>().len()
    }

    /// A start over what there is: everything is in order then, and nothing is left of what was before.
    fn heals(&mut self, after: &str) {
        drop(self.node.start());
        assert!(self.judged(), "{after}");
        let pins = self.node.bpffs.list();
        let generation = pins[0].split('/').nth(1).expect("a generation").to_owned();
        assert_eq!(pins, expected_pins(&generation), "{after}");
        let counters = counters(&self.node);
        // The kernel lets go of removed pins a moment later.
        let deadline = Instant::now() + Duration::from_secs(10);
        while programs_counting_in(counters) != programs_of_an_agent() {
            assert!(Instant::now() < deadline, "{after}: {} programs", programs_counting_in(counters));
            thread::yield_now();
        }
    }
}

/// Those that are tried.
fn chosen(steps: &[String]) -> Vec<&str> {
    let every = env::var("PORT_ENFORCER_TEST_EVERY_STEP").is_ok_and(|every| every == "1");
    let kind = |step: &str| step.rsplit_once([' ', '/']).map_or_else(String::new, |(kind, _)| kind.to_owned());
    let alike = |steps: &[String], step: &str| steps.iter().any(|other| kind(other) == kind(step));
    let of_five = own_machine::times(5) as usize;
    let steps = steps.iter().enumerate().filter(|(place, step)| {
        let middle = alike(&steps[..*place], step) && alike(&steps[place + 1..], step);
        every || step.starts_with("switched ") || !middle && place % 5 < of_five
    });
    steps.map(|(_, step)| step.as_str()).collect()
}

/// Builds without debug assertions have no such steps.
fn skip() -> Option<Outcome> {
    (!cfg!(debug_assertions)).then(|| Ok(Completion::ignored_with("a release build cannot be killed after a step")))
}

/// Prints how many steps were killed, and how many there are.
fn print_figures([killed, all]: [&str; 2], tried: usize, steps: usize) {
    figures::print(&[(killed, tried as u64), (all, steps as u64)]);
}

/// Each start but the first one begins over what the one before left half-way.
fn first_start_killed_at_each_step_recovers() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    let steps = fixture.node.run_task(Task::RunPersistent);
    assert!(fixture.judged());
    fixture.clean_up();
    let tried = chosen(&steps);
    for (place, step) in tried.iter().enumerate() {
        fixture.node.kill_after(Task::RunPersistent, step);
        assert!(fixture.owner_binds(), "{step}");
        assert!(fixture.generations() <= 1, "{step}: {:?}", fixture.node.bpffs.list());
        // Once a link is pinned, the next start is no first one any more.
        if ["pinned the new ", "put in place ", "kept the new "].iter().any(|done| step.starts_with(done)) {
            fixture.heals(step);
            fixture.clean_up();
        } else if place % 2 == 0 {
            fixture.clean_up();
        }
    }
    fixture.heals("the last step");
    print_figures(["steps.first_start.killed", "steps.first_start.all"], tried.len(), steps.len());
    DONE
}

fn upgrade_killed_at_each_step_recovers() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    drop(fixture.node.start());
    let steps = fixture.node.run_task(Task::RunPersistent);
    let tried = chosen(&steps);
    for step in &tried {
        fixture.node.kill_after(Task::RunPersistent, step);
        assert!(fixture.judged(), "there is no gap: {step}");
        assert!(fixture.generations() <= 3, "{step}: {:?}", fixture.node.bpffs.list());
    }
    fixture.heals("the last step");
    print_figures(["steps.upgrade.killed", "steps.upgrade.all"], tried.len(), steps.len());
    DONE
}

fn recovery_killed_at_each_step_recovers() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    drop(fixture.node.start());
    let mut kills = 0;
    for (half_way, then) in [
        (
            "pinned the link cgroup_rmdir",
            ["removed the half-made links/cgroup_mkdir", "removed the half-made maps/PORTS"],
        ),
        ("switched the link bind6", ["retired the links/cgroup_mkdir", "retired the programs/post_bind6"]),
    ] {
        fixture.node.kill_after(Task::RunPersistent, half_way);
        kills += 1;
        for step in then {
            fixture.node.kill_after(Task::RunPersistent, step);
            assert!(fixture.judged(), "{step}");
            kills += 1;
        }
        fixture.heals(half_way);
    }
    figures::print(&[("steps.recovery.killed", kills)]);
    DONE
}

fn newer_of_two_live_generations_is_read() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    drop(fixture.node.start());
    fixture.node.pods.push(PodSpec::new("late", "20081/udp"));
    fixture.node.kill_after(Task::RunPersistent, "switched the link bind6");
    let agent = fixture.node.load();
    let held = agent.previous.as_ref().expect("an agent before this one").recover().expect("its maps");
    let claims: Vec<String> = held.owners.iter().flat_map(|owner| &owner.claims).map(ToString::to_string).collect();
    assert!(claims.contains(&"20081/udp".to_owned()), "{claims:?}");
    drop(agent);
    assert!(fixture.judged());
    DONE
}

fn end_of_persistence_killed_at_each_step_recovers() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    drop(fixture.node.start());
    let steps = fixture.node.run_task(Task::RunOnce);
    assert!(!fixture.node.bpffs.folder().exists());
    assert!(fixture.free());
    let tried = chosen(&steps);
    for step in &tried {
        drop(fixture.node.start());
        fixture.node.kill_after(Task::RunOnce, step);
        assert!(fixture.owner_binds(), "{step}");
        // What runs this process's programs ends with it.
        if let Some(hook) = step.strip_prefix("switched the link ") {
            assert!(!fixture.node.bpffs.list().contains(&format!("v3/links/{hook}")), "{step}");
        }
    }
    fixture.heals("the last step");
    print_figures(["steps.end_of_persistence.killed", "steps.end_of_persistence.all"], tried.len(), steps.len());
    DONE
}

fn cleanup_killed_at_each_step_recovers() -> Outcome {
    if let Some(skip) = skip() {
        return skip;
    }
    let mut fixture = FaultFixture::new();
    drop(fixture.node.start());
    let steps = fixture.node.run_task(Task::CleanUp);
    assert!(!fixture.node.bpffs.folder().exists());
    let tried: Vec<String> = chosen(&steps).into_iter().map(str::to_owned).collect();
    for (place, step) in tried.iter().enumerate() {
        // Over what the cleanup before left, or anew. The pins of every generation but the first have other names.
        if place % 2 == 0 {
            fixture.clean_up();
            drop(fixture.node.start());
        } else {
            fixture.heals(step);
            fixture.clean_up();
            drop(fixture.node.start());
        }
        fixture.node.kill_after(Task::CleanUp, step);
        assert!(fixture.owner_binds(), "{step}");
    }
    fixture.heals("the last step");
    print_figures(["steps.cleanup.killed", "steps.cleanup.all"], tried.len(), steps.len());
    DONE
}
