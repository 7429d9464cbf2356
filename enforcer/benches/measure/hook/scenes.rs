//! What processes do at the hooks, as users do it: each scene with the agent as shipped, and the same system calls in
//! the same order with empty programs.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::RangeInclusive,
};

use enforcer_ebpf::wire::{BindEvent, VERDICT_RING_BYTES};

use super::{
    MAX_ROUNDS,
    comparison::{Attachment, Case, Comparison},
    samples::EMPTY,
    shipped_agent::ShippedAgent,
};
use crate::{
    comparison_programs::{self, Hook},
    driver::Order,
    twins::{Twin, TwinPath},
};

/// The first port that the pod `owner` claims.
pub(super) const CLAIMED: u16 = 20_001;
/// How many it claims from there on: as many as a turn and its warm-up bind.
const CLAIMED_COUNT: u16 = 1000;
/// All of them.
pub(crate) const CLAIMED_PORTS: RangeInclusive<u16> = CLAIMED..=CLAIMED + CLAIMED_COUNT - 1;
/// From here on each port is bound once, by an agent's processes: so many in a turn, and so many in its warm-up.
const FRESH: u16 = 21_500;
const FRESH_TURN: u16 = 500;
const FRESH_WARM_UP: u32 = 50;
/// From here on nobody claims anything, and the ports are bound in every turn.
const UNCLAIMED: u16 = 44_000;
const _: () = assert!(
    FRESH as usize + 2 * MAX_ROUNDS * (FRESH_TURN as usize + FRESH_WARM_UP as usize) <= UNCLAIMED as usize,
    "there are fewer ports than turns would bind"
);
/// Nobody claims it and somebody outside has it, so that the kernel refuses it when the programs have had their say.
pub(super) const REFUSED: u16 = 51_000;
/// The first port of the rules, none of which matches.
const RULES: u16 = 52_000;
/// Cycles per turn: few enough that what the programs emit fits into the rings.
pub(crate) const TURN: u32 = 1000;
/// More binds than there is room for in the ring of verdicts.
pub(super) const FILL: u32 = 2 * VERDICT_RING_BYTES / size_of::<BindEvent>() as u32;
/// Nanoseconds between two binds of which the agent can read every record while they go on.
const PACE_NS: u32 = 50_000;

/// What a process does, in a pod of an agent and in a cgroup with empty programs.
struct Scene {
    name: &'static str,
    /// What it is compared with.
    empty: &'static str,
    order: Order,
    /// Where it is another one than the tenth of a turn.
    warm_up: Option<u32>,
    advances: bool,
    place: Place,
}

/// The pod and the agent of a scene.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Owner,
    Stranger,
    /// A stranger whose binds fail.
    Denied,
    /// A stranger where the agent only audits.
    Audited,
}

const fn walk(port: u16) -> Order {
    Order { port, ports: TURN as u16, times: TURN, reuse: false, bind: true, period_ns: 0, evicts_caches: false }
}

const fn one(port: u16) -> Order {
    Order { ports: 1, ..walk(port) }
}

const fn scene(name: &'static str, empty: &'static str, order: Order) -> Scene {
    Scene { name, empty, order, warm_up: None, advances: false, place: Place::Stranger }
}

const SCENES: [Scene; 13] = [
    // Ports that were never bound before.
    Scene {
        warm_up: Some(FRESH_WARM_UP),
        advances: true,
        ..scene("fresh", "empty-fresh", Order { ports: FRESH_TURN, times: FRESH_TURN as u32, ..walk(FRESH) })
    },
    // Ports that were bound a second or so ago.
    scene("unclaimed", "empty", walk(UNCLAIMED)),
    // One port, bound again at once.
    scene("again", "empty-again", one(50_000)),
    // A bind that the kernel itself refuses, after the program.
    scene("refused", "empty-refused", one(REFUSED)),
    Scene { place: Place::Owner, ..scene("owned", "empty-owned", owned()) },
    Scene {
        place: Place::Denied,
        ..scene("denied-paced", "empty-paced", Order { period_ns: PACE_NS, ..one(CLAIMED) })
    },
    // As fast as possible, while the ring is full: most are counted and not reported.
    Scene {
        place: Place::Denied,
        warm_up: Some(FILL),
        ..scene("denied-flood", "empty-flood", Order { times: 2 * TURN, ..one(CLAIMED) })
    },
    Scene { place: Place::Audited, ..scene("audited", "empty-paced", Order { period_ns: PACE_NS, ..one(CLAIMED) }) },
    // The first pod to bind a port owns it.
    scene("adopted", "empty-reuse", Order { reuse: true, ..walk(46_000) }),
    // A socket that is never bound.
    scene("unbound", "empty-unbound", Order { bind: false, ..walk(UNCLAIMED) }),
    // A few binds after a pause.
    Scene { warm_up: Some(0), ..scene("burst", "empty-burst", Order { ports: 50, times: 50, ..walk(48_000) }) },
    // Each bind with nothing in the caches.
    Scene {
        warm_up: Some(5),
        ..scene("cold", "empty-cold", Order { ports: 50, times: 50, evicts_caches: true, ..walk(49_000) })
    },
    // The same, in the pod that owns the port.
    Scene {
        place: Place::Owner,
        warm_up: Some(5),
        ..scene("owned-cold", "empty-cold", Order { ports: 50, times: 50, evicts_caches: true, ..walk(CLAIMED) })
    },
];

