//! What is compared at once: programs on cgroups, processes in these, and the turns that they take.

use std::{
    any::Any,
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    thread::sleep,
};

use anyhow::{Context as _, ensure};
use aya::sys::{Stats, enable_stats};
use enforcer_testing::cgroup_sandbox::Sandbox;

use super::{
    samples::{Metric, Samples},
    scaling::ReconcilerUpkeep,
    shipped_agent::{QUIET, ShippedAgent},
};
use crate::{
    comparison_programs::{self, Hook},
    driver::{Driver, Order},
    twins::Twin,
};

/// Processor of all drivers, so that no two cases are compared on different ones.
const DRIVER_PROCESSOR: usize = 0;

/// Sockets that are never bound, some milliseconds long: a processor that was idle is slower at first, by more than what
/// is measured. No program keeps anything of them.
const WAKE_PROCESSOR: Order =
    Order { port: 0, ports: 1, times: 3000, reuse: false, bind: false, period_ns: 0, evicts_caches: false };

/// What keeps the programs of an attachment in step.
pub(super) enum Upkeep {
    /// Nothing: what the programs do depends on nobody.
    None,
    /// A reconciler in this process.
    Reconciler(Box<ReconcilerUpkeep>),
    /// The agent as shipped.
    Agent(ShippedAgent),
    /// Nobody, but it counts the binds that went the way that is measured.
    Twin(Twin),
}

/// Programs on a cgroup.
pub(crate) struct Attachment {
    programs: HashMap<Hook, OwnedFd>,
    upkeep: Upkeep,
    /// What lives as long as the attachment does.
    _kept: Box<dyn Any>,
}

impl Attachment {
    /// Attaches what the function returns for each hook to a cgroup, and keeps something as long as that.
    pub(super) fn of_programs(
        cgroup: &Path,
        kept: impl Any,
        program: impl Fn(Hook) -> io::Result<Option<OwnedFd>>,
    ) -> anyhow::Result<Self> {
        let (mut programs, mut links) = (HashMap::new(), Vec::new());
        let cgroup = File::open(cgroup)?;
        for hook in Hook::ALL {
            if let Some(program) = program(hook).with_context(|| format!("the program at {hook:?}"))? {
                let link = comparison_programs::attach(program.as_fd(), cgroup.as_fd(), hook);
                let refusal = || format!("the kernel does not attach the program at {hook:?}: is it of another hook?");
                links.push(link.with_context(refusal)?);
                programs.insert(hook, program);
            }
        }
        Ok(Self { programs, upkeep: Upkeep::None, _kept: Box::new((links, kept)) })
    }

    /// Finds the product's programs on a cgroup.
    pub(super) fn of_product(cgroup: &Path, upkeep: Upkeep) -> anyhow::Result<Self> {
        let programs = comparison_programs::product_programs(File::open(cgroup)?.as_fd())?;
        Ok(Self { programs, upkeep, _kept: Box::new(()) })
    }

    /// Finds the programs of an agent as shipped.
    pub(crate) fn of_agent(agent: ShippedAgent) -> anyhow::Result<Self> {
        let root = agent.root();
        Self::of_product(&root, Upkeep::Agent(agent))
    }

    /// Makes it that of a C twin.
    pub(super) fn of_twin(self, twin: Twin) -> Self {
        Self { upkeep: Upkeep::Twin(twin), ..self }
    }

    /// Returns what the kernel counted for each program: nanoseconds, and runs.
    fn statistics(&self) -> anyhow::Result<HashMap<Hook, (u64, u64)>> {
        self.programs.iter().map(|(hook, program)| Ok((*hook, statistics(program)?))).collect()
    }

    /// Returns how many binds went the way that is measured, if that is counted.
    fn counted(&self) -> anyhow::Result<Option<u64>> {
        if let Upkeep::Twin(twin) = &self.upkeep { twin.counted().map(Some) } else { Ok(None) }
    }

