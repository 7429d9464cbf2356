//! Parts of the siege: the tests of each, and the figures that they must print.

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use super::figures::Figures;

/// Part of the siege, in the order in which they run: the longest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Part {
    /// A day of API trouble, in simulated time
    Api,
    /// Agents killed after every step of a start, an upgrade and a cleanup
    Steps,
    /// Attempts to bind while agents are killed and replaced
    Storm,
    /// Ends of sockets, after each of which the port is free
    Ghosts,
    /// Two pods that bind one port in the same moment
    Races,
    /// Pods that come and go, a hundred a second
    Soak,
}

/// A test by its executable, as `cargo xtask test` names it, and its name there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) executable: &'static str,
    pub(super) name: &'static str,
}

/// A figure that a part must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Name behind that of the part.
    pub(super) name: &'static str,
    /// Words of the page for it.
    pub(super) text: &'static str,
    pub(super) limit: Limit,
}

/// Value that a figure must have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// Any.
    Any,
    /// This one.
    Exactly(u64),
    /// This or more in full length, and one or more in short forms.
    AtLeast(u64),
    /// This or less.
    AtMost(u64),
    /// In full length, that of the other figure of the part.
    SameAs(&'static str),
    /// At most so much more than that of the other figure of the part.
    AtMostAbove(&'static str, u64),
}

const AGENT: &str = "enforcer/agent";
const KERNEL: &str = "enforcer/kernel";
const CORE: &str = "enforcer-core (library)";

const fn test(executable: &'static str, name: &'static str) -> Test {
    Test { executable, name }
}

const fn expect(name: &'static str, text: &'static str, limit: Limit) -> Expected {
    Expected { name, text, limit }
}

use Limit::{Any, AtLeast, AtMost, AtMostAbove, Exactly, SameAs};

const API: &[Expected] = &[
    expect("seed", "seed of the run (`PORT_ENFORCER_TEST_SEED` repeats it)", Any),
    expect("hours", "simulated hours", AtLeast(24)),
    expect("pods", "pods created", AtLeast(1000)),
    expect("edits", "pods whose claim was edited", AtLeast(1)),
    expect("forced_deletions", "pods deleted by force", AtLeast(1)),
    expect("updates", "updates of a watch", AtLeast(1000)),
    expect("reordered_updates", "updates that came before earlier ones of other pods", AtLeast(1)),
    expect("outages", "outages, of the server, the node or the agent alone", AtLeast(1)),
    expect("outage_seconds", "seconds of outages", AtLeast(1)),
    expect("throttles", "times in which the server refused calls (429)", AtLeast(1)),
    expect("watches_lost", "watches lost", AtLeast(1)),
    expect("gone", "watches that could not go on from their place (410)", AtLeast(1)),
    expect("lists", "lists", AtLeast(1)),
    expect("partial_lists", "lists that broke off", AtLeast(1)),
    expect("stale_lists", "lists of an older version", AtLeast(1)),
    expect("agent_restarts", "restarts of the agent", AtLeast(1)),
    expect("verdicts", "verdicts compared with the model", AtLeast(1_000_000)),
    expect("checks_in_outages", "checks that an owner kept its port in an outage", AtLeast(1000)),
    expect("checks_in_step", "seconds in which the agent had all updates, and agreed with the cluster", AtLeast(1000)),
    expect("events_published", "calls about Events that succeeded", AtLeast(1)),
    expect("event_calls_failed", "calls about Events that failed", AtLeast(1)),
    expect("ledger_writes", "writes of the ledger", AtLeast(1)),
    expect("ledger_calls_failed", "calls about the ledger that failed", AtLeast(1)),
    expect("ledgers_deleted", "ledgers deleted by somebody", AtLeast(1)),
    expect("taints", "startup taints", AtLeast(1)),
    expect("taints_removed", "startup taints removed", SameAs("taints")),
    expect("most_owners", "most owners in memory: the node, and 40 pods at once", AtMost(41)),
    expect("most_event_series", "most series of Events in memory", AtMost(8192)),
];

const STEPS: &[Expected] = &[
    expect("first_start.all", "steps of a first start", AtLeast(1)),
    expect("first_start.killed", "killed after", SameAs("first_start.all")),
    expect("upgrade.all", "steps of an upgrade", AtLeast(1)),
    expect("upgrade.killed", "killed after", SameAs("upgrade.all")),
    expect("end_of_persistence.all", "steps of a start with `--persist false`", AtLeast(1)),
    expect("end_of_persistence.killed", "killed after", SameAs("end_of_persistence.all")),
    expect("cleanup.all", "steps of a cleanup", AtLeast(1)),
    expect("cleanup.killed", "killed after", SameAs("cleanup.all")),
    expect("recovery.killed", "kills while another killed start or upgrade is healed", AtLeast(6)),
];

const STORM: &[Expected] = &[
    expect("attempts", "attempts to bind", AtLeast(10_000_000)),
    expect("attempts_of_strangers", "of them by pods that do not own the port", AtLeast(1)),
    expect("strangers_through", "of those allowed", Exactly(0)),
    expect("attempts_of_the_owner", "attempts of the owner", AtLeast(1)),
    expect("owner_refused", "of those denied", Exactly(0)),
    expect("kills", "agents killed (SIGKILL) and replaced", AtLeast(12)),
    expect("orderly_ends", "agents ended and replaced by one with other programs, as in an upgrade", AtLeast(12)),
];

const STORM_FROM_ANOTHER_VERSION: &[Expected] = &[
    expect(
        "upgrade_from_another_version.attempts",
        "attempts during an upgrade from another version",
        AtLeast(1_000_000),
    ),
    expect("upgrade_from_another_version.agents", "agents that replaced each other then", AtLeast(3)),
];

const GHOSTS: &[Expected] = &[
    expect("closed", "sockets closed, of seven kinds", AtLeast(7 * 1000)),
    expect("inherited", "sockets closed whose child was killed, which had them too", AtLeast(2 * 1000)),
    expect("passed", "sockets passed to another process, which closed them", AtLeast(3 * 1000)),
    expect("killed", "processes killed", AtLeast(3 * 1000)),
    expect("restarted_container", "containers of a pod that replaced each other", AtLeast(1000)),
    expect(
        "restarted_agent",
        "sockets closed under another agent than they were bound under, or none",
        AtLeast(2 * 1000),
    ),
];

const RACES: &[Expected] = &[
    expect("kinds", "kinds of sockets", Exactly(7)),
    expect("rounds", "races", AtLeast(700_000)),
    expect("one_holder", "races with one holder", SameAs("rounds")),
    expect("two_holders", "races with two", Exactly(0)),
    expect("no_holder", "races with none", Exactly(0)),
];

const SOAK: &[Expected] = &[
    expect("seconds", "seconds", AtLeast(30 * 60)),
    expect("pods", "pods that came, bound a port and went", AtLeast(171_000)),
    expect("kib_after_half", "KiB of memory of the agent's own after half of the time", AtLeast(1)),
    expect("kib_at_the_end", "KiB at the end", AtMostAbove("kib_after_half", 4096)),
];

const GHOST_TESTS: &[Test] = &[
    test(KERNEL, "socket_holds::closed_port_is_free"),
    test(KERNEL, "socket_holds::inherited_socket_holds_port_until_child_exits"),
    test(KERNEL, "socket_holds::passed_socket_holds_port_until_receiver_exits"),
    test(KERNEL, "socket_holds::killed_process_holds_no_port"),
    test(KERNEL, "socket_holds::restarted_container_keeps_its_port"),
    test(KERNEL, "socket_holds::held_port_survives_agent_restart"),
];

const STEP_TESTS: &[Test] = &[
    test(KERNEL, "crash_points::first_start_killed_at_each_step_recovers"),
    test(KERNEL, "crash_points::upgrade_killed_at_each_step_recovers"),
    test(KERNEL, "crash_points::recovery_killed_at_each_step_recovers"),
    test(KERNEL, "crash_points::end_of_persistence_killed_at_each_step_recovers"),
    test(KERNEL, "crash_points::cleanup_killed_at_each_step_recovers"),
];

impl Part {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns the heading of the page.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Api => "A day of API trouble",
            Self::Steps => "Every step killed",
            Self::Storm => "A storm of binds",
            Self::Ghosts => "Ghosts",
            Self::Races => "Races",
            Self::Soak => "Churn",
        }
    }

    /// Returns what the page says of it.
    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Api => {
                "The rules of the agent, without kernel and network, against an API server, a kubelet and users that are a\n\
                 seeded random model, in simulated time. At every second, the verdict on every port is compared with a simple\n\
                 model of who must have it. Nobody who has a port loses it in an outage; when the agent has all updates, what is\n\
                 in force is what the cluster says; calls keep their pace, and become few when they fail; at the end, when all\n\
                 pods are gone, nothing is left in the maps."
            }
            Self::Steps => {
                "An agent, or `enforcer cleanup`, is killed (SIGKILL) after each step that outlives it. Whatever judged before\n\
                 judges on, and the next start heals what was left half-way."
            }
            Self::Storm => {
                "Eight pods try to bind the port of another one as fast as the machine can, and so does the owner, while agents\n\
                 are killed, ended and replaced. Each denial is counted once."
            }
            Self::Ghosts => {
                "A ghost is the hold of a socket that is gone: its port would stay denied to others. After each end, another pod\n\
                 binds the port within a second, and at the end of each test no hold is left in the kernel."
            }
            Self::Races => {
                "Two pods bind one port, which nobody claims and sockets could share, in the same moment: one port over and over,\n\
                 and 10,000 ports in turn."
            }
            Self::Soak => {
                "Pods come, bind their port, are killed and go, a hundred a second, and a stranger tries each port. The real\n\
                 agent watches them at an API server. No owner is denied, no stranger gets through, nothing of them is left in\n\
                 the kernel, and the agent's memory stays flat."
            }
        }
    }

    /// Returns its tests. With a binary of another version, an upgrade from it belongs to the storm.
    pub(super) fn tests(self, has_predecessor: bool) -> Vec<Test> {
        match self {
            Self::Api => vec![test(CORE, "index::tests::api_trouble::a_day_of_api_trouble_takes_nothing_from_owners")],
            Self::Steps => STEP_TESTS.to_vec(),
            Self::Storm => {
                let upgrade = test(AGENT, "upgrade::upgrade_under_load_leaves_no_gap");
                let storm = test(AGENT, "absence::restart_under_load_leaves_no_gap");
                [storm].into_iter().chain(has_predecessor.then_some(upgrade)).collect()
            }
            Self::Ghosts => GHOST_TESTS.to_vec(),
            Self::Races => vec![test(KERNEL, "socket_holds::one_of_two_racing_pods_holds_port")],
            Self::Soak => vec![test(AGENT, "soak::pod_churn_leaves_no_residue")],
        }
    }

    /// Returns the figures of its tests.
    pub(super) fn expected(self, has_predecessor: bool) -> Vec<Expected> {
        let (all, more) = match self {
            Self::Api => (API, None),
            Self::Steps => (STEPS, None),
            Self::Storm => (STORM, has_predecessor.then_some(STORM_FROM_ANOTHER_VERSION)),
            Self::Ghosts => (GHOSTS, None),
            Self::Races => (RACES, None),
            Self::Soak => (SOAK, None),
        };
        all.iter().chain(more.into_iter().flatten()).copied().collect()
    }

    /// Returns the full name of one of its figures.
    pub(super) fn figure(self, name: &str) -> String {
        format!("{}.{name}", self.name())
    }

    /// Checks the figures of a run: those that are expected, no other, and each within its limit.
    pub(super) fn check(self, figures: &Figures, expected: &[Expected], quick: bool) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        for Expected { name, limit, .. } in expected {
            let value = |name: &str| {
                let name = self.figure(name);
                figures.get(&name).with_context(|| format!("the figure `{name}` was not printed"))
            };
            if let Err(error) = value(name).and_then(|found| limit.check(found, value, quick)) {
                problems.push(format!("{}: {error:#}", self.figure(name)));
            }
        }
        let is_expected = |figure: &&str| expected.iter().any(|expected| self.figure(expected.name) == **figure);
        let others = figures.names().filter(|figure| !is_expected(figure));
        problems.extend(others.map(|figure| format!("{figure}: no such figure is expected")));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