const fn owned() -> Order {
    let ports = CLAIMED_COUNT - CLAIMED_COUNT / 10;
    Order { ports, times: ports as u32, ..walk(CLAIMED) }
}

/// Lists of rules and how long they are.
const RULE_LISTS: [(&str, u32); 3] = [("rules-1", 1), ("rules-16", 16), ("rules-128", 128)];

/// The C twins: the name, which way through the decision it takes, what of ours it is compared with, and what it does.
const TWINS: [(&str, TwinPath, &str, Order); 3] = [
    ("twin-unclaimed", TwinPath::Unclaimed, "unclaimed", walk(UNCLAIMED)),
    ("twin-owned", TwinPath::Owned, "owned", owned()),
    ("twin-denied", TwinPath::Denied, "denied", one(CLAIMED)),
];

impl Scene {
    fn case(&self, name: &str, attachment: usize, driver: usize) -> Case {
        let case = Case::new(name, attachment, driver, self.order);
        Case { warm_up: self.warm_up.unwrap_or(case.warm_up), advances: self.advances, ..case }
    }

    /// Whether the kernel refuses the binds, whatever the programs say.
    fn is_refused(&self) -> bool {
        self.order.bind && self.order.port == REFUSED
    }
}

/// Returns which case is divided by which.
pub(super) fn compared() -> Vec<(String, String)> {
    let mut pairs = vec![("none", EMPTY), ("adopted", "unclaimed"), ("denied", "empty-again")];
    pairs.extend(SCENES.iter().map(|scene| (scene.name, scene.empty)));
    pairs.extend(
        RULE_LISTS
            .iter()
            .flat_map(|(list, _)| [(*list, EMPTY), ("unclaimed", list), ("owned", list), ("denied", list)]),
    );
    pairs.extend(TWINS.iter().map(|(twin, _, ours, _)| (*ours, *twin)));
    pairs.into_iter().map(|(case, base)| (case.to_owned(), base.to_owned())).collect()
}

/// Adds what the agents are compared with: no program, the empty ones, and lists of rules.
pub(super) fn add_references(comparison: &mut Comparison) -> anyhow::Result<()> {
    let (attachment, driver) = comparison.attach_programs("none", (), |_| Ok(None))?;
    comparison.add(Case::new("none", attachment, driver, walk(UNCLAIMED)));

    let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, REFUSED))?;
    let empty = |hook| if Hook::OURS.contains(&hook) { comparison_programs::empty(hook).map(Some) } else { Ok(None) };
    let (attachment, driver) = comparison.attach_programs(EMPTY, holder, empty)?;
    let mut seen = Vec::new();
    for scene in &SCENES {
        if !seen.contains(&scene.empty) {
            seen.push(scene.empty);
            comparison.add(Case { fails: scene.is_refused(), ..scene.case(scene.empty, attachment, driver) });
        }
    }

    for (name, count) in RULE_LISTS {
        let (attachment, driver) = comparison.attach_programs(name, (), |hook| match hook {
            Hook::Bind4 => comparison_programs::rules(count, RULES.into()).map(Some),
            _ => Ok(None),
        })?;
        comparison.add(Case::new(name, attachment, driver, walk(UNCLAIMED)));
    }
    Ok(())
}

/// Adds an agent that enforces and one that audits, and what happens with them.
pub(super) fn add_shipped_agents(comparison: &mut Comparison) -> anyhow::Result<()> {
    let claims = format!("{}-{}", CLAIMED_PORTS.start(), CLAIMED_PORTS.end());
    for mode in ["enforce", "audit"] {
        let agent = ShippedAgent::start(mode, &claims)?;
        let (owner, stranger) = (agent.owner.clone(), agent.stranger.clone());
        let attachment = comparison.attach(Attachment::of_agent(agent)?);
        let (owner, stranger) = (comparison.drive(&owner)?, comparison.drive(&stranger)?);
        for scene in SCENES.iter().filter(|scene| (scene.place == Place::Audited) == (mode == "audit")) {
            let driver = if scene.place == Place::Owner { owner } else { stranger };
            let fails = scene.is_refused() || scene.place == Place::Denied;
            comparison.add(Case { fails, ..scene.case(scene.name, attachment, driver) });
        }
    }
    Ok(())
}

/// Adds the C twins, each on a cgroup of its own with empty programs at the other hooks.
pub(super) fn add_twins(comparison: &mut Comparison, object: &[u8]) -> anyhow::Result<()> {
    for (name, path, _, order) in TWINS {
        let root = comparison.sandbox().make(name);
        let pod = comparison.sandbox().make(&format!("{name}/class/pod"));
        let twin = Twin::load(object, path, &root, &pod)?;
        let attachment = Attachment::of_programs(&root, (), |hook| match hook {
            Hook::Bind4 => twin.program().try_clone_to_owned().map(Some),
            Hook::PostBind4 | Hook::SockRelease => comparison_programs::empty(hook).map(Some),
            Hook::SockCreate => Ok(None),
        })?;
        let attachment = comparison.attach(attachment.of_twin(twin));
        let driver = comparison.drive(&comparison.sandbox().make(&format!("{name}/class/pod/container")))?;
        comparison.add(Case { fails: path == TwinPath::Denied, ..Case::new(name, attachment, driver, order) });
    }
    Ok(())
}
