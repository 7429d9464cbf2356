//! Tests on the real kernel: real processes in real cgroups, judged by the real programs.

#[path = "../support/mod.rs"]
mod support;

use enforcer::{
    agent::engine::{Engine, Start},
    bpf::probe,
    core::{index::Settings, pod},
    host::cgroup::Root,
};
use enforcer_ebpf::abi::{Policy, Undeclared};
use support::{
    sandbox::Sandbox,
    worker::{self, Bind, Worker},
};

fn main() {
    worker::run_if_worker();
    let sandbox = Sandbox::new();
    let kubepods = sandbox.make("kubepods.slice");
    let uid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
    let root = Root::find(Some(&kubepods), "/proc/self/mountinfo".as_ref()).unwrap();
    eprintln!("{root:?}");
    let mut engine = Engine::load(Start {
        root,
        settings: Settings::default(),
        policy: Policy {
            enforce: true,
            undeclared: Undeclared::Allow,
            deny_on_error: false,
            report_attempts: true,
            report_bound: true,
            node_scope: false,
            errno: 98,
        },
        features: probe::features().unwrap(),
        trace: false,
    })
    .unwrap_or_else(|e| panic!("{e}"));
    engine.attach().unwrap();
    let object: k8s_openapi::api::core::v1::Pod = serde_norway::from_str(&format!("metadata: {{name: a, namespace: default, uid: {uid}, annotations: {{port-enforcer.io/ports: 8080}}}}\nspec: {{hostNetwork: true, containers: []}}")).unwrap_or_default();
    engine.apply(pod::from_api(&object));
    let a = sandbox.make(&format!(
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/x",
        uid.replace('-', "_")
    ));
    let b = sandbox.make(&format!(
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/x",
        uid.replace('-', "_").replace("0a", "ff")
    ));
    let mut wa = Worker::start(&a);
    let mut wb = Worker::start(&b);
    eprintln!("a {} b {}", wa.bind(&Bind::tcp("0.0.0.0", 8080)), wb.bind(&Bind::tcp("0.0.0.0", 8080)));
    eprintln!("a {} b {}", wa.bind(&Bind::tcp("::", 8080)), wb.bind(&Bind::tcp("::1", 8080)));
    let told = engine.drain_binds().unwrap();
    for report in &told.reports {
        eprintln!("{}", report.sentence("node-1"));
    }
    eprintln!("{:?} {:?} {:?}", told.bound.len(), engine.take_notices(), engine.take_failures());
}
