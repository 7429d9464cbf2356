//! What is compared: cgroups with programs, processes in them, and what these do.

use std::{
    collections::HashMap,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use aya::programs::loaded_programs;
use enforcer::{
    agent::{
        output::Output,
        reconciler::{Reconciler, Start},
    },
    host::{cgroup::Root, clock::now},
    kernel::probe,
};
use enforcer_core::{
    index::Settings,
    model::kernel_ids::BootNanos,
    pods::{claims::ClaimLimits, pod::Pod as ParsedPod},
};
use enforcer_ebpf::wire::{BindEvent, Policy, Protocol, Undeclared, VERDICT_RING_BYTES};

use super::statistics;
use enforcer_testing::{
    cgroup_sandbox::Sandbox,
    pods::{Pod, SYSTEMD_BESTEFFORT},
};

use crate::{
    comparison_programs::{self, Hook},
    driver::{Done, Driver, Order},
};

/// The port that the pod `owner` claims.
const CLAIMED: u16 = 20_001;
/// From here on nobody claims anything, where not all ports are claimed.
const UNCLAIMED: u16 = 40_000;
/// How many of those are bound in turn: a port that was bound before is marked as held until the agent has looked.
const TURNED: u16 = 1000;
/// Nobody claims it and somebody outside has it, so that the kernel refuses it when the programs have had their say.
const REFUSED: u16 = 39_000;
/// The first port of the rules, none of which matches.
const RULES: u16 = 30_000;

/// More binds than there is room for in the ring.
const FILL: u32 = 2 * VERDICT_RING_BYTES / size_of::<BindEvent>() as u32;

/// How `enforcer run` sets the programs by default, but for the mode.
const POLICY: Policy =
    Policy { enforce: true, undeclared: Undeclared::Adopt, report_bound: true, errno: 98, ..Policy::from_word(0) };

const NONE: &str = "none";
const EMPTY: &str = "empty";
/// A bind that the kernel itself refuses, after the program: of one and the same port, with all caches warm.
const EMPTY_REFUSED: &str = "empty-refused";
/// A socket that is never bound.
const EMPTY_UNBOUND: &str = "empty-unbound";

/// Which case is divided by which.
pub(super) const COMPARED: [(&str, &str); 27] = [
    (NONE, EMPTY),
    ("rules-1", EMPTY_REFUSED),
    ("rules-16", EMPTY_REFUSED),
    ("rules-128", EMPTY_REFUSED),
    ("unclaimed", EMPTY_REFUSED),
    ("bound", EMPTY),
    ("unbound", EMPTY_UNBOUND),
    ("owned", EMPTY),
    ("denied", EMPTY),
    ("denied-told", EMPTY),
    ("audited", EMPTY),
    ("adopted", EMPTY),
    ("adopted", "bound"),
    ("unclaimed", "rules-1"),
    ("unclaimed", "rules-16"),
    ("unclaimed", "rules-128"),
    ("owned", "rules-128"),
    ("denied", "rules-128"),
    ("owned-10000-claims", "owned"),
    ("denied-10000-claims", "denied"),
    ("owned-65535-claims", "owned"),
    ("denied-65535-claims", "denied"),
    ("unclaimed-1000-pods", "unclaimed-1-pod"),
    ("owned-1000-pods", "owned"),
    ("denied-1000-pods", "denied"),
    ("owned-depth-8", "owned-depth-3"),
    ("denied-depth-8", "denied-depth-3"),
];

/// Programs on a cgroup.
struct Attachment {
    reconciler: Option<Reconciler>,
    /// Descriptors of the programs.
    programs: HashMap<Hook, i32>,
    /// The cgroup of the pod that owns a port.
    owner: u64,
    /// Whether what the programs tell of binds is read, as the agent does. Where it is not, their ring is full.
    read: bool,
    /// The pods that there may be, and which of these there are.
    pod_sets: Vec<Vec<ParsedPod>>,
    pod_set: usize,
    /// What lives as long as the attachment does.
    _kept: Vec<OwnedFd>,
}

/// One thing that is compared.
struct CaseSpec {
    name: &'static str,
    attachment: usize,
    driver: usize,
    order: Order,
    /// Index of the pods that there are.
    pod_set: usize,
    /// Whether the binds fail.
    fails: bool,
}

/// All of them.
pub(super) struct Cases {
    attachments: Vec<Attachment>,
    drivers: Vec<Driver>,
    specs: Vec<CaseSpec>,
    sandbox: Sandbox,
    /// Holds [`REFUSED`].
    _holder: TcpListener,
}

/// Claims and pods beside the owner and the stranger.
#[derive(Clone, Copy)]
struct ClaimLoad {
    pods: u16,
    claims: u16,
}

/// What a reconciler is made of.
struct ReconcilerSpec<'a> {
    root: &'a str,
    policy: Policy,
    /// The layouts of the owner's and of the stranger's cgroup, and what is below them.
    cgroups: [(&'a str, &'a str); 2],
    loads: &'a [ClaimLoad],
    read: bool,
}

