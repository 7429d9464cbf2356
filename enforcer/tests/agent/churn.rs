//! Many pods that come, change and go fast, with a stream that breaks: who owns a port is never denied, who does not is
//! never let in, and at the end the kernel holds what the rules say.
//!
//! The short form always runs; with `PORT_ENFORCER_TEST_FULL=1` in the environment it is 5,000 pods and 200 changes a
//! second for 30 seconds.

mod model;

use std::{
    collections::BTreeSet,
    env, fs, thread,
    time::{Duration, Instant},
};

use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};

use self::model::{Claim, Dice, Model};
use enforcer_testing::{
    agent::Agent,
    agent_fixture::{AgentFixture, bind},
    apiserver::{ApiServer, Fault, Interruption, Outage, Target},
    pods::Pod,
    tests,
    worker::Bind,
};

use crate::{
    Test,
    backend::{Backend, start_synced},
    bind_load::{Counts, DENY_EACCES, Load, assert_never_denied, no_access},
    read_claims_in_force::{ClaimPart, claims_in_force},
};

pub(crate) const TESTS: &[Test] = tests![kernel_maps_match_the_model_under_churn];

const PODS: Target = Target::ALL.resource("pods");
/// How long the agent may take at the end to catch up with all that was changed.
const CATCHING_UP: Duration = Duration::from_mins(1);
/// How many claims are tried by real binds at the end.
const SAMPLE: usize = 20;

/// How much of it.
struct Size {
    pods: usize,
    changes: u32,
    per_second: u32,
    cuts: u32,
}

impl Size {
    fn chosen() -> Self {
        if env::var("PORT_ENFORCER_TEST_FULL").is_ok_and(|full| full == "1") {
            Self { pods: 5000, changes: 6000, per_second: 200, cuts: 10 }
        } else {
            Self { pods: 500, changes: 600, per_second: 200, cuts: 3 }
        }
    }
}

struct ChurnFixture {
    fixture: AgentFixture,
    server: ApiServer,
    model: Model,
    dice: Dice,
    steady: Vec<Claim>,
}

impl ChurnFixture {
    fn new(pods: usize) -> Self {
        let steady: Vec<Claim> = (22000..22016).map(Claim::tcp).collect();
        let mut churn = Self {
            fixture: AgentFixture::new(),
            server: ApiServer::start(),
            model: Model::default(),
            dice: Dice::new(88_172_645),
            steady,
        };
        for (number, claims) in churn.steady.chunks(4).enumerate() {
            churn.model.come(&format!("steady-{number}"), claims.to_vec()).stays = true;
        }
        churn.model.found_groups();
        while churn.model.members.len() < pods {
            churn.model.come_by_chance(&mut churn.dice, &churn.steady);
        }
        for member in &mut churn.model.members {
            member.old = true;
            churn.fixture.make_container_cgroup(member.pod().uid_text());
            churn.server.put(&member.pod());
        }
        churn
    }

    /// Something happens to some pod.
    fn change(&mut self) {
        let Self { fixture, server, model, dice, steady } = self;
        let kind = dice.below(20);
        if kind < 7 {
            let pod = model.come_by_chance(dice, steady).pod();
            // The pod may be told before its cgroup is there, or after.
            if dice.below(2) == 0 {
                fixture.make_container_cgroup(pod.uid_text());
                server.put(&pod);
            } else {
                server.put(&pod);
                fixture.make_container_cgroup(pod.uid_text());
            }
            return;
        }
        let place = dice.below(model.members.len());
        if model.members[place].stays {
            return;
        }
        if kind < 14 {
            let member = model.members.swap_remove(place);
            let pod = member.pod();
            let object_first = dice.below(2) == 0;
            if object_first {
                server.delete(&pod);
            }
            if member.cgroup {
                fixture.remove_cgroup(pod.uid_text());
            }
            if !object_first {
                server.delete(&pod);
            }
            return;
        }
        let private = model.private_claim();
        let member = &mut model.members[place];
        match kind {
            14 | 15 => member.claims.push(private),
            16 if member.claims.is_empty() => {}
            16 => drop(member.claims.swap_remove(dice.below(member.claims.len()))),
            17 => Backend::ask_to_go(server, &member.pod(), Duration::from_secs(30)),
            18 => member.succeed(),
            // The object stays, as it does with a finalizer. Of who came lately the agent may not have seen the cgroup.
            _ if member.old && member.cgroup => {
                member.end();
                fixture.remove_cgroup(member.pod().uid_text());
            }
            _ => {}
        }
        server.put(&member.pod());
    }

    /// Breaks the stream of pods: the agent goes on where it was, or has to read the whole list anew, or that breaks off
    /// too until what this gives back is dropped.
    fn cut(&self, number: u32) -> Option<Outage> {
        let outage = (number % 3 == 2).then(|| self.server.fault(PODS.verb("watch"), Fault::CutWatchAfter(100)));
        let kind = if number.is_multiple_of(3) { Interruption::Cut } else { Interruption::Gone };
        self.server.interrupt(PODS, kind);
        outage
    }

    /// Changes the pods at a steady rate, and breaks the stream so often: how many changes a second there were.
    fn churn(&mut self, size: &Size, mut besides: impl FnMut(&ApiServer, u32)) -> f64 {
        let begin = Instant::now();
        let interval = size.changes / size.cuts;
        let mut outage = None;
        for number in 0..size.changes {
            let due = Duration::from_secs(1) / size.per_second * number;
            thread::sleep(due.saturating_sub(begin.elapsed()));
            self.change();
            besides(&self.server, number);
            if number % interval == interval / 2 {
                outage = self.cut(number / interval);
            } else if number % interval == interval - 1 {
                drop(outage.take());
            }
        }
        f64::from(size.changes) / begin.elapsed().as_secs_f64()
    }

