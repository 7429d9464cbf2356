//! From a cgroup to its pod, in every layout that the kubelet and the runtimes make, in whatever order things come; and
//! from pins under earlier names to the present ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::PerCpuArray;
use enforcer::host::clock::now;
use enforcer::kernel::{
    LoadOptions,
    map_names::{self, COUNTERS, NODE_MODE, OWNER_RECORDS, Renamed},
    pins::{Persistence, Pins},
};
use enforcer_core::{model::actor::Actor, plan::port_state::Change};
use enforcer_ebpf::wire::{COUNTER_COUNT, KernelError, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    cgroup_sandbox::{Sandbox, cgroup_id},
    mini_agent::{MiniAgent, MiniNode, expected_pins, only_owner_may_bind, shared_bind},
    pods::{CONTAINER_ID, Pod, SYSTEMD_BESTEFFORT, api_uid, cgroup_for, static_uid},
    reconciler_fixture::{ENFORCE, KernelFixture, Observed, denied},
    tests,
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = tests![
    every_layout_works_when_pod_is_known_before_cgroup,
    every_layout_works_when_cgroup_exists_before_pod_is_known,
    every_layout_works_when_cgroups_exist_before_start,
    child_cgroup_named_like_a_pod_stays_in_its_pod,
    existing_child_cgroup_named_like_a_pod_stays_in_its_pod,
    recorded_child_cgroup_named_like_a_pod_is_removed,
    root_of_unknown_level_is_judged,
    process_outside_any_pod_is_allowed_and_counted,
    unknown_pod_is_denied_on_claimed_port,
    pins_under_earlier_names_are_taken_over
];

/// A root, and where containers are below it. The last field says whether the kernel programs read the UID themselves;
/// else the agent does, a moment later.
type Layouts = (&'static str, &'static [&'static str], bool);

const LAYOUTS: &[Layouts] = &[
    // The systemd driver: burstable, best-effort, guaranteed; containerd, CRI-O, Docker; crun's additional child.
    (
        "kubepods.slice",
        &[
            "kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{id}.scope",
            "kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/crio-{id}.scope",
            "kubepods-pod{uid_}.slice/docker-{id}.scope",
            "kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/crio-{id}.scope/container",
        ],
        true,
    ),
    // The cgroupfs driver.
    (
        "kubepods",
        &["burstable/pod{uid}/{id}", "besteffort/pod{uid}/{id}", "pod{uid}/{id}", "pod{uid}/{id}/container"],
        true,
    ),
    // kind's prefix.
    (
        "kubelet.slice/kubelet-kubepods.slice",
        &[
            "kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{uid_}.slice/cri-containerd-{id}.scope",
            "kubelet-kubepods-pod{uid_}.slice/cri-containerd-{id}.scope",
        ],
        true,
    ),
    ("kubelet/kubepods", &["burstable/pod{uid}/{id}"], true),
    // Attached further up.
    (
        ".",
        &[
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{id}.scope",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{uid_}.slice/cri-containerd-{id}.scope",
        ],
        true,
    ),
    // A runtime with the cgroupfs driver under a kubelet with the systemd driver.
    ("system.slice", &["containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{id}"], false),
];

/// What is told first, and what is there first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    PodFirst,
    CgroupFirst,
    EngineLast,
}

/// Two pods of one layout and their processes.
struct Pair {
    layout: &'static str,
    port: u16,
    pods: [Pod; 2],
    workers: Option<[Worker; 2]>,
}

impl Pair {
    fn new(layout: &'static str, port: u16) -> Self {
        // Without a status no container has a name, so that reports show its id.
        let pod = |name: &str| Pod::new(&format!("{name}-{port}")).without_status();
        Self { layout, port, pods: [pod("owner").ports(&port.to_string()), pod("stranger")], workers: None }
    }

    fn start(&mut self, root: &Path) {
        let start = |pod: &Pod| Worker::start(&make(&root.join(pod.cgroup(self.layout))));
        self.workers = Some(self.pods.each_ref().map(start));
    }

    fn apply(&self, rig: &mut KernelFixture) {
        for pod in &self.pods {
            rig.apply(pod);
        }
    }

    fn judge(&mut self, rig: &mut KernelFixture) {
        let [owner, stranger] = self.workers.as_mut().expect("they were started");
        let layout = self.layout;
        // No record of a cgroup is read between that and the binds.
        let bind = Bind::tcp("0.0.0.0", self.port);
        let errnos = [owner.bind(&bind), stranger.bind(&bind)];
        let reports = rig.drain_reports();
        assert_eq!(errnos, [0, denied()], "{layout}: {reports:?}");
        let told: Vec<_> = reports
            .iter()
            .map(|report| (report.attempt.reason, report.caller.pod(), report.container.as_deref()))
            .collect();
        let names = self.pods.each_ref().map(|pod| Some(pod.full_name()));
        let [owner, stranger] = names.clone();
        let container = Some(&CONTAINER_ID[..12]);
        assert_eq!(told, [(Reason::Owner, owner, container), (Reason::Claimed, stranger, container)], "{layout}");
        assert_eq!(reports[1].owner.as_ref().map(ToString::to_string), names[0], "{layout}");
    }
}

fn every_layout(order: Order) -> Outcome {
    for (root, layouts, in_kernel) in LAYOUTS {
        let mut pairs: Vec<Pair> = layouts.iter().zip(20_001..).map(|(layout, port)| Pair::new(layout, port)).collect();
        let sandbox = Sandbox::new();
        let path = sandbox.make(root);
        if order == Order::EngineLast {
            for pair in &mut pairs {
                pair.start(&path);
            }
        }
        let mut rig = KernelFixture::on(sandbox, root, |_| ());
        for pair in &mut pairs {
            match order {
                Order::EngineLast => pair.apply(&mut rig),
                Order::CgroupFirst => {
                    pair.start(&path);
                    pair.apply(&mut rig);
                }
                Order::PodFirst => {
                    pair.apply(&mut rig);
                    pair.start(&path);
                    if !in_kernel {
                        rig.drain_reports();
                    }
                }
            }
            pair.judge(&mut rig);
        }
    }
    DONE
}

fn every_layout_works_when_pod_is_known_before_cgroup() -> Outcome {
    every_layout(Order::PodFirst)
}

fn every_layout_works_when_cgroup_exists_before_pod_is_known() -> Outcome {
    every_layout(Order::CgroupFirst)
}

fn every_layout_works_when_cgroups_exist_before_start() -> Outcome {
    every_layout(Order::EngineLast)
}

/// Names that a container could give to a child of its cgroup to pass as the pod with this UID.
fn disguises(uid: &str) -> [String; 5] {
    let (systemd, plain) = (uid.replace('-', "_"), uid.replace('-', ""));
    [
        format!("kubepods-besteffort-pod{systemd}.slice"),
        format!("kubepods-besteffort-pod{systemd}.slice:cri-containerd:{CONTAINER_ID}"),
        format!("pod{uid}"),
        format!("pod{plain}"),
        format!("kubepods-pod{plain}.slice"),
    ]
}

fn expect_stranger(seen: &Observed, name: &Path) {
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed), "{}", name.display());
    assert_eq!(seen.report().caller.pod().as_deref(), Some("default/stranger"), "{}", name.display());
}