impl Limit {
    fn check(self, found: u64, other: impl Fn(&str) -> anyhow::Result<u64>, quick: bool) -> anyhow::Result<()> {
        match self {
            Self::Any => {}
            Self::Exactly(value) => ensure!(found == value, "it is {found}, and must be {value}"),
            Self::AtLeast(value) => {
                let least = if quick { 1 } else { value };
                ensure!(found >= least, "it is {found}, and must be {least} or more");
            }
            Self::AtMost(most) => ensure!(found <= most, "it is {found}, and may be {most}"),
            Self::SameAs(name) => {
                let value = other(name)?;
                ensure!(quick || found == value, "it is {found}, and `{name}` is {value}");
            }
            Self::AtMostAbove(name, more) => {
                let most = other(name)? + more;
                ensure!(found <= most, "it is {found}, and may be {most}");
            }
        }
        Ok(())
    }

    /// Returns the words of the page for it.
    pub(super) fn words(self, thousands: impl Fn(u64) -> String) -> String {
        match self {
            Self::Any => String::new(),
            Self::Exactly(value) => thousands(value),
            Self::AtLeast(1) => "some".to_owned(),
            Self::AtLeast(value) => format!("≥ {}", thousands(value)),
            Self::SameAs(_) => "all".to_owned(),
            Self::AtMost(value) => format!("≤ {}", thousands(value)),
            Self::AtMostAbove(_, more) => format!("≤ {} more", thousands(more)),
        }
    }
}
