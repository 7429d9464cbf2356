//! The agent as shipped: `enforcer run` as a process of its own, on a processor that no driver uses. It reads the rings
//! and writes the holders of ports itself, and sleeps between.

use std::{
    fs,
    path::PathBuf,
    thread::{available_parallelism, sleep},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::maps::{Map, PerCpuArray};
use enforcer::kernel::CounterMap;
use enforcer_ebpf::wire::KernelError;
use enforcer_testing::{agent::Agent, agent_fixture::AgentFixture, pods::Pod};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The agent is asleep when it did not run for so long: more than its pause between two readings of a ring that wakes
/// it rarely.
pub(super) const QUIET: Duration = Duration::from_millis(60);

/// How long its sleep is waited for at most: it may have other work at any time.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An agent that enforces or audits, with a pod that claims ports and a pod that claims none. The agent ends first.
pub(crate) struct ShippedAgent {
    agent: Agent,
    counters: CounterMap,
    fixture: AgentFixture,
    /// Container cgroup of the pod that claims ports.
    pub(crate) owner: PathBuf,
    /// Container cgroup of the pod that claims none.
    pub(crate) stranger: PathBuf,
}

impl ShippedAgent {
    /// Starts it and waits until it is ready. `claims` is what the owner claims.
    pub(crate) fn start(mode: &str, claims: &str) -> anyhow::Result<Self> {
        let fixture = AgentFixture::new();
        let (owner, stranger) = (Pod::new("owner").ports(claims), Pod::new("stranger"));
        fixture.put(&owner);
        fixture.put(&stranger);
        let [owner, stranger] = [owner, stranger].map(|pod| fixture.make_container_cgroup(pod.uid_text()));
        // A process inherits the processors of the thread that starts it.
        let own = sched_getaffinity(None)?;
        let mut last = CpuSet::new();
        last.set(available_parallelism()?.get() - 1);
        sched_setaffinity(None, &last).context("choosing the agent's processor")?;
        let agent = fixture.agent(&["--mode", mode]);
        sched_setaffinity(None, &own)?;
        let counters = PerCpuArray::try_from(Map::PerCpuArray(agent.map("COUNTERS")))?;
        Ok(Self { agent, counters: CounterMap::new(counters), fixture, owner, stranger })
    }

    /// Returns the cgroup that the programs are attached to.
    pub(crate) fn root(&self) -> PathBuf {
        self.fixture.root()
    }

    /// Waits until the agent has read everything and sleeps.
    pub(super) fn wait_until_asleep(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut before = self.sum_of_threads("schedstat", |text| text.split_whitespace().next())?;
        while start.elapsed() < TIMEOUT {
            sleep(QUIET);
            let now = self.sum_of_threads("schedstat", |text| text.split_whitespace().next())?;
            if now == before {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// Returns how often its threads slept and were woken.
    pub(super) fn wakeups(&self) -> anyhow::Result<u64> {
        self.sum_of_threads("status", |text| {
            text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).map(str::trim)
        })
    }

    /// Returns how many attempts it was not told of since the ring was full.
    pub(super) fn lost(&self) -> anyhow::Result<u64> {
        Ok(self.counters.read()?.errors(KernelError::BindEventLost))
    }

    /// Adds up a number in this file of each thread.
    fn sum_of_threads(&self, file: &str, number: impl Fn(&str) -> Option<&str>) -> anyhow::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.agent.pid())).context("the agent has ended")? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path().join(file)) else { continue };
            let number = number(&text).and_then(|number| number.parse::<u64>().ok());
            sum += number.with_context(|| format!("a thread's {file} lacks the number"))?;
        }
        Ok(sum)
    }
}