fn child_cgroup_named_like_a_pod_stays_in_its_pod() -> Outcome {
    let mut rig = KernelFixture::new();
    // Its cgroup does not exist yet: the first one of its name would be taken for it.
    let owner = Pod::new("owner").ports("20080");
    rig.apply(&owner);
    let known_static = Pod::new("static").namespace("kube-system").uid(&static_uid()).ports("20081");
    rig.apply(&known_static);
    let stranger = Pod::new("stranger");
    rig.apply(&stranger);
    let container = rig.make_cgroup(&stranger.cgroup(SYSTEMD_BESTEFFORT));
    for uid in [owner.parsed().uid_text, known_static.parsed().uid_text, static_uid()] {
        for name in disguises(&uid) {
            let mut process = Worker::start(&make(&container.join(name)));
            for port in [20080, 20081] {
                // Both before the agent has heard of the child and after.
                assert_eq!(process.bind(&Bind::tcp("0.0.0.0", port)), denied());
                let seen = rig.attempt(&mut process, &Bind::tcp("0.0.0.0", port));
                expect_stranger(&seen, &container);
            }
        }
    }
    let mut rightful = rig.worker(&owner);
    assert_eq!(rightful.bind(&Bind::tcp("0.0.0.0", 20080)), 0);
    DONE
}

