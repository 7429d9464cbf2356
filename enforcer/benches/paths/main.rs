//! The agent's own work, as Callgrind counts its instructions for `cargo xtask bench instructions`: each function below
//! is one run, and only what happens in it is counted. Everything here is the same at every run.

use std::{hint::black_box, net::Ipv4Addr, process::ExitCode, time::Duration};

use enforcer_core::{
    index::{Index, Settings},
    model::{
        actor::Audience,
        attempt::Attempt,
        kernel_ids::{BootNanos, CgroupId, SocketCookie},
        now::Now,
        owner::OwnerId,
    },
    pods::{
        annotation,
        pod::{self, Pod},
    },
    reports::{deduplicator::Deduplicator, report::Report},
};
use enforcer_ebpf::wire::{Protocol, Reason, VerdictKind};
use k8s_openapi::api::core::v1 as api;
use serde_json::json;

const NOW: Now = Now { wall: 1_700_000_000_000_000, boottime: Duration::from_secs(1000) };
/// As many as a node has at most by default.
const PODS: u16 = 110;

/// Annotations as people write them.
#[inline(never)]
fn read_annotations(texts: &[String]) -> usize {
    texts.iter().map(|text| annotation::items(text).filter(|(_, item)| item.is_ok()).count()).sum()
}

/// What the API server sends, to what the rules know of a pod.
#[inline(never)]
fn decode_pods(texts: &[String]) -> Vec<Pod> {
    let decode = |text: &String| serde_json::from_str::<api::Pod>(text).expect("a pod");
    texts.iter().map(|text| pod::from_api(&decode(text))).collect()
}

/// All pods at once, and what is to be written to the kernel's maps.
#[inline(never)]
fn take_in_pods(index: &mut Index, pods: Vec<Pod>) -> usize {
    index.reset(pods, NOW);
    index.drain_output().changes.len()
}

/// One pod after the other claims something else.
#[inline(never)]
fn change_pods(index: &mut Index, pods: Vec<Pod>) -> usize {
    let mut changes = 0;
    for pod in pods {
        index.apply(pod, NOW);
        changes += index.drain_output().changes.len();
    }
    changes
}

/// Denied binds, to sentences that are told once.
#[inline(never)]
fn report_binds(index: &Index, attempts: Vec<Attempt>) -> usize {
    let mut repetitions = Deduplicator::default();
    let mut told = 0;
    for attempt in attempts {
        let report = Report::new(attempt, index);
        if repetitions.admit(&report, NOW.boottime).is_some() {
            told += report.sentence("node-1", Audience::Operators).len();
        }
    }
    told
}

/// The objects of so many pods, each with a port from this one on.
fn objects(first: u16) -> Vec<String> {
    let object = |number: u16| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": format!("web-6fdf99c8b-{number:05}"),
                "namespace": format!("tenant-{}", number % 7),
                "uid": format!("{number:08x}-4e5f-4071-8293-a4b5c6d7e8f9"),
                "creationTimestamp": format!("2026-01-01T{:02}:{:02}:00Z", number / 60, number % 60),
                "annotations": {
                    "port-enforcer.io/ports": format!("{}/tcp, 127.0.0.1:{}/udp", first + number, first + number),
                    "example.com/filling": "x".repeat(2000),
                },
                "labels": { "pod-template-hash": "6fdf99c8b", "app": "web" },
            },
            "spec": {
                "hostNetwork": true,
                "nodeName": "node-1",
                "containers": [{ "name": "server", "image": "web", "ports": [{ "containerPort": 30_000 + number, "hostPort": 30_000 + number }] }],
            },
            "status": { "phase": "Running" },
        })
    };
    (0..PODS).map(|number| object(number).to_string()).collect()
}

/// An index that knows the pods.
fn index() -> Index {
    let mut index = Index::new(Settings::default(), CgroupId::new(1));
    index.reset(decode_pods(&objects(10_000)), NOW);
    index.drain_output();
    index
}

fn attempt(number: u16) -> Attempt {
    Attempt {
        time: BootNanos::new(1),
        protocol: Protocol::Tcp,
        address: Ipv4Addr::UNSPECIFIED.into(),
        port: 10_000 + number % PODS,
        v6only: None,
        verdict: VerdictKind::Deny,
        reason: Reason::Claimed,
        cgroup: CgroupId::new(77),
        pod_cgroup: Some(CgroupId::new(76)),
        socket: SocketCookie::new(number.into()),
        caller: OwnerId::new(u32::from(number % PODS + 2)),
        owner: OwnerId::new(u32::from((number + 1) % PODS + 2)),
        holder: None,
        held: false,
        reuse: None,
        pid: 4711,
        uid: 0,
        command: "nginx".to_owned(),
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("name a path");
        return ExitCode::from(2);
    };
    let done = match path.as_str() {
        "read_annotations" => {
            let text =
                |number: u16| format!("80, 443/tcp {number}-{}/udp,127.0.0.1:9099/tcp,[::1]:53/udp", number + 10);
            read_annotations(&(1..1000).map(text).collect::<Vec<_>>())
        }
        "decode_pods" => decode_pods(&objects(10_000)).len(),
        "take_in_pods" => {
            take_in_pods(&mut Index::new(Settings::default(), CgroupId::new(1)), decode_pods(&objects(10_000)))
        }
        "change_pods" => change_pods(&mut index(), decode_pods(&objects(20_000))),
        "report_binds" => report_binds(&index(), (0..1000).map(attempt).collect()),
        _ => 0,
    };
    if black_box(done) == 0 {
        eprintln!("{path}: nothing was done");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
