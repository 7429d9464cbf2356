//! How the programs bear many claims, many pods and deep cgroups. A reconciler in this process keeps them in step, so
//! that one and the same programs are measured with few and with many: where the kernel puts a program makes more of a
//! difference than these.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
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
use enforcer_ebpf::wire::{Policy, Protocol, Undeclared};
use enforcer_testing::pods::{Pod, SYSTEMD_BESTEFFORT};

use super::{
    comparison::{Attachment, Case, Comparison, Upkeep},
    scenes::{CLAIMED, FILL, REFUSED, TURN},
};
use crate::driver::Order;

/// How `enforcer run` sets the programs by default, but for the mode.
pub(crate) const POLICY: Policy =
    Policy { enforce: true, undeclared: Undeclared::Adopt, report_bound: true, errno: 98, ..Policy::from_word(0) };

/// A cgroup of a guaranteed pod: the third one from the root, as the sandbox is one too.
const GUARANTEED: &str = "kubepods-pod{uid_}.slice";

/// Which case is divided by which.
pub(super) const COMPARED: [(&str, &str); 9] = [
    ("owned-10000-claims", "owned-1-claim"),
    ("denied-10000-claims", "denied"),
    ("owned-65535-claims", "owned-1-claim"),
    ("denied-65535-claims", "denied"),
    ("unclaimed-1000-pods", "unclaimed-1-pod"),
    ("owned-1000-pods", "owned-1-claim"),
    ("denied-1000-pods", "denied"),
    ("owned-depth-8", "owned-depth-3"),
    ("denied-depth-8", "denied-depth-3"),
];

/// Claims and pods beside the owner and the stranger.
#[derive(Clone, Copy)]
struct ClaimLoad {
    pods: u16,
    claims: u16,
}

/// A reconciler, and what it needs before each turn.
pub(super) struct ReconcilerUpkeep {
    reconciler: Reconciler,
    /// Cgroup of the pod that owns a port.
    owner: u64,
    /// The pods that there may be, and which of these there are.
    pod_sets: Vec<Vec<ParsedPod>>,
    pod_set: usize,
}

impl ReconcilerUpkeep {
    /// Makes everything as it is where the agent keeps up: the pods of this set, and the mark of who holds the port.
    /// The rings are not read, and full.
    pub(super) fn prepare(&mut self, pod_set: usize) -> anyhow::Result<()> {
        if pod_set != self.pod_set {
            self.reconciler.reset(self.pod_sets[pod_set].clone(), now());
            self.pod_set = pod_set;
        }
        self.reconciler.settle_sockets(now())?;
        self.take_outputs()?;
        self.reconciler.kernel().set_port_holder(Protocol::Tcp, CLAIMED, self.owner)?;
        Ok(())
    }

    /// Takes the outputs, none of which may be a change that the kernel refused.
    fn take_outputs(&mut self) -> anyhow::Result<()> {
        while let Some(output) = self.reconciler.poll_output() {
            ensure!(!matches!(output, Output::MapFailure(_)), "the kernel refused some of the claims");
        }
        Ok(())
    }
}

/// Few and many claims and pods.
pub(super) fn add_loads(comparison: &mut Comparison) -> anyhow::Result<()> {
    let loads = [(100, 10_000), (100, u16::MAX), (1000, 1000)].map(|(pods, claims)| ClaimLoad { pods, claims });
    let pair = attach(comparison, "loads/kubepods.slice", SYSTEMD_BESTEFFORT, &loads)?;
    for (name, pod_set) in [("unclaimed-1-pod", 0), ("unclaimed-1000-pods", 3)] {
        let case = Case::new(name, pair.attachment, pair.stranger, order(REFUSED));
        comparison.add(Case { fails: true, pod_set, ..case });
    }
    for (pod_set, names) in [
        ["owned-1-claim", "denied"],
        ["owned-10000-claims", "denied-10000-claims"],
        ["owned-65535-claims", "denied-65535-claims"],
        ["owned-1000-pods", "denied-1000-pods"],
    ]
    .into_iter()
    .enumerate()
    {
        pair.add(comparison, names, pod_set);
    }
    Ok(())
}