fn existing_child_cgroup_named_like_a_pod_stays_in_its_pod() -> Outcome {
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    let sandbox = Sandbox::new();
    let container = sandbox.make(&format!("kubepods.slice/{}", stranger.cgroup(SYSTEMD_BESTEFFORT)));
    let mut processes: Vec<Worker> =
        disguises(&owner.parsed().uid_text).iter().map(|name| Worker::start(&make(&container.join(name)))).collect();
    let mut rig = KernelFixture::on(sandbox, "kubepods.slice", |_| ());
    rig.apply(&owner);
    rig.apply(&stranger);
    for process in &mut processes {
        let seen = rig.attempt(process, &Bind::tcp("0.0.0.0", 20080));
        expect_stranger(&seen, &container);
    }
    DONE
}

/// As in the moment of a start, when the programs that note cgroups run already and the pod around the child is not
/// noted yet.
fn recorded_child_cgroup_named_like_a_pod_is_removed() -> Outcome {
    let mut rig = KernelFixture::new();
    let (owner, stranger) = (Pod::new("owner").ports("20080"), Pod::new("stranger"));
    rig.apply(&owner);
    rig.apply(&stranger);
    let container = rig.make_cgroup(&stranger.cgroup(SYSTEMD_BESTEFFORT));
    let pod = cgroup_id(container.parent().expect("the pod's own cgroup"));
    let bind = Bind::tcp("0.0.0.0", 20080);
    for uid in [owner.parsed().uid_text, static_uid()] {
        for name in disguises(&uid) {
            rig.drain_reports();
            rig.reconciler.kernel_mut().apply(&Change::CgroupGone { id: pod }).expect("it is noted");
            let mut process = Worker::start(&make(&container.join(&name)));
            assert_eq!(process.bind(&bind), 0, "{name}: noted as another one's, or nobody's");
            rig.reconciler.rescan(now()).expect("the tree");
            let seen = rig.attempt(&mut process, &bind);
            expect_stranger(&seen, &container);
        }
    }
    DONE
}

fn make(path: &Path) -> PathBuf {
    fs::create_dir_all(path).expect("creating a cgroup");
    path.to_owned()
}

/// In a cgroup namespace the agent does not see how deep its root is; the programs find out.
fn root_of_unknown_level_is_judged() -> Outcome {
    let mut rig = KernelFixture::with(|start| start.root.level = None);
    let mut owner = rig.start(&Pod::new("owner").ports("20080"));
    let mut stranger = rig.start(&Pod::new("stranger"));
    let bind = Bind::tcp("0.0.0.0", 20080);
    // A host process first: from where it is, the root cannot be seen.
    let socket = stranger.open(&bind);
    let seen = rig.observe(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.result(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().caller, Actor::Host);
    drop(socket);
    stranger.close();
    assert_eq!(rig.reconciler.kernel_mut().root_level(), None);

    assert_eq!(rig.attempt(&mut owner, &bind).result(), (0, VerdictKind::Allow, Reason::Owner));
    assert_eq!(rig.attempt(&mut stranger, &bind).result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    assert_eq!(rig.reconciler.kernel_mut().root_level(), Some(2));
    DONE
}

/// It may be the rightful owner in a layout that nobody has seen yet.
fn process_outside_any_pod_is_allowed_and_counted() -> Outcome {
    let mut rig = KernelFixture::new();
    rig.apply(&Pod::new("owner").ports("20080"));
    let mut process = Worker::start(&rig.make_cgroup("something/else"));
    let seen = rig.attempt(&mut process, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Error));
    assert_eq!(seen.report().caller, Actor::Unplaced);
    assert_eq!(rig.reconciler.counters().unwrap().errors(KernelError::CallerUnknown), 1);
    rig.reconciler.set_policy(Policy { deny_on_error: true, ..ENFORCE });
    let seen = rig.attempt(&mut process, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Error));
    DONE
}