const KUBELET: (&str, &str) = (SYSTEMD_BESTEFFORT, "");
const DEFAULT_SPEC: ReconcilerSpec<'static> =
    ReconcilerSpec { root: "kubepods.slice", policy: POLICY, cgroups: [KUBELET; 2], loads: &[], read: true };
/// A cgroup of a guaranteed pod: the third one from the root, as the sandbox is one too.
const GUARANTEED: &str = "kubepods-pod{uid_}.slice";

impl Cases {
    /// Programs that are loaded first run up to a fifth slower than the same ones that are loaded later, so each sitting
    /// begins with others.
    pub(super) fn new(sitting: usize) -> anyhow::Result<Self> {
        let mut this = Self {
            attachments: Vec::new(),
            drivers: Vec::new(),
            specs: Vec::new(),
            sandbox: Sandbox::new(),
            _holder: TcpListener::bind((Ipv4Addr::UNSPECIFIED, REFUSED))?,
        };
        this.reference(NONE, walk(), |_| Ok(None))?;
        for (name, order) in [(EMPTY, walk()), (EMPTY_REFUSED, refused()), (EMPTY_UNBOUND, unbound())] {
            this.reference(name, order, |hook| comparison_programs::empty(hook).map(Some))?;
        }
        for (name, count) in [("rules-1", 1), ("rules-16", 16), ("rules-128", 128)] {
            this.reference(name, refused(), |hook| match hook {
                Hook::Bind4 => comparison_programs::rules(count, RULES.into()).map(Some),
                _ => Ok(None),
            })?;
        }

        let mut builders = [Self::usual, Self::audited, Self::crowded, Self::shallow, Self::deep];
        let first = sitting % builders.len();
        builders.rotate_left(first);
        for add in builders {
            add(&mut this)?;
        }
        // Where nobody reads what is told of denials, they are told until the ring is full.
        for spec in this.specs.iter().filter(|spec| spec.name == "denied" || spec.name.starts_with("denied-depth")) {
            this.drivers[spec.driver].run(&Order { times: FILL, ..spec.order })?;
        }
        Ok(this)
    }

    /// Nobody but the owner and the stranger.
    fn usual(&mut self) -> anyhow::Result<()> {
        let (attachment, _, stranger) = self.reconciler(&DEFAULT_SPEC)?;
        self.add("unclaimed", attachment, stranger, refused(), 0);
        self.add("bound", attachment, stranger, walk(), 0);
        self.add("unbound", attachment, stranger, unbound(), 0);
        self.add("adopted", attachment, stranger, Order { reuse: true, ..walk() }, 0);
        self.add("denied-told", attachment, stranger, claimed(), 0);
        Ok(())
    }

