//! A storm of binds that are denied, from every processor.

use std::{
    thread::{self, available_parallelism, sleep},
    time::{Duration, Instant},
};

use aya::maps::{Map, RingBuf};
use enforcer::kernel::map_names::VERDICT_RING;
use enforcer_ebpf::wire::{KernelError, Protocol, Reason, VerdictKind};

use crate::{
    agents::{FIRST_PORT, RunningAgent, Source},
    driver::{Driver, Order},
    samples::Run,
};

/// Binds per order.
const ROUND: u32 = 2000;
/// How long the agent may take to read what is left.
const SETTLE: Duration = Duration::from_secs(1);

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let length = Duration::from_secs(if quick { 5 } else { 30 });
    let cores = available_parallelism()?.get();
    eprintln!("denial-storm: a storm of {} s from {cores} processors", length.as_secs());
    let running = RunningAgent::new(Source::Folder, 110)?;
    let stranger = running.fixture.make_container_cgroup("ffffffff-4e5f-4071-8293-a4b5c6d7e8f9");
    let before = running.cpu()?;
    let start = Instant::now();
    let storms: Vec<_> = (0..cores)
        .map(|core| {
            let stranger = stranger.clone();
            thread::spawn(move || -> anyhow::Result<(u64, u64)> {
                let mut driver = Driver::start(&stranger, core)?;
                let order = Order { port: FIRST_PORT, times: ROUND, ..Order::default() };
                let (mut tried, mut failed) = (0, 0);
                while start.elapsed() < length {
                    failed += u64::from(driver.run(&order)?.failed);
                    tried += u64::from(ROUND);
                }
                Ok((tried, failed))
            })
        })
        .collect();
    let (mut tried, mut failed) = (0, 0);
    for storm in storms {
        let (more, refused) = storm.join().expect("no panic")?;
        (tried, failed) = (tried + more, failed + refused);
    }
    let took = start.elapsed();
    let cpu = running.cpu()?.saturating_sub(before);

    let counters = running.agent.counters();
    let lost = counters.errors(KernelError::BindEventLost);
    let denied = counters.attempts(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
    sleep(SETTLE);
    // A second reader begins where the agent is when it is opened, and so sees no record where the agent has read all.
    let mut left = RingBuf::try_from(Map::RingBuf(running.agent.map(VERDICT_RING)))?;
    let unread = left.next().is_some();
    let alive = running.memory("VmRSS").is_ok();
    let yes = |is: bool| f64::from(u8::from(is));
    Ok(vec![
        Run::one("denied", "binds", denied as f64),
        Run::one("denied-per-second", "binds/s", tried as f64 / took.as_secs_f64()),
        Run::one("uncounted", "binds", tried.abs_diff(denied) as f64),
        Run::one("told", "records", denied.saturating_sub(lost) as f64),
        Run::one("lost", "records", lost as f64),
        Run::one("unread", "yes or no", yes(unread)),
        Run::one("dead", "yes or no", yes(!alive)),
        Run::one("let-through", "binds", (tried - failed) as f64),
        Run::one("agent-cpu", "% of a core", cpu.as_secs_f64() / took.as_secs_f64() * 100.0),
    ])
}
