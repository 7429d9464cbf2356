//! What the Services of a large cluster cost the agent: memory, time at the start, and time until one is enforced.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::bail;
use aya::maps::{Array, Map, MapData};
use enforcer_ebpf::wire::{Protocol, port_index};

use crate::{
    agents::{FIRST_NODE_PORT, PAUSE, RunningAgent, Source, service},
    samples::Run,
};

/// How long a change is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the agent is left alone before its memory is looked at.
const SETTLE: Duration = Duration::from_secs(13);
const PODS: u16 = 110;
const SERVICES: u16 = 5_000;

pub(crate) fn measure(quick: bool) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut memory = Vec::new();
    for services in [0, SERVICES] {
        eprintln!("services: {PODS} pods and {services} Services from the api");
        let mut running = RunningAgent::with_services(Source::Api, PODS, services)?;
        let name = |what: &str| format!("{PODS}-pods-{services}-services/{what}");
        runs.push(Run::one(name("start"), "ms", running.start.total.as_secs_f64() * 1000.0));
        sleep(SETTLE);
        for (what, line) in [("rss", "VmRSS"), ("peak", "VmHWM")] {
            runs.push(Run::one(name(what), "MiB", running.memory(line)?));
        }
        memory.push(running.memory("VmRSS")?);
        let (made, gone) = changed(&mut running, services, if quick { 50 } else { 200 })?;
        runs.push(Run::of(name("made"), "ms", made));
        runs.push(Run::of(name("gone"), "ms", gone));
    }
    runs.push(Run::one(format!("{SERVICES}-services/added-rss"), "MiB", memory[1] - memory[0]));
    Ok(runs)
}

/// Makes and deletes a Service so many times, and waits each time until the kernel knows.
fn changed(running: &mut RunningAgent, services: u16, changes: u16) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let words = Map::Array(running.agent.map("PORTS"));
    let words = Array::<MapData, u64>::try_from(words)?;
    let Some(server) = &running.server else { bail!("Services are on an API server") };
    // One above those that are there already.
    let mut object = service(services);
    let port = object["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let protocol = if object["spec"]["ports"][0]["protocol"] == "UDP" { Protocol::Udp } else { Protocol::Tcp };
    let index = port_index(protocol, port.unwrap_or(FIRST_NODE_PORT));
    object["metadata"]["name"] = "service-of-the-measurement".into();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let wait = |claimed: bool| {
        let start = Instant::now();
        while (words.get(&index, 0)? != 0) != claimed {
            if start.elapsed() > TIMEOUT {
                bail!("the change did not come in {TIMEOUT:?}");
            }
            sleep(PAUSE);
        }
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    };
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..changes {
        server.put_service(serde_json::from_value(object.clone())?);
        made.push(wait(true)?);
        sleep(Duration::from_millis(5));
        server.delete_service(&namespace, "service-of-the-measurement");
        gone.push(wait(false)?);
        sleep(Duration::from_millis(5));
    }
    Ok((made, gone))
}