fn unknown_pod_is_denied_on_claimed_port() -> Outcome {
    let mut rig = KernelFixture::new();
    rig.apply(&Pod::new("owner").ports("20080"));
    let uid = api_uid();
    let mut unknown = Worker::start(&rig.make_cgroup(&cgroup_for(&uid, SYSTEMD_BESTEFFORT)));
    let seen = rig.attempt(&mut unknown, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.result(), (denied(), VerdictKind::Deny, Reason::Claimed));
    assert!(matches!(&seen.report().caller, Actor::UnknownPod { uid: told, .. } if *told == uid.replace('-', "")));
    let seen = rig.attempt(&mut unknown, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.result(), (0, VerdictKind::Allow, Reason::Unclaimed));
    DONE
}

/// Maps in `shared/`, and maps of a generation.
fn pinned_maps() -> [Vec<&'static str>; 2] {
    [
        [COUNTERS, NODE_MODE].into_iter().chain(map_names::OF_HOLDS).collect(),
        [OWNER_RECORDS].into_iter().chain(map_names::OF_GENERATION).collect(),
    ]
}

/// An earlier name for every map.
fn renamed() -> &'static [Renamed] {
    let earlier = |name: &'static str| (&*format!("EARLIER_{name}").leak(), name);
    pinned_maps().concat().into_iter().map(earlier).collect::<Vec<_>>().leak()
}

/// Gives all pins of a generation, and those that generations share, the names that an earlier version gave them.
fn rename_back(node: &MiniNode, generation: &str) {
    let folder = node.bpffs.folder().join("v3");
    for (folder, names) in [folder.join("shared"), folder.join(generation).join("maps")].iter().zip(pinned_maps()) {
        for name in names {
            fs::rename(folder.join(name), folder.join(format!("EARLIER_{name}"))).expect("a pin");
        }
    }
}

/// Starts an agent that knows these earlier names.
fn start_with_renamed(node: &MiniNode, policy: Policy, renamed: &'static [Renamed]) -> MiniAgent {
    node.start_with(true, |options: &mut LoadOptions| {
        options.policy = policy;
        // One process holds the lock at a time.
        options.persistence = None;
        let pins = Pins::at(&node.bpffs.folder()).expect("a BPF file system").with_renamed(renamed);
        let guard = pins.try_lock().expect("the folder").expect("no other agent");
        options.persistence = Some(Persistence { guard, persist: true });
    })
}

fn pins_under_earlier_names_are_taken_over() -> Outcome {
    let policy = Policy { report_attempts: false, undeclared: Undeclared::Adopt, ..ENFORCE };
    let node = MiniNode::new(&[("owner", "20080/udp"), ("stranger", "20099")]);
    let (mut owner, mut stranger, mut first) = (node.worker("owner"), node.worker("stranger"), node.worker("stranger"));
    let agent = node.start_with(true, |options| options.policy = policy);
    // A port that nobody declared, which its first pod holds.
    assert_eq!(first.bind(&shared_bind(20081).kept()), 0);
    assert!(only_owner_may_bind(&mut owner, &mut stranger, 20080));
    let count = |agent: &MiniAgent| agent.count(VerdictKind::Deny, Reason::Claimed);
    let (before, holds) = (count(&agent), agent.kernel.port_holds().expect("holds"));
    assert!(before > 0 && holds.len() == 1, "{before}, {holds:?}");
    drop(agent);

    let renamed = renamed();
    rename_back(&node, "g1");
    let agent = start_with_renamed(&node, policy, renamed);
    assert_eq!(node.bpffs.list(), expected_pins("g2"), "all pins have their present names");
    assert_eq!((count(&agent), agent.kernel.port_holds().expect("holds")), (before, holds.clone()));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, 20080));
    let before = count(&agent);
    drop(agent);

    // An earlier version ran once more and made a map of its own: it is the one in use.
    rename_back(&node, "g2");
    let left = node.bpffs.folder().join("v3/shared").join(COUNTERS);
    let own: PerCpuArray<_, u64> = PerCpuArray::create(COUNTER_COUNT, 0).expect("a map");
    own.pin(&left).expect("a pin");
    let mut agent = start_with_renamed(&node, policy, renamed);
    assert_eq!(node.bpffs.list(), expected_pins("g3"));
    assert_eq!((count(&agent), agent.kernel.port_holds().expect("holds")), (before, holds));
    assert!(agent.take_attempts().iter().all(|attempt| attempt.verdict == VerdictKind::Deny));
    assert!(only_owner_may_bind(&mut owner, &mut stranger, 20080));
    DONE
}
