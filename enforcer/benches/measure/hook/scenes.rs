//! What is compared: cgroups with programs, processes in them, and what these do.

use std::{
    collections::HashMap,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use aya::programs::loaded_programs;
use enforcer::{
    agent::engine::{Engine, Start},
    bpf::probe,
    core::{claims::Limits, index::Settings},
    host::cgroup::Root,
};
use enforcer_ebpf::abi::{BIND_RING_BYTES, BindEvent, Policy, Protocol, Undeclared};

use super::statistics;
use crate::{
    driver::{Done, Driver, Order},
    raw::{self, Hook},
    support::{
        manifest::{Manifest, SYSTEMD_BESTEFFORT},
        sandbox::Sandbox,
    },
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
const FILL: u32 = 2 * BIND_RING_BYTES / size_of::<BindEvent>() as u32;

/// How `enforcer run` sets the programs by default, but for the mode.
const POLICY: Policy =
    Policy { enforce: true, undeclared: Undeclared::Adopt, report_bound: true, errno: 98, ..Policy::from_word(0) };

const NONE: &str = "none";
const EMPTY: &str = "empty";
/// A bind that the kernel itself refuses, after the program: of one and the same port, with all caches warm.
const EMPTY_REFUSED: &str = "empty-refused";
/// A socket that is never bound.
const EMPTY_UNBOUND: &str = "empty-unbound";

/// Which scene is divided by which.
pub(super) const COMPARED: [(&str, &str); 26] = [
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
    ("unclaimed-10000-claims", "unclaimed"),
    ("owned-10000-claims", "owned"),
    ("denied-10000-claims", "denied"),
    ("owned-65535-claims", "owned"),
    ("denied-65535-claims", "denied"),
    ("unclaimed-1000-pods", "unclaimed"),
    ("owned-1000-pods", "owned"),
    ("denied-1000-pods", "denied"),
    ("owned-depth-8", "owned"),
    ("denied-depth-8", "denied"),
];

/// Programs on a cgroup.
struct Setting {
    engine: Option<Engine>,
    /// Descriptors of the programs.
    programs: HashMap<Hook, i32>,
    /// The cgroup of the pod that owns a port.
    owner: u64,
    /// Whether what the programs tell of binds is read, as the agent does. Where it is not, their ring is full.
    read: bool,
    /// What lives as long as the setting does.
    _kept: Vec<OwnedFd>,
}

/// One thing that is compared.
struct Part {
    name: &'static str,
    setting: usize,
    driver: usize,
    order: Order,
    /// Whether the binds are denied.
    fails: bool,
}

/// All of them.
pub(super) struct Scenes {
    settings: Vec<Setting>,
    drivers: Vec<Driver>,
    parts: Vec<Part>,
    sandbox: Sandbox,
    /// Holds [`REFUSED`].
    _holder: TcpListener,
}

/// Claims and pods of an engine.
struct Crowd {
    /// Pods beside the owner and the stranger.
    pods: u16,
    /// Claims of all these.
    claims: u16,
}

impl Scenes {
    pub(super) fn new(quick: bool) -> anyhow::Result<Self> {
        let holder = TcpListener::bind((Ipv4Addr::UNSPECIFIED, REFUSED))?;
        let mut this = Self {
            settings: Vec::new(),
            drivers: Vec::new(),
            parts: Vec::new(),
            sandbox: Sandbox::new(),
            _holder: holder,
        };
        this.reference(NONE, walk(), |_| Ok(None))?;
        for (name, order) in [(EMPTY, walk()), (EMPTY_REFUSED, refused()), (EMPTY_UNBOUND, unbound())] {
            this.reference(name, order, |hook| raw::empty(hook).map(Some))?;
        }
        for (name, count) in [("rules-1", 1), ("rules-16", 16), ("rules-128", 128)] {
            this.reference(name, refused(), |hook| match hook {
                Hook::Bind4 => raw::rules(count, RULES.into()).map(Some),
                _ => Ok(None),
            })?;
        }
        let alone = Crowd { pods: 0, claims: 0 };
        let alone = || Crowd { pods: 0, claims: 0 };
        let (setting, owner, stranger) = this.engine("kubepods.slice", POLICY, &alone(), true)?;
        this.add("unclaimed", setting, stranger, refused());
        this.add("bound", setting, stranger, walk());
        this.add("unbound", setting, stranger, unbound());
        this.add("adopted", setting, stranger, Order { reuse: true, ..walk() });
        this.add("denied-told", setting, stranger, claimed());
        let audit = Policy { enforce: false, ..POLICY };
        let (setting, _, other) = this.engine("audit/kubepods.slice", audit, &alone(), true)?;
        this.add("audited", setting, other, claimed());
        for (root, crowd, names) in [
            ("one/kubepods.slice", alone(), ["", "owned", "denied"]),
            (
                "claims-10000/kubepods.slice",
                Crowd { pods: 100, claims: 10_000 },
                ["unclaimed-10000-claims", "owned-10000-claims", "denied-10000-claims"],
            ),
            (
                "claims-65535/kubepods.slice",
                Crowd { pods: 100, claims: u16::MAX },
                ["", "owned-65535-claims", "denied-65535-claims"],
            ),
            (
                "pods-1000/kubepods.slice",
                Crowd { pods: 1000, claims: 1000 },
                ["unclaimed-1000-pods", "owned-1000-pods", "denied-1000-pods"],
            ),
            ("a/b/c/d/kubepods.slice", alone(), ["", "owned-depth-8", "denied-depth-8"]),
        ] {
            if quick && names[1].ends_with("-10000-claims") {
                continue;
            }
            let (setting, owner, stranger) = this.engine(root, POLICY, &crowd, false)?;
            if !names[0].is_empty() {
                this.add(names[0], setting, stranger, refused());
            }
            this.add(names[1], setting, owner, claimed());
            this.add(names[2], setting, stranger, claimed());
            // Nobody reads what is told of denials, which are told until the ring is full.
            this.drivers[stranger].run(&Order { times: FILL, ..claimed() })?;
        }
        Ok(this)
    }

    /// A scene with programs of ours to compare with, or without any.
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
                kept.push(raw::attach(program.as_fd(), cgroup.as_fd(), hook)?);
                programs.insert(hook, program.as_raw_fd());
                kept.push(program);
            }
        }
        let pod = self.sandbox.make(&format!("{name}/pod/container"));
        self.drivers.push(Driver::start(&pod, 0)?);
        self.settings.push(Setting { engine: None, programs, owner: 0, read: false, _kept: kept });
        self.add(name, self.settings.len() - 1, self.drivers.len() - 1, order);
        Ok(())
    }

    fn add(&mut self, name: &'static str, setting: usize, driver: usize, order: Order) {
        let fails = order.bind && order.port == REFUSED || name.starts_with("denied");
        self.parts.push(Part { name, setting, driver, order, fails });
    }

    /// An engine on a cgroup, with a driver in the pod that owns a port, and one in a pod that owns nothing.
    fn engine(
        &mut self,
        root: &str,
        policy: Policy,
        crowd: &Crowd,
        read: bool,
    ) -> anyhow::Result<(usize, usize, usize)> {
        let path = self.sandbox.make(root);
        let before = descriptors()?;
        let mut engine = Engine::load(
            Start {
                root: Root::find(Some(&path), Path::new("/proc/self/mountinfo"))?,
                settings: Settings { limits: Limits { max_ports_per_pod: 65_535 }, ..Settings::default() },
                policy,
                features: probe::features()?,
                trace: false,
                lease: None,
                shared_ports: Vec::new(),
            },
            None,
        )?;
        let (owner, stranger) = (Manifest::new("owner").ports(&CLAIMED.to_string()), Manifest::new("stranger"));
        let mut cgroup = |manifest: &Manifest| -> anyhow::Result<PathBuf> {
            let cgroup = path.join(manifest.cgroup(SYSTEMD_BESTEFFORT));
            fs::create_dir_all(&cgroup)?;
            engine.apply(manifest.pod());
            engine.drain_cgroups()?;
            Ok(cgroup)
        };
        let (owner, stranger) = (cgroup(&owner)?, cgroup(&stranger)?);
        for (number, ports) in crowd.ports().into_iter().enumerate() {
            cgroup(&Manifest::new(&format!("pod-{number}")).ports(&ports))?;
        }
        engine.attach()?;
        ensure!(engine.take_failures().is_empty(), "the kernel refused some of the claims");
        let programs = programs(&before)?;
        // They all share one processor, so that no two are compared on different ones.
        self.drivers.push(Driver::start(&owner, 0)?);
        self.drivers.push(Driver::start(&stranger, 0)?);
        let pod = owner.parent().context("a container's cgroup is in a pod's")?;
        let owner = std::os::unix::fs::MetadataExt::ino(&fs::metadata(pod)?);
        self.settings.push(Setting { engine: Some(engine), programs, owner, read, _kept: Vec::new() });
        Ok((self.settings.len() - 1, self.drivers.len() - 2, self.drivers.len() - 1))
    }

    pub(super) fn count(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn scene(&mut self, place: usize) -> Scene<'_> {
        let part = &self.parts[place];
        Scene { part, setting: &mut self.settings[part.setting], driver: &mut self.drivers[part.driver] }
    }
}

