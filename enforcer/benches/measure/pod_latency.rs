//! From a change of a pod to its claim in the kernel.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use aya::maps::{Array, Map, MapData};
use enforcer::{
    agent::{
        output::Output,
        reconciler::{Reconciler, Start},
    },
    host::{cgroup::Root, clock::now},
    kernel::probe,
};
use enforcer_core::{index::Settings, pods::pod};
use enforcer_ebpf::wire::{Policy, Protocol, Undeclared, port_index};

use enforcer_testing::agent_fixture::AgentFixture;

use crate::{
    agents::{self, FIRST_PORT, PAUSE, RunningAgent, Source},
    samples::{Run, quantile},
};

/// How long a change is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let mut runs = vec![rebuild(if quick { 5 } else { 20 })?];
    for (source, pods, changes) in [
        (Source::Api, 1, 100),
        (Source::Api, 110, if quick { 200 } else { 1000 }),
        (Source::Api, 1000, 100),
        (Source::Api, 5000, 100),
        (Source::Folder, 1, 20),
        (Source::Folder, 110, 20),
        (Source::Folder, 5000, 10),
    ] {
        if quick && (pods == 1000 || pods == 1) {
            continue;
        }
        eprintln!("claim-latency: {changes} changes among {pods} pods from the {}", source.name());
        let mut running = RunningAgent::new(source, pods)?;
        let calls = |running: &RunningAgent| running.server.as_ref().map_or(0, |server| server.requests().len());
        let before = calls(&running);
        let mut times = changed(&mut running, changes)?;
        let name = format!("{}-{pods}-pods", source.name());
        times.sort_by(f64::total_cmp);
        runs.push(Run::one(format!("{name}/p99"), "ms", quantile(&times, 0.99)));
        runs.push(Run::of(format!("{name}/change"), "ms", times));
        if source == Source::Api {
            runs.push(Run::one(format!("{name}/calls"), "calls", (calls(&running) - before) as f64));
        }
    }
    Ok(runs)
}

/// Edits a pod so many times, and waits each time until the kernel knows.
fn changed(running: &mut RunningAgent, changes: u16) -> anyhow::Result<Vec<f64>> {
    let words = Map::Array(running.agent.map("PORTS"));
    let words = Array::<MapData, u64>::try_from(words)?;
    let pod = running.pods[0].clone();
    let mut times = Vec::new();
    for change in 0..changes {
        let port = FIRST_PORT + 20_000 + change;
        let pod = pod.clone().ports(&port.to_string());
        let index = port_index(Protocol::Tcp, port);
        let start = Instant::now();
        running.put(&pod)?;
        while words.get(&index, 0)? == 0 {
            if start.elapsed() > TIMEOUT {
                bail!("the claim of port {port} did not come in {TIMEOUT:?}");
            }
            std::thread::sleep(PAUSE);
        }
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        // The agent has something to do after it, such as telling of it, which is not to be part of the next one.
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(times)
}

/// Everything anew: five thousand pods of which nothing was known, each with a cgroup and a claim, until all of it is
/// in the kernel's maps.
fn rebuild(rounds: usize) -> anyhow::Result<Run> {
    eprintln!("claim-latency: rebuild of the state with 5000 pods");
    let fixture = AgentFixture::new();
    let mut pods = Vec::new();
    for number in 0..5000 {
        let pod = agents::pod(number);
        fixture.make_container_cgroup(pod.uid_text());
        pods.push(pod::from_api(&serde_json::from_value(pod.object.clone())?));
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut engine = Reconciler::load(
            Start {
                root: Root::find(Some(&fixture.root()), Path::new("/proc/self/mountinfo"))?,
                settings: Settings::default(),
                policy: Policy { enforce: true, undeclared: Undeclared::Adopt, ..Policy::from_word(0) },
                features: probe::features()?,
                trace: false,
                lease: None,
                shared_ports: Vec::new(),
                boot_state: None,
            },
            None,
        )?;
        let pods = pods.clone();
        let start = Instant::now();
        engine.reset(pods, now());
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        while let Some(output) = engine.poll_output() {
            ensure!(!matches!(output, Output::MapFailure(_)), "the kernel refused some of the claims");
        }
        let (in_force, _) = engine.index().claim_counts();
        ensure!(in_force >= 5000, "{in_force} claims are in force");
    }
    Ok(Run::of("rebuild-5000-pods", "ms", times))
}