    fn audited(&mut self) -> anyhow::Result<()> {
        let audit = ReconcilerSpec {
            root: "audit/kubepods.slice",
            policy: Policy { enforce: false, ..POLICY },
            ..DEFAULT_SPEC
        };
        let (attachment, _, stranger) = self.reconciler(&audit)?;
        self.add("audited", attachment, stranger, claimed(), 0);
        Ok(())
    }

    /// One and the same programs with few and with many claims and pods: where the kernel puts a program makes more of a
    /// difference than these.
    fn crowded(&mut self) -> anyhow::Result<()> {
        let loads = [(100, 10_000), (100, u16::MAX), (1000, 1000)].map(|(pods, claims)| ClaimLoad { pods, claims });
        let spec = ReconcilerSpec { root: "loads/kubepods.slice", loads: &loads, read: false, ..DEFAULT_SPEC };
        let (attachment, owner, stranger) = self.reconciler(&spec)?;
        self.add("unclaimed-1-pod", attachment, stranger, refused(), 0);
        self.add("unclaimed-1000-pods", attachment, stranger, refused(), 3);
        for (pod_set, names) in [
            ["owned", "denied"],
            ["owned-10000-claims", "denied-10000-claims"],
            ["owned-65535-claims", "denied-65535-claims"],
            ["owned-1000-pods", "denied-1000-pods"],
        ]
        .into_iter()
        .enumerate()
        {
            self.add(names[0], attachment, owner, claimed(), pod_set);
            self.add(names[1], attachment, stranger, claimed(), pod_set);
        }
        Ok(())
    }

    fn shallow(&mut self) -> anyhow::Result<()> {
        self.at_depth("shallow", GUARANTEED, ["owned-depth-3", "denied-depth-3"])
    }

    fn deep(&mut self) -> anyhow::Result<()> {
        self.at_depth("a/b/c/d", SYSTEMD_BESTEFFORT, ["owned-depth-8", "denied-depth-8"])
    }