pub(super) fn add_shallow(comparison: &mut Comparison) -> anyhow::Result<()> {
    let pair = attach(comparison, "shallow", GUARANTEED, &[])?;
    pair.add(comparison, ["owned-depth-3", "denied-depth-3"], 0);
    Ok(())
}

pub(super) fn add_deep(comparison: &mut Comparison) -> anyhow::Result<()> {
    let pair = attach(comparison, "a/b/c/d", SYSTEMD_BESTEFFORT, &[])?;
    pair.add(comparison, ["owned-depth-8", "denied-depth-8"], 0);
    Ok(())
}

/// Indexes of programs, and of processes in the pod that owns a port and in one that owns nothing.
struct Pair {
    attachment: usize,
    owner: usize,
    stranger: usize,
}

impl Pair {
    /// Adds the bind of the port by the owner and by the stranger.
    fn add(&self, comparison: &mut Comparison, names: [&str; 2], pod_set: usize) {
        for (name, driver, fails) in [(names[0], self.owner, false), (names[1], self.stranger, true)] {
            let case = Case::new(name, self.attachment, driver, order(CLAIMED));
            comparison.add(Case { fails, pod_set, ..case });
        }
    }
}

fn order(port: u16) -> Order {
    Order { port, times: TURN, ..Order::default() }
}

/// Starts a reconciler on a cgroup. `layout` is that of its pods' cgroups.
fn attach(comparison: &mut Comparison, root: &str, layout: &str, loads: &[ClaimLoad]) -> anyhow::Result<Pair> {
    let path = comparison.sandbox().make(root);
    let mut reconciler = Reconciler::load(
        Start {
            root: Root::find(Some(&path), Path::new("/proc/self/mountinfo"))?,
            settings: Settings {
                limits: ClaimLimits { max_ports_per_pod: 65_535, ..ClaimLimits::default() },
                ..Settings::default()
            },
            policy: POLICY,
            features: probe::features()?,
            trace: false,
            lease: None,
            shared_ports: Vec::new(),
            boot_state: None,
        },
        None,
    )?;
    // As in an agent whose work is kept: where a bind is about to be denied, the programs look how late it is.
    reconciler.kernel().renew(Some(BootNanos::new(u64::MAX)));
    let make = |pod: &Pod, layout: &str| -> anyhow::Result<PathBuf> {
        let cgroup = path.join(pod.cgroup(layout));
        fs::create_dir_all(&cgroup)?;
        Ok(cgroup)
    };
    let (owner, stranger) = (Pod::new("owner").ports(&CLAIMED.to_string()), Pod::new("stranger"));
    let cgroups = [make(&owner, layout)?, make(&stranger, layout)?];
    let mut pod_sets = vec![vec![owner.parsed(), stranger.parsed()]];
    for load in loads {
        let mut pods = pod_sets[0].clone();
        for (number, ports) in load.ports().into_iter().enumerate() {
            let pod = Pod::new(&format!("pod-{number}")).ports(&ports);
            make(&pod, SYSTEMD_BESTEFFORT)?;
            pods.push(pod.parsed());
        }
        pod_sets.push(pods);
        reconciler.drain_cgroup_ring(now())?;
    }
    reconciler.drain_cgroup_ring(now())?;
    reconciler.reset(pod_sets[0].clone(), now());
    reconciler.attach()?;
    let pod = if layout == GUARANTEED { Some(cgroups[0].as_path()) } else { cgroups[0].parent() };
    let owner = fs::metadata(pod.context("a container's cgroup is in a pod's")?)?.ino();
    let mut upkeep = ReconcilerUpkeep { reconciler, owner, pod_sets, pod_set: 0 };
    upkeep.take_outputs()?;
    let attachment = Attachment::of_product(&path, Upkeep::Reconciler(Box::new(upkeep)))?;
    let pair = Pair {
        attachment: comparison.attach(attachment),
        owner: comparison.drive(&cgroups[0])?,
        stranger: comparison.drive(&cgroups[1])?,
    };
    // Denials are reported until the ring is full.
    comparison.run(pair.stranger, &Order { times: FILL, ..order(CLAIMED) })?;
    Ok(pair)
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