    /// Returns how often threads of the agent were woken, if it is a process of its own.
    fn wakeups(&self) -> anyhow::Result<Option<u64>> {
        if let Upkeep::Agent(agent) = &self.upkeep { agent.wakeups().map(Some) } else { Ok(None) }
    }

    /// Returns how many records of attempts did not fit into the ring, if there is an agent.
    fn lost(&self) -> anyhow::Result<Option<u64>> {
        if let Upkeep::Agent(agent) = &self.upkeep { agent.lost().map(Some) } else { Ok(None) }
    }
}

/// What is measured by turns.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Index of the programs.
    pub(crate) attachment: usize,
    /// Index of the process.
    pub(crate) driver: usize,
    /// What the process does in a turn.
    pub(crate) order: Order,
    /// Cycles before those that are measured. They bring everything back into the caches. Where several ports are bound
    /// in turn, they are on the ports after these.
    pub(crate) warm_up: u32,
    /// Whether each turn begins where the last one ended, so that no port is ever bound again.
    pub(crate) advances: bool,
    /// Whether the binds fail.
    pub(crate) fails: bool,
    /// Index of the pods that there are, in a reconciler with several sets of them.
    pub(crate) pod_set: usize,
}

impl Case {
    pub(crate) fn new(name: &str, attachment: usize, driver: usize, order: Order) -> Self {
        let warm_up = order.times / 10;
        Self { name: name.to_owned(), attachment, driver, order, warm_up, advances: false, fails: false, pod_set: 0 }
    }

    /// Returns the order of the warm-up.
    fn warm_up(&self) -> Order {
        let port = if self.order.ports > 1 { self.order.port + self.order.ports } else { self.order.port };
        Order { port, times: self.warm_up, ..self.order }
    }
}

/// Everything that is compared at once. The processes end first.
pub(crate) struct Comparison {
    drivers: Vec<Driver>,
    attachments: Vec<Attachment>,
    cases: Vec<Case>,
    sandbox: Sandbox,
}

impl Comparison {
    pub(crate) fn new() -> Self {
        Self { drivers: Vec::new(), attachments: Vec::new(), cases: Vec::new(), sandbox: Sandbox::new() }
    }

    /// Returns the cgroups of all that has none of its own.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Adds programs. Returns their index.
    pub(crate) fn attach(&mut self, attachment: Attachment) -> usize {
        self.attachments.push(attachment);
        self.attachments.len() - 1
    }

    /// Starts a process in a cgroup. Returns its index.
    pub(crate) fn drive(&mut self, cgroup: &Path) -> anyhow::Result<usize> {
        self.drivers.push(Driver::start(cgroup, DRIVER_PROCESSOR)?);
        Ok(self.drivers.len() - 1)
    }

    /// Attaches programs to a new cgroup and keeps something as long, and starts a process as deep below the cgroup as
    /// a container of a pod is below the product's programs. Returns both indexes.
    pub(crate) fn attach_programs(
        &mut self,
        name: &str,
        kept: impl Any,
        program: impl Fn(Hook) -> io::Result<Option<OwnedFd>>,
    ) -> anyhow::Result<(usize, usize)> {
        let root = self.sandbox.make(name);
        let attachment = Attachment::of_programs(&root, kept, program).with_context(|| name.to_owned())?;
        let container = self.sandbox.make(&format!("{name}/class/pod/container"));
        Ok((self.attach(attachment), self.drive(&container)?))
    }

    pub(crate) fn add(&mut self, case: Case) {
        self.cases.push(case);
    }

    /// Lets a process carry out an order that is not measured.
    pub(super) fn run(&mut self, driver: usize, order: &Order) -> anyhow::Result<()> {
        self.drivers[driver].run(order)?;
        Ok(())
    }

