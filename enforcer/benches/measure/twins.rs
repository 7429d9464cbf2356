//! The C twin of the bind decision: `twins/bind_decision.c`, compiled when the benchmark runs, where there is a clang.

use std::{
    io::Write as _,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::CgroupSockAddr,
};
use enforcer::host::netns;
use enforcer_ebpf::wire::{
    self, BindEvent, CgroupIdentity, Config, Owner, PortWord, Protocol, Reason, Side, UidForm, VerdictKind, counter,
    port_index, unreported_counter,
};
use enforcer_testing::cgroup_sandbox::mount_points;

use crate::hook::{scaling::POLICY, scenes::CLAIMED_PORTS};

const SOURCE: &str = include_str!("twins/bind_decision.c");

/// Slots of the pods.
const OWNER: u16 = 1;
const STRANGER: u16 = 2;

/// Ways through the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TwinPath {
    /// Nobody claims the port.
    Unclaimed,
    /// The caller's pod owns the port.
    Owned,
    /// Another pod owns the port.
    Denied,
}

/// A loaded twin.
pub(crate) struct Twin {
    ebpf: Ebpf,
    path: TwinPath,
}

/// Compiles the twin. Returns `None` where there is no clang.
pub(crate) fn compile() -> anyhow::Result<Option<Vec<u8>>> {
    let allow = |reason| counter(VerdictKind::Allow, reason, Protocol::Tcp);
    let denied = counter(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp);
    let constants = [
        ("PORT_COUNT", wire::PORT_COUNT),
        ("ENFORCED_PORT_COUNT", wire::ENFORCED_PORT_COUNT),
        ("MAX_OWNERS", wire::MAX_OWNERS),
        ("MAX_POD_CGROUPS", wire::MAX_POD_CGROUPS),
        ("COUNTER_COUNT", wire::COUNTER_COUNT),
        ("RING_BYTES", wire::VERDICT_RING_BYTES),
        ("RECORD_BYTES", size_of::<BindEvent>() as u32),
        ("COUNTERS_PER_PROTOCOL", counter(VerdictKind::Allow, Reason::Owner, Protocol::Udp)),
        ("ALLOW_UNCLAIMED", allow(Reason::Unclaimed)),
        ("ALLOW_OWNER", allow(Reason::Owner)),
        ("DENY_CLAIMED", denied),
        ("UNREPORTED", unreported_counter(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp) - denied),
    ];
    let mut command = Command::new("clang");
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-x", "c", "-c", "-", "-o", "-"]);
    command.args(constants.map(|(name, value)| format!("-D{name}={value}")));
    let mut clang = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
        Ok(clang) => clang,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("starting clang"),
    };
    clang.stdin.take().context("clang reads its input")?.write_all(SOURCE.as_bytes())?;
    let output = clang.wait_with_output()?;
    ensure!(output.status.success(), "clang refuses the C twin, as it says above");
    Ok(Some(output.stdout))
}

impl Twin {
    /// Loads a twin for a cgroup, of which `pod` is below it, and fills its maps for this way.
    pub(crate) fn load(object: &[u8], path: TwinPath, root: &Path, pod: &Path) -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(object).context("the object of the C twin")?;
        let program: &mut CgroupSockAddr = ebpf.program_mut("twin_bind4").context("no twin_bind4")?.try_into()?;
        program.load().context("loading the C twin")?;
        let mut twin = Self { ebpf, path };

        let id = |path: &Path| -> anyhow::Result<u64> { Ok(std::fs::metadata(path)?.ino()) };
        let (root_cgroup, pod_cgroup) = (id(root)?, id(pod)?);
        // Of the pods' cgroups only that of the caller exists.
        let level = pod.strip_prefix(root)?.components().count();
        let [owner_cgroup, stranger_cgroup] =
            if path == TwinPath::Owned { [pod_cgroup, u64::MAX] } else { [u64::MAX, pod_cgroup] };
        let config = Config {
            policy: POLICY.to_word(),
            root_cgroup,
            root_level: level_of(root)?,
            pod_levels: 1 << level,
            netns_cookie: netns::cookie()?.unwrap_or(0),
            // As in an agent whose work is kept: where a bind is about to be denied, the lease is looked at.
            lease_deadline: u64::MAX,
            ..Config::default()
        };
        twin.array("CONFIG")?.set(0, config, 0)?;
        let owner = |cgroup, id| Owner::new(cgroup, id, 0, level as u8, 0, 0);
        let mut owners = twin.array("OWNERS")?;
        owners.set(OWNER.into(), owner(owner_cgroup, 1), 0)?;
        owners.set(STRANGER.into(), owner(stranger_cgroup, 2), 0)?;
        let slot = if path == TwinPath::Owned { OWNER } else { STRANGER };
        let identity = CgroupIdentity::new(pod_cgroup, slot, UidForm::Api);
        HashMap::<_, u64, u64>::try_from(twin.map("POD_CGROUPS")?)?.insert(pod_cgroup, identity.0, 0)?;
        let side = Side { first: OWNER, second: 0, whole: true };
        let mut ports = twin.array("PORTS")?;
        for port in CLAIMED_PORTS {
            ports.set(port_index(Protocol::Tcp, port), PortWord::new(side, side).0, 0)?;
        }
        Ok(twin)
    }

    /// Returns the program.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        let program = self.ebpf.program("twin_bind4").expect("it was loaded");
        program.fd().expect("it was loaded").as_fd()
    }

    /// Returns how many binds went the way that is measured.
    pub(crate) fn counted(&self) -> anyhow::Result<u64> {
        let index = match self.path {
            TwinPath::Unclaimed => counter(VerdictKind::Allow, Reason::Unclaimed, Protocol::Tcp),
            TwinPath::Owned => counter(VerdictKind::Allow, Reason::Owner, Protocol::Tcp),
            TwinPath::Denied => counter(VerdictKind::Deny, Reason::Claimed, Protocol::Tcp),
        };
        let counters = self.ebpf.map("COUNTERS").context("the C twin has no COUNTERS")?;
        Ok(PerCpuArray::<_, u64>::try_from(counters)?.get(&index, 0)?.iter().sum())
    }

    fn map(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the C twin has no {name}"))
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> anyhow::Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(self.map(name)?)?)
    }
}

/// Returns the level of a cgroup in the whole hierarchy.
fn level_of(cgroup: &Path) -> anyhow::Result<u64> {
    let mounts = mount_points();
    let below = mounts.iter().find_map(|mount| cgroup.strip_prefix(mount).ok()).context("no mount of cgroup v2")?;
    Ok(below.components().count() as u64)
}