    fn at_depth(&mut self, root: &str, layout: &str, names: [&'static str; 2]) -> anyhow::Result<()> {
        let spec = ReconcilerSpec { root, cgroups: [(layout, ""); 2], read: false, ..DEFAULT_SPEC };
        let (attachment, owner, stranger) = self.reconciler(&spec)?;
        self.add(names[0], attachment, owner, claimed(), 0);
        self.add(names[1], attachment, stranger, claimed(), 0);
        Ok(())
    }

    /// A case with programs of ours to compare with, or without any.
    fn reference(
        &mut self,
        name: &'static str,
        order: Order,
        program: impl Fn(Hook) -> std::io::Result<Option<OwnedFd>>,
    ) -> anyhow::Result<()> {
        let path = self.sandbox.make(name);
        let cgroup = File::open(&path)?;
        let (mut programs, mut kept) = (HashMap::new(), Vec::new());
        for hook in Hook::ALL {
            if let Some(program) = program(hook).with_context(|| format!("the program {name}"))? {
                kept.push(comparison_programs::attach(program.as_fd(), cgroup.as_fd(), hook)?);
                programs.insert(hook, program.as_raw_fd());
                kept.push(program);
            }
        }
        let pod = self.sandbox.make(&format!("{name}/pod/container"));
        self.drivers.push(Driver::start(&pod, 0)?);
        let (pod_sets, pod_set) = (Vec::new(), 0);
        self.attachments.push(Attachment {
            reconciler: None,
            programs,
            owner: 0,
            read: false,
            pod_sets,
            pod_set,
            _kept: kept,
        });
        self.add(name, self.attachments.len() - 1, self.drivers.len() - 1, order, 0);
        Ok(())
    }

    fn add(&mut self, name: &'static str, attachment: usize, driver: usize, order: Order, pod_set: usize) {
        let fails = order.bind && order.port == REFUSED || name.starts_with("denied");
        self.specs.push(CaseSpec { name, attachment, driver, order, pod_set, fails });
    }

    /// A reconciler on a cgroup, with a driver in the pod that owns a port, and one in a pod that owns nothing.
    fn reconciler(&mut self, spec: &ReconcilerSpec<'_>) -> anyhow::Result<(usize, usize, usize)> {
        let path = self.sandbox.make(spec.root);
        let before = descriptors()?;
        let mut reconciler = Reconciler::load(
            Start {
                root: Root::find(Some(&path), Path::new("/proc/self/mountinfo"))?,
                settings: Settings {
                    limits: ClaimLimits { max_ports_per_pod: 65_535, ..ClaimLimits::default() },
                    ..Settings::default()
                },
                policy: spec.policy,
                features: probe::features()?,
                trace: false,
                lease: None,
                shared_ports: Vec::new(),
            },
            None,
        )?;
        // As in an agent whose work is kept: where a bind is about to be denied, the programs look how late it is.
        reconciler.kernel().renew(Some(BootNanos::new(u64::MAX)));
        let make = |pod: &Pod, (layout, below): (&str, &str)| -> anyhow::Result<PathBuf> {
            let cgroup = path.join(pod.cgroup(layout)).join(below);
            fs::create_dir_all(&cgroup)?;
            Ok(cgroup)
        };
        let (owner, stranger) = (Pod::new("owner").ports(&CLAIMED.to_string()), Pod::new("stranger"));
        let cgroups = [make(&owner, spec.cgroups[0])?, make(&stranger, spec.cgroups[1])?];
        let mut pod_sets = vec![vec![owner.parsed(), stranger.parsed()]];
        for load in spec.loads {
            let mut pods = pod_sets[0].clone();
            for (number, ports) in load.ports().into_iter().enumerate() {
                let pod = Pod::new(&format!("pod-{number}")).ports(&ports);
                make(&pod, KUBELET)?;
                pods.push(pod.parsed());
            }
            pod_sets.push(pods);
            reconciler.drain_cgroup_ring(now())?;
        }
        reconciler.drain_cgroup_ring(now())?;
        reconciler.reset(pod_sets[0].clone(), now());
        reconciler.attach()?;
        take_outputs(&mut reconciler)?;
        let programs = programs(&before)?;
        // They all share one processor, so that no two are compared on different ones.
        for cgroup in &cgroups {
            self.drivers.push(Driver::start(cgroup, 0)?);
        }
        let pod = if spec.cgroups[0].0 == GUARANTEED { Some(cgroups[0].as_path()) } else { cgroups[0].parent() };
        let owner = fs::metadata(pod.context("a container's cgroup is in a pod's")?)?.ino();
        let reconciler = Some(reconciler);
        let attachment =
            Attachment { reconciler, programs, owner, read: spec.read, pod_sets, pod_set: 0, _kept: Vec::new() };
        self.attachments.push(attachment);
        Ok((self.attachments.len() - 1, self.drivers.len() - 2, self.drivers.len() - 1))
    }

    pub(super) fn count(&self) -> usize {
        self.specs.len()
    }

    pub(super) fn case(&mut self, place: usize) -> Case<'_> {
        let spec = &self.specs[place];
        Case { spec, attachment: &mut self.attachments[spec.attachment], driver: &mut self.drivers[spec.driver] }
    }
}

impl ClaimLoad {
    /// What each pod claims; never the port of the owner.
    fn ports(self) -> Vec<String> {
        let (pods, claims) = (u32::from(self.pods), u32::from(self.claims));
        let range = |number: u32| {
            let (first, last) = (number * claims / pods + 1, (number + 1) * claims / pods);
            let claimed = u32::from(CLAIMED);
            match (first..=last).contains(&claimed) {
                true if first == claimed => format!("{}-{last}", claimed + 1),
                true if last == claimed => format!("{first}-{}", claimed - 1),
                true => format!("{first}-{},{}-{last}", claimed - 1, claimed + 1),
                false if first == last => first.to_string(),
                false => format!("{first}-{last}"),
            }
        };
        (0..pods).map(range).collect()
    }
}

fn claimed() -> Order {
    Order { port: CLAIMED, ports: 1, ..walk() }
}

