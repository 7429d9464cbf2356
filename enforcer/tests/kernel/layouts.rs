//! From a cgroup to its pod, in every layout that the kubelet and the runtimes make, in whatever order things come; and
//! from pins under earlier names to the present ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::PerCpuArray;
use enforcer::kernel::{
    LoadOptions,
    map_names::{self, COUNTERS, NODE_MODE, OWNER_RECORDS, Renamed},
    pins::{Persistence, Pins},
};
use enforcer_core::{plan::port_state::Change, reports::report::Actor};
use enforcer_ebpf::wire::{COUNTER_COUNT, KernelError, Policy, Reason, Undeclared, VerdictKind};

use enforcer_testing::{
    kernel_fixture::{ENFORCE, Rig, Seen, denied},
    manifest::{CONTAINER_ID, Manifest, SYSTEMD_BESTEFFORT, api_uid, cgroup_for, static_uid},
    mini_agent::{Keeper, Site, bind, id_of, judged, kept},
    sandbox::Sandbox,
    worker::{Bind, Worker, bind_socket},
};

use crate::{DONE, Outcome, Test};

pub(crate) const TESTS: &[Test] = &[
    ("a_pod_that_is_known_before_its_cgroup", a_pod_that_is_known_before_its_cgroup),
    ("a_cgroup_that_is_made_before_its_pod_is_known", a_cgroup_that_is_made_before_its_pod_is_known),
    ("cgroups_that_were_there_before_the_engine", cgroups_that_were_there_before_the_engine),
    ("a_child_that_is_named_like_a_pod_is_no_other_pod", a_child_that_is_named_like_a_pod_is_no_other_pod),
    ("such_a_child_from_before_the_engine_is_none_either", such_a_child_from_before_the_engine_is_none_either),
    ("such_a_child_that_was_noted_is_taken_out", such_a_child_that_was_noted_is_taken_out),
    ("a_root_of_unknown_level", a_root_of_unknown_level),
    ("a_process_in_no_pod_is_allowed_and_counted", a_process_in_no_pod_is_allowed_and_counted),
    ("an_unknown_pod_is_denied_on_a_claimed_port", an_unknown_pod_is_denied_on_a_claimed_port),
    ("pins_under_earlier_names_are_taken_over", pins_under_earlier_names_are_taken_over),
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
    pods: [Manifest; 2],
    workers: Option<[Worker; 2]>,
}

impl Pair {
    fn new(layout: &'static str, port: u16) -> Self {
        let owner = Manifest::new(&format!("owner-{port}")).ports(&port.to_string());
        Self { layout, port, pods: [owner, Manifest::new(&format!("stranger-{port}"))], workers: None }
    }

    fn start(&mut self, root: &Path) {
        let start = |pod: &Manifest| Worker::start(&make(&root.join(pod.cgroup(self.layout))));
        self.workers = Some(self.pods.each_ref().map(start));
    }

    fn apply(&self, rig: &mut Rig) {
        for pod in &self.pods {
            rig.apply(pod);
        }
    }

    fn judge(&mut self, rig: &mut Rig) {
        let [owner, stranger] = self.workers.as_mut().expect("they were started");
        let layout = self.layout;
        // No record of a cgroup is read between that and the binds.
        let bind = Bind::tcp("0.0.0.0", self.port);
        let errnos = [owner.bind(&bind), stranger.bind(&bind)];
        let reports = rig.told();
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
        let mut rig = Rig::on(sandbox, root, |_| ());
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
                        rig.told();
                    }
                }
            }
            pair.judge(&mut rig);
        }
    }
    DONE
}

fn a_pod_that_is_known_before_its_cgroup() -> Outcome {
    every_layout(Order::PodFirst)
}

fn a_cgroup_that_is_made_before_its_pod_is_known() -> Outcome {
    every_layout(Order::CgroupFirst)
}

fn cgroups_that_were_there_before_the_engine() -> Outcome {
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

fn expect_stranger(seen: &Seen, name: &Path) {
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Claimed), "{}", name.display());
    assert_eq!(seen.report().caller.pod().as_deref(), Some("default/stranger"), "{}", name.display());
}

