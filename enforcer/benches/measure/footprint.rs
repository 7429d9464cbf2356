//! What the agent takes: memory, processor time while nothing happens, and the size of its binary.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    os::fd::{AsFd as _, AsRawFd as _},
    thread::sleep,
    time::Duration,
};

use anyhow::Context as _;
use aya::{maps::MapInfo, programs::loaded_programs};

use crate::{
    agents::{RunningAgent, ServerTimes, Source, StartTimes},
    samples::Run,
};

/// How long the agent is left alone before its memory is looked at: its first ledger is written by then.
const SETTLE: Duration = Duration::from_secs(13);

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let mut runs = vec![binary()?];
    let idle = Duration::from_secs(if quick { 15 } else { 60 });
    for source in Source::ALL {
        for pods in [0, 110, 5000] {
            let name = |what: &str| format!("{}-{pods}-pods/{what}", source.name());
            eprintln!("footprint: {pods} pods from the {}", source.name());
            let running = RunningAgent::new(source, pods)?;
            let StartTimes { ready, total, agent, server } = &running.start;
            let times =
                [("start", Some(total)), ("start-ready", Some(ready)), ("start-agent", Some(agent))].into_iter();
            let of_server = server.as_ref().map(|ServerTimes { cpu, listed }| (cpu, listed)).unzip();
            for (what, time) in times.chain([("start-server", of_server.0), ("start-listed", of_server.1)]) {
                let time = time.map(|time| Run::one(name(what), "ms", time.as_secs_f64() * 1000.0));
                runs.extend(time);
            }
            sleep(SETTLE);
            for (what, line) in [
                ("rss", "VmRSS"),
                ("rss-anon", "RssAnon"),
                ("rss-file", "RssFile"),
                ("rss-shmem", "RssShmem"),
                ("peak", "VmHWM"),
            ] {
                runs.push(Run::one(name(what), "MiB", running.memory(line)?));
            }
            if let Some(server) = &running.server {
                runs.push(Run::one(name("calls"), "calls", server.requests().len() as f64));
            }
            if pods == 110 {
                eprintln!("footprint: doing nothing for {} s", idle.as_secs());
                let before = running.cpu()?;
                sleep(idle);
                let percent = running.cpu()?.saturating_sub(before).as_secs_f64() / idle.as_secs_f64() * 100.0;
                runs.push(Run::one(name("idle-cpu"), "% of a core", percent));
            }
            if pods == 5000 || source == Source::Folder {
                let maps = maps(&running)?;
                runs.push(Run::one(name("maps"), "MiB", maps.values().sum::<u64>() as f64 / f64::from(1 << 20)));
            }
        }
    }
    Ok(runs)
}

/// The size of the binary under test.
fn binary() -> anyhow::Result<Run> {
    let path = env::var("CARGO_BIN_EXE_enforcer").unwrap_or_else(|_| env!("CARGO_BIN_EXE_enforcer").to_owned());
    let size = fs::metadata(&path).with_context(|| path.clone())?.len();
    Ok(Run::one("binary", "MiB", size as f64 / f64::from(1 << 20)))
}

/// Kernel memory of each of the agent's maps, in bytes, by id.
fn maps(running: &RunningAgent) -> anyhow::Result<BTreeMap<u32, u64>> {
    let own = running.agent.programs();
    let mut ids = BTreeSet::new();
    for program in loaded_programs() {
        let program = program?;
        if own.contains(&program.id()) {
            ids.extend(program.map_ids()?.unwrap_or_default());
        }
    }
    let mut maps = BTreeMap::new();
    for id in ids {
        let descriptor = MapInfo::from_id(id)?.fd()?;
        let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
        maps.insert(id, bytes.with_context(|| format!("{path} says no memlock"))?);
    }
    Ok(maps)
}