fn refused() -> Order {
    Order { port: REFUSED, ports: 1, ..walk() }
}

fn walk() -> Order {
    Order { port: UNCLAIMED, ports: TURNED, times: 0, reuse: false, bind: true }
}

fn unbound() -> Order {
    Order { bind: false, ..walk() }
}

/// This process's descriptors.
fn descriptors() -> anyhow::Result<Vec<i32>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The programs among the descriptors that are new.
fn programs(before: &[i32]) -> anyhow::Result<HashMap<Hook, i32>> {
    let mut names = HashMap::new();
    for program in loaded_programs() {
        let program = program?;
        names.insert(program.id(), program.name_as_str().unwrap_or_default().to_owned());
    }
    let mut found = HashMap::new();
    for descriptor in descriptors()?.into_iter().filter(|descriptor| !before.contains(descriptor)) {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap_or_default();
        // Links have a program too, and are no programs.
        if text.contains("link_id:") {
            continue;
        }
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok());
        let Some(name) = id.and_then(|id| names.get(&id)) else { continue };
        if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.program().starts_with(name.as_str())) {
            found.insert(hook, descriptor);
        }
    }
    if found.len() != Hook::ALL.len() {
        bail!("of the programs only {found:?} were found");
    }
    Ok(found)
}

/// One of the cases, ready to run.
pub(super) struct Case<'a> {
    spec: &'a CaseSpec,
    attachment: &'a mut Attachment,
    driver: &'a mut Driver,
}

/// Takes what the engine queued, none of which may be a change that the kernel refused.
fn take_outputs(engine: &mut Reconciler) -> anyhow::Result<()> {
    while let Some(output) = engine.poll_output() {
        ensure!(!matches!(output, Output::MapFailure(_)), "the kernel refused some of the claims");
    }
    Ok(())
}

impl Case<'_> {
    pub(super) fn name(&self) -> &'static str {
        self.spec.name
    }

    /// Makes everything as it is where the agent keeps up: rings read, and marks of who holds what as they should be.
    pub(super) fn prepare(&mut self) -> anyhow::Result<()> {
        let Some(reconciler) = &mut self.attachment.reconciler else { return Ok(()) };
        if self.spec.pod_set != self.attachment.pod_set {
            reconciler.reset(self.attachment.pod_sets[self.spec.pod_set].clone(), now());
            take_outputs(reconciler)?;
            self.attachment.pod_set = self.spec.pod_set;
        }
        if self.attachment.read {
            reconciler.drain_verdict_ring(now())?;
            while reconciler.has_verdict_backlog() {
                reconciler.drain_verdict_ring(now())?;
            }
        }
        reconciler.settle_sockets(now())?;
        take_outputs(reconciler)?;
        let kernel = reconciler.kernel();
        for port in UNCLAIMED..UNCLAIMED + TURNED {
            kernel.set_port_holder(Protocol::Tcp, port, 0)?;
        }
        kernel.set_port_holder(Protocol::Tcp, CLAIMED, self.attachment.owner)?;
        Ok(())
    }

    /// So many binds.
    pub(super) fn run(&mut self, times: u32) -> anyhow::Result<Done> {
        Ok(self.driver.run(&Order { times, ..self.spec.order })?)
    }

    /// Whether it went as it should have.
    pub(super) fn check(&self, done: Done, times: u32) -> anyhow::Result<()> {
        let expected = if self.spec.fails { times } else { 0 };
        ensure!(done.failed == expected, "{}: {} of {times} binds failed", self.spec.name, done.failed);
        Ok(())
    }

    /// What the kernel has counted of the programs.
    pub(super) fn statistics(&self) -> anyhow::Result<HashMap<Hook, (u64, u64)>> {
        let of = |(hook, descriptor): (&Hook, &i32)| Ok((*hook, statistics(*descriptor)?));
        self.attachment.programs.iter().map(of).collect()
    }
}