fn a_child_that_is_named_like_a_pod_is_no_other_pod() -> Outcome {
    let mut rig = Rig::new();
    // Its cgroup does not exist yet: the first one of its name would be taken for it.
    let owner = Manifest::new("owner").ports("20080");
    rig.apply(&owner);
    let known_static = Manifest::new("static").namespace("kube-system").uid(&static_uid()).ports("20081");
    rig.apply(&known_static);
    let stranger = Manifest::new("stranger");
    rig.apply(&stranger);
    let container = rig.make(&stranger.cgroup(SYSTEMD_BESTEFFORT));
    for uid in [owner.pod().uid_text, known_static.pod().uid_text, static_uid()] {
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

fn such_a_child_from_before_the_engine_is_none_either() -> Outcome {
    let (owner, stranger) = (Manifest::new("owner").ports("20080"), Manifest::new("stranger"));
    let sandbox = Sandbox::new();
    let container = sandbox.make(&format!("kubepods.slice/{}", stranger.cgroup(SYSTEMD_BESTEFFORT)));
    let mut processes: Vec<Worker> =
        disguises(&owner.pod().uid_text).iter().map(|name| Worker::start(&make(&container.join(name)))).collect();
    let mut rig = Rig::on(sandbox, "kubepods.slice", |_| ());
    rig.apply(&owner);
    rig.apply(&stranger);
    for process in &mut processes {
        let seen = rig.attempt(process, &Bind::tcp("0.0.0.0", 20080));
        expect_stranger(&seen, &container);
    }
    DONE
}

/// As in the moment of a start, when the programs that note cgroups run already and the pod around the child is not noted yet.
fn such_a_child_that_was_noted_is_taken_out() -> Outcome {
    let mut rig = Rig::new();
    let (owner, stranger) = (Manifest::new("owner").ports("20080"), Manifest::new("stranger"));
    rig.apply(&owner);
    rig.apply(&stranger);
    let container = rig.make(&stranger.cgroup(SYSTEMD_BESTEFFORT));
    let pod = id_of(container.parent().expect("the pod's own cgroup"));
    let bind = Bind::tcp("0.0.0.0", 20080);
    for uid in [owner.pod().uid_text, static_uid()] {
        for name in disguises(&uid) {
            rig.told();
            rig.engine.kernel_mut().apply(&Change::CgroupGone { id: pod }).expect("it is noted");
            let mut process = Worker::start(&make(&container.join(&name)));
            assert_eq!(process.bind(&bind), 0, "{name}: noted as another one's, or nobody's");
            rig.engine.rescan().expect("the tree");
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
fn a_root_of_unknown_level() -> Outcome {
    let mut rig = Rig::with(|start| start.root.level = None);
    let mut owner = rig.start(&Manifest::new("owner").ports("20080"));
    let mut stranger = rig.start(&Manifest::new("stranger"));
    let bind = Bind::tcp("0.0.0.0", 20080);
    // A host process first: from where it is, the root cannot be seen.
    let socket = stranger.open(&bind);
    let seen = rig.watch(|| i32::from(bind_socket(&socket, &bind).is_err()));
    assert_eq!(seen.answer(), (0, VerdictKind::Audit, Reason::Claimed));
    assert_eq!(seen.report().caller, Actor::Host);
    drop(socket);
    stranger.close();
    assert_eq!(rig.engine.kernel_mut().root_level(), None);

    assert_eq!(rig.attempt(&mut owner, &bind).answer(), (0, VerdictKind::Allow, Reason::Owner));
    assert_eq!(rig.attempt(&mut stranger, &bind).answer(), (denied(), VerdictKind::Deny, Reason::Claimed));
    assert_eq!(rig.engine.kernel_mut().root_level(), Some(2));
    DONE
}

/// It may be the rightful owner in a layout that nobody has seen yet.
fn a_process_in_no_pod_is_allowed_and_counted() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20080"));
    let mut process = Worker::start(&rig.make("something/else"));
    let seen = rig.attempt(&mut process, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Error));
    assert_eq!(seen.report().caller, Actor::Unplaced);
    assert_eq!(rig.engine.counters().unwrap().errors(KernelError::CallerUnknown), 1);
    rig.engine.set_policy(Policy { deny_on_error: true, ..ENFORCE });
    let seen = rig.attempt(&mut process, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Error));
    DONE
}

fn an_unknown_pod_is_denied_on_a_claimed_port() -> Outcome {
    let mut rig = Rig::new();
    rig.apply(&Manifest::new("owner").ports("20080"));
    let uid = api_uid();
    let mut unknown = Worker::start(&rig.make(&cgroup_for(&uid, SYSTEMD_BESTEFFORT)));
    let seen = rig.attempt(&mut unknown, &Bind::tcp("0.0.0.0", 20080));
    assert_eq!(seen.answer(), (denied(), VerdictKind::Deny, Reason::Claimed));
    assert!(matches!(&seen.report().caller, Actor::UnknownPod { uid: told, .. } if *told == uid.replace('-', "")));
    let seen = rig.attempt(&mut unknown, &Bind::tcp("0.0.0.0", 20081));
    assert_eq!(seen.answer(), (0, VerdictKind::Allow, Reason::Unclaimed));
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
fn rename_back(site: &Site, generation: &str) {
    let folder = site.bpffs.folder().join("v3");
    for (folder, names) in [folder.join("shared"), folder.join(generation).join("maps")].iter().zip(pinned_maps()) {
        for name in names {
            fs::rename(folder.join(name), folder.join(format!("EARLIER_{name}"))).expect("a pin");
        }
    }
}

/// Starts an agent that knows these earlier names.
fn start_with_renamed(site: &Site, policy: Policy, renamed: &'static [Renamed]) -> Keeper {
    site.start_with(true, |options: &mut LoadOptions| {
        options.policy = policy;
        // One process holds the lock at a time.
        options.persistence = None;
        let pins = Pins::at(&site.bpffs.folder()).expect("a BPF file system").with_renamed(renamed);
        let guard = pins.try_lock().expect("the folder").expect("no other agent");
        options.persistence = Some(Persistence { guard, persist: true });
    })
}

fn pins_under_earlier_names_are_taken_over() -> Outcome {
    let policy = Policy { report_attempts: false, undeclared: Undeclared::Adopt, ..ENFORCE };
    let site = Site::new(&[("owner", "20080/udp"), ("stranger", "20099")]);
    let (mut owner, mut stranger, mut first) = (site.worker("owner"), site.worker("stranger"), site.worker("stranger"));
    let keeper = site.start_with(true, |options| options.policy = policy);
    // A port that nobody declared, which its first pod holds.
    assert_eq!(first.bind(&bind(20081).kept()), 0);
    assert!(judged(&mut owner, &mut stranger, 20080));
    let count = |keeper: &Keeper| keeper.count(VerdictKind::Deny, Reason::Claimed);
    let (before, holds) = (count(&keeper), keeper.kernel.port_holds().expect("holds"));
    assert!(before > 0 && holds.len() == 1, "{before}, {holds:?}");
    drop(keeper);

    let renamed = renamed();
    rename_back(&site, "g1");
    let keeper = start_with_renamed(&site, policy, renamed);
    assert_eq!(site.bpffs.list(), kept("g2"), "all pins have their present names");
    assert_eq!((count(&keeper), keeper.kernel.port_holds().expect("holds")), (before, holds.clone()));
    assert!(judged(&mut owner, &mut stranger, 20080));
    let before = count(&keeper);
    drop(keeper);

    // An earlier version ran once more and made a map of its own: it is the one in use.
    rename_back(&site, "g2");
    let left = site.bpffs.folder().join("v3/shared").join(COUNTERS);
    let own: PerCpuArray<_, u64> = PerCpuArray::create(COUNTER_COUNT, 0).expect("a map");
    own.pin(&left).expect("a pin");
    let mut keeper = start_with_renamed(&site, policy, renamed);
    assert_eq!(site.bpffs.list(), kept("g3"));
    assert_eq!((count(&keeper), keeper.kernel.port_holds().expect("holds")), (before, holds));
    assert!(keeper.told().iter().all(|attempt| attempt.verdict == VerdictKind::Deny));
    assert!(judged(&mut owner, &mut stranger, 20080));
    DONE
}