impl Crowd {
    /// What each pod claims; never the port of the owner.
    fn ports(&self) -> Vec<String> {
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

/// One of the scenes, to be played.
pub(super) struct Scene<'a> {
    part: &'a Part,
    setting: &'a mut Setting,
    driver: &'a mut Driver,
}

impl Scene<'_> {
    pub(super) fn name(&self) -> &'static str {
        self.part.name
    }

    /// Makes everything as it is where the agent keeps up: rings read, and marks of who holds what as they should be.
    pub(super) fn prepare(&mut self) -> anyhow::Result<()> {
        let Some(engine) = &mut self.setting.engine else { return Ok(()) };
        if self.setting.read {
            while engine.drain_binds()?.more {}
        }
        while engine.settle_holders()?.more {}
        let kernel = engine.kernel();
        for port in UNCLAIMED..UNCLAIMED + TURNED {
            kernel.mark(Protocol::Tcp, port, 0);
        }
        kernel.mark(Protocol::Tcp, CLAIMED, self.setting.owner);
        Ok(())
    }

    /// So many binds.
    pub(super) fn play(&mut self, times: u32) -> anyhow::Result<Done> {
        Ok(self.driver.run(&Order { times, ..self.part.order })?)
    }

    /// Whether it went as it should have.
    pub(super) fn check(&self, done: Done, times: u32) -> anyhow::Result<()> {
        let expected = if self.part.fails { times } else { 0 };
        ensure!(done.failed == expected, "{}: {} of {times} binds failed", self.part.name, done.failed);
        Ok(())
    }

    /// What the kernel has counted of the programs.
    pub(super) fn statistics(&self) -> anyhow::Result<HashMap<Hook, (u64, u64)>> {
        let of = |(hook, descriptor): (&Hook, &i32)| Ok((*hook, statistics(*descriptor)?));
        self.setting.programs.iter().map(of).collect()
    }
}