    /// Measures so many rounds in the kernel, and as many as a process sees it.
    pub(crate) fn measure(&mut self, part: &str, rounds: usize, samples: &mut Samples) -> anyhow::Result<()> {
        // Statistics cost time themselves, so user space is measured without them.
        for kernel in [true, false] {
            eprintln!("{part}: {rounds} rounds {}", if kernel { "in the kernel" } else { "as a process sees it" });
            let _statistics =
                kernel.then(|| enable_stats(Stats::RunTime)).transpose().context("run-time statistics")?;
            for round in 0..rounds {
                let mut order: Vec<usize> = (0..self.cases.len()).collect();
                order.rotate_left(round % self.cases.len());
                for place in order {
                    self.turn(place, kernel, samples)?;
                }
            }
        }
        Ok(())
    }

    /// Lets one case play, and adds what it took.
    fn turn(&mut self, place: usize, kernel: bool, samples: &mut Samples) -> anyhow::Result<()> {
        let case = &mut self.cases[place];
        let (attachment, driver) = (&mut self.attachments[case.attachment], &mut self.drivers[case.driver]);
        match &mut attachment.upkeep {
            // Each turn begins after a pause, since the agent's do.
            Upkeep::None | Upkeep::Twin(_) => sleep(QUIET),
            Upkeep::Reconciler(reconciler) => {
                sleep(QUIET);
                reconciler.prepare(case.pod_set)?;
            }
            Upkeep::Agent(agent) => agent.wait_until_asleep()?,
        }
        // Nothing that only some cases need lies between the warm-up and what is measured: it would cool the caches.
        let (lost, wakeups, counted) = (attachment.lost()?, attachment.wakeups()?, attachment.counted()?);
        if case.warm_up > 0 {
            driver.run(&WAKE_PROCESSOR)?;
        }
        driver.run(&case.warm_up())?;
        let before = if kernel { attachment.statistics()? } else { HashMap::new() };
        let done = driver.run(&case.order)?;
        let after = if kernel { attachment.statistics()? } else { HashMap::new() };
        let (wakeups_after, lost_after) = (attachment.wakeups()?, attachment.lost()?);
        let (times, all_times) = (case.order.times, case.order.times + case.warm_up);
        let expected = if case.fails { times } else { 0 };
        ensure!(done.failed == expected, "{}: {} of {times} binds failed, expected {expected}", case.name, done.failed);
        if let (Some(before), Some(after)) = (counted, attachment.counted()?) {
            let counted = after - before;
            ensure!(
                counted == u64::from(all_times),
                "{}: {counted} of {all_times} binds went the right way",
                case.name
            );
        }
        if case.advances {
            case.order.port += case.order.ports + case.warm_up as u16;
        }

        let cycles = f64::from(times);
        for (metric, before, after) in [(Metric::Wakeups, wakeups, wakeups_after), (Metric::Lost, lost, lost_after)] {
            if let (Some(before), Some(after)) = (before, after) {
                let per_cycle = after.saturating_sub(before) as f64 / f64::from(all_times);
                samples.add(&case.name, metric, per_cycle * 1000.0);
            }
        }
        if !kernel {
            samples.add(&case.name, Metric::Cycle, done.nanos as f64 / cycles);
            return Ok(());
        }
        let mut all = 0.0;
        for (hook, before) in before {
            let (nanos, runs) = (after[&hook].0 - before.0, after[&hook].1 - before.1);
            // A bind that is denied runs no `post_bind`.
            if runs > 0 {
                samples.add(&case.name, Metric::Program(hook), nanos as f64 / runs as f64);
                all += nanos as f64 / cycles;
            }
        }
        if all > 0.0 {
            samples.add(&case.name, Metric::Programs, all);
        }
        Ok(())
    }
}

/// Returns what the kernel counted for a program: nanoseconds, and runs.
fn statistics(program: &OwnedFd) -> anyhow::Result<(u64, u64)> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let number = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("{path} says no {name}"))
    };
    Ok((number("run_time_ns:")?, number("run_cnt:")?))
}