    /// Waits until the kernel holds what the rules say: how long that took, or what is otherwise in the end.
    fn until_held(&self, agent: &Agent) -> Result<Duration, String> {
        let begin = Instant::now();
        loop {
            let differences = match claims_in_force(agent) {
                Ok(held) => self.model.differences(&held),
                Err(mixture) => vec![mixture],
            };
            if differences.is_empty() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > CATCHING_UP {
                let shown = &differences[..differences.len().min(20)];
                return Err(format!("{} differences: {shown:#?}", differences.len()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the kernel by real binds: who owns some port may bind it, and nobody else.
    fn try_some(&mut self) {
        let mut nobody = self.fixture.worker(&Pod::new("nobody"));
        let in_force: Vec<(u16, String)> = self
            .model
            .in_force()
            .into_iter()
            .filter(|((protocol, _, part), _)| *protocol == Protocol::Tcp && *part == ClaimPart::AllV4)
            .map(|((_, port, _), owners)| (port, owners[0].to_owned()))
            .filter(|(port, _)| !self.steady.contains(&Claim::tcp(*port)))
            .collect();
        for _ in 0..SAMPLE {
            let (port, owner) = &in_force[self.dice.below(in_force.len())];
            assert_eq!(nobody.bind(&bind(*port)), no_access(), "{port}");
            assert_eq!(self.fixture.worker_with_uid(owner).bind(&bind(*port)), 0, "{port}");
        }
    }
}

fn binds(ports: &[u16]) -> Vec<Bind> {
    ports.iter().map(|port| bind(*port)).collect()
}

/// Lifts the loads: how often each error number came to all of them.
fn lift(loads: Vec<Load>) -> Counts {
    let mut all = Counts::new();
    for (errno, count) in loads.into_iter().flat_map(|load| load.stop().1) {
        *all.entry(errno).or_default() += count;
    }
    all
}

fn kernel_maps_match_the_model_under_churn() {
    let size = Size::chosen();
    let mut churn = ChurnFixture::new(size.pods);
    // A denial is not to be mistaken for the kernel's own word that a port is in use.
    let mut agent = start_synced(&churn.fixture, &churn.server, &DENY_EACCES);
    let first = churn.until_held(&agent).unwrap_or_else(|differences| panic!("{differences}"));

    let steady: Vec<u16> = churn.steady.iter().map(|claim| claim.port).collect();
    let mut owners: Vec<Load> = Vec::new();
    for (ports, member) in steady.chunks(4).zip(&churn.model.members) {
        owners.push(Load::start(churn.fixture.worker(&member.pod()), binds(ports)));
    }
    // Whose claim on the second port is edited in and out, and who comes and goes in whole: nobody else wants their
    // ports.
    let (restless, fickle) = (Pod::new("restless").ports("22100"), Pod::new("fickle").ports("22110"));
    churn.server.put(&restless);
    owners.push(Load::start(churn.fixture.worker(&restless), binds(&[22100, 22101])));
    owners.push(Load::start(churn.fixture.worker(&fickle), binds(&[22110])));
    let strangers: Vec<Load> = ["stranger-1", "stranger-2"]
        .map(|name| {
            let pod = Pod::new(name);
            churn.server.put(&pod);
            Load::start(churn.fixture.worker(&pod), binds(&steady))
        })
        .into();

    let rate = churn.churn(&size, |server, number| match number % 8 {
        0 => drop(server.put(&restless.clone().ports("22100 22101"))),
        2 => drop(server.put(&fickle)),
        4 => drop(server.put(&restless)),
        6 => server.delete(&fickle),
        _ => {}
    });
    for besides in [&restless, &fickle] {
        churn.server.delete(&churn.server.put(besides));
    }
    let lag = churn.until_held(&agent);
    let (owners, strangers) = (lift(owners), lift(strangers));
    let denials = agent.count(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
    let told = agent.drain_log();

    let size = (size.pods, size.changes, size.cuts);
    eprintln!(
        "\n    {size:?} pods, changes, cuts at {rate:.0} changes a second; the first list was enforced after {first:?}, the \
         last change after {}; binds of owners {owners:?}, of strangers {strangers:?}; {} lines of log, {} in the agent",
        lag.as_ref().map_or_else(|_| "no time".to_owned(), |lag| format!("{lag:?}")),
        told.len(),
        memory(&agent),
    );
    assert_never_denied(&owners);
    assert_eq!(strangers.keys().collect::<Vec<_>>(), [&no_access()], "a stranger was let in: {strangers:?}");
    assert_eq!(denials, strangers[&no_access()], "the kernel's own count of all that was denied");
    lag.unwrap_or_else(|differences| panic!("{differences}"));
    churn.try_some();
    let events: BTreeSet<&str> = told.iter().filter_map(|line| line["event"].as_str()).collect();
    let harmless =
        ["api_recovered", "api_error", "bind", "claim_conflict", "claim_granted", "kernel_error", "not_synced"];
    assert!(events.is_subset(&harmless.into()), "{events:?}");
}

/// The memory that the agent has in use, in words.
fn memory(agent: &Agent) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("the agent lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().to_owned()
}
