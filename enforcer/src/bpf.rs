//! The kernel side as the agent sees it: load, attach, write maps, read counters and events. A facade over `aya` that
//! speaks the core's types.

pub mod btf;
pub mod events;
pub mod probe;
mod words;

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, ProgramError, RawTracePoint},
};
use enforcer_ebpf::{
    OBJECT,
    abi::{
        self, CgroupIdentity, Config, ExactKey, ExactValue, KernelError, Policy, Protocol, Reason, UidKey, VerdictKind,
    },
};

use crate::{
    bpf::{btf::Offsets, probe::Features, words::Words},
    core::plan::Change,
};

const BIND_HOOKS: [&str; 2] = ["pe_bind4", "pe_bind6"];
const POST_BIND_HOOKS: [&str; 2] = ["pe_post_bind4", "pe_post_bind6"];
const CGROUP_HOOKS: [(&str, &str); 2] = [("pe_cgroup_mkdir", "cgroup_mkdir"), ("pe_cgroup_rmdir", "cgroup_rmdir")];

/// Indexes of the words of an [`abi::Owner`].
mod owner_word {
    pub(super) const CGROUP: usize = 0;
    pub(super) const IDENTITY: usize = 1;
    pub(super) const KINSHIP: usize = 2;
    pub(super) const LEVEL: usize = 3;
    pub(super) const COUNT: usize = 4;
}

/// Indexes of the words of [`abi::Config`].
mod config_word {
    pub(super) const LAYOUT: usize = 0;
    pub(super) const POLICY: usize = 1;
    pub(super) const ROOT_CGROUP: usize = 2;
    pub(super) const ROOT_LEVEL: usize = 3;
    pub(super) const POD_LEVELS: usize = 4;
    pub(super) const NETNS_COOKIE: usize = 5;
}

/// Levels below the root at which the kubelet puts pods: its children (guaranteed pods) and grandchildren (the others).
const USUAL_POD_LEVELS: u64 = 1 << 1 | 1 << 2;

/// Why the kernel side does not work.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The object could not be loaded, or a map of it is not as expected.
    #[error("cannot load the BPF object: {0}")]
    Object(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A map could not be opened, read or written.
    #[error("cannot {action} the map {map}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {map} into memory: {source}")]
    Mmap {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cgroup could not be opened.
    #[error("cannot open the cgroup {}: {source}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's type information could not be read.
    #[error(transparent)]
    Btf(#[from] btf::BtfError),
    /// A map or program that the code expects is not in the object.
    #[error("the BPF object has no {0}: it was built from other sources than the agent")]
    Missing(&'static str),
}

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the cgroup that the programs are attached to.
    pub cgroup: PathBuf,
    /// Its id: the inode number of the directory.
    pub cgroup_id: u64,
    /// Its level in the whole hierarchy, if that can be seen from here.
    pub cgroup_level: Option<u64>,
    /// Cookie of the node's network namespace, if the kernel tells it.
    pub netns_cookie: Option<u64>,
    /// Policy to begin with.
    pub policy: Policy,
    /// What this kernel can do.
    pub features: Features,
    /// Whether the programs write a trace (`aya-log`). Without it, they hold no trace code at all.
    pub trace: bool,
}

/// The loaded programs and their maps. Dropping it detaches and unloads everything.
pub struct Kernel {
    ebpf: Ebpf,
    options: Options,
    config: Words,
    ports: Words,
    owners: Words,
    exact: HashMap<MapData, ExactKey, u64>,
    uids: HashMap<MapData, UidKey, u64>,
    cgroups: HashMap<MapData, u64, u64>,
    records: HashMap<MapData, u32, [u8; abi::RECORD_LEN]>,
    counters: PerCpuArray<MapData, u64>,
}

impl Kernel {
    /// Loads the programs and attaches those that note the identity of cgroups. Binds are judged only after
    /// [`Self::attach`], so that the claims can be in the maps by then.
    ///
    /// # Errors
    ///
    /// If the object, a program or a map is refused. The verifier's words are part of the error.
    pub fn load(options: Options) -> Result<Self, BpfError> {
        let offsets = Offsets::of_running_kernel()?;
        let has_set_retval = u8::from(options.features.set_retval);
        let sock_flags = if options.features.probe_read { offsets.sock_flags } else { 0 };
        let log_level = if options.trace { aya_log::Level::Trace as u8 } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .override_global("HAS_SET_RETVAL", &has_set_retval, true)
            .override_global("SOCK_FLAGS_OFFSET", &sock_flags, true)
            .override_global("CGROUP_KN_OFFSET", &offsets.cgroup_kn, true)
            .override_global("CGROUP_ROOT_OFFSET", &offsets.cgroup_root, true)
            .override_global("ROOT_HIERARCHY_OFFSET", &offsets.root_hierarchy, true)
            .override_global("KN_ID_OFFSET", &offsets.kn_id, true)
            .override_global("KN_NAME_OFFSET", &offsets.kn_name, true)
            .override_global("KN_PARENT_OFFSET", &offsets.kn_parent, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .load(OBJECT)?;
        // The programs refer to the maps by descriptor, so they are loaded before the maps are taken out.
        load_programs(&mut ebpf)?;
        let mut kernel = Self {
            config: map_words(&mut ebpf, "CONFIG", size_of::<Config>() / 8)?,
            ports: map_words(&mut ebpf, "PORTS", abi::PORTS as usize)?,
            owners: map_words(&mut ebpf, "OWNERS", abi::OWNERS as usize * owner_word::COUNT)?,
            exact: typed(&mut ebpf, "EXACT")?,
            uids: typed(&mut ebpf, "UIDS")?,
            cgroups: typed(&mut ebpf, "CGROUPS")?,
            records: typed(&mut ebpf, "RECORDS")?,
            counters: typed(&mut ebpf, "COUNTERS")?,
            ebpf,
            options,
        };
        kernel.write_config();
        for (program, tracepoint) in CGROUP_HOOKS {
            let hook: &mut RawTracePoint = program_mut(&mut kernel.ebpf, program)?;
            hook.attach(tracepoint).map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
        }
        Ok(kernel)
    }

    fn write_config(&self) {
        let Options { cgroup: _, cgroup_id, cgroup_level, netns_cookie, policy, features: _, trace: _ } = &self.options;
        self.config.store(config_word::LAYOUT, u64::from(abi::LAYOUT_VERSION));
        self.config.store(config_word::POLICY, policy.to_word());
        self.config.store(config_word::ROOT_CGROUP, *cgroup_id);
        self.config.store(config_word::ROOT_LEVEL, cgroup_level.unwrap_or(abi::ROOT_LEVEL_UNKNOWN));
        self.config.store(config_word::POD_LEVELS, USUAL_POD_LEVELS);
        self.config.store(config_word::NETNS_COOKIE, netns_cookie.unwrap_or(0));
    }

    /// Attaches the programs that judge and report binds. From here on claims are enforced.
    ///
    /// # Errors
    ///
    /// If the cgroup cannot be opened or the kernel refuses a link.
    pub fn attach(&mut self) -> Result<(), BpfError> {
        let path = self.options.cgroup.clone();
        let cgroup = File::open(&path).map_err(|source| BpfError::Cgroup { path, source })?;
        for program in BIND_HOOKS {
            let hook: &mut CgroupSockAddr = program_mut(&mut self.ebpf, program)?;
            // A link with flags 0 coexists with other programs: `cgroup_bpf_link_attach` in kernel/bpf/cgroup.c adds
            // BPF_F_ALLOW_MULTI itself and refuses it from the caller.
            hook.attach(&cgroup, CgroupAttachMode::Single)
                .map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
        }
        for program in POST_BIND_HOOKS {
            let hook: &mut CgroupSock = program_mut(&mut self.ebpf, program)?;
            hook.attach(&cgroup, CgroupAttachMode::Single)
                .map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// The cgroup that the programs are attached to.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.options.cgroup
    }

    /// Changes the policy of the running programs.
    pub fn set_policy(&self, policy: Policy) {
        self.config.store(config_word::POLICY, policy.to_word());
    }

    /// The policy of the running programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::from_word(self.config.load(config_word::POLICY))
    }

    /// The level of the attached cgroup in the whole hierarchy, once it is known.
    #[must_use]
    pub fn root_level(&self) -> Option<u64> {
        let level = self.config.load(config_word::ROOT_LEVEL);
        (level != abi::ROOT_LEVEL_UNKNOWN).then_some(level)
    }

    /// Carries out one change that the core planned.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it, for instance because a map is full. Later changes do not depend on it.
    pub fn apply(&mut self, change: &Change) -> Result<(), BpfError> {
        match *change {
            Change::Record { slot, ref bytes } => {
                self.records
                    .insert(u32::from(slot), **bytes, 0)
                    .map_err(|source| map_error("write", "RECORDS", source))?;
            }
            Change::RecordGone { slot } => removed(self.records.remove(&u32::from(slot)), "RECORDS")?,
            Change::Port { protocol, port, word } => {
                self.ports.store(abi::port_index(protocol, port) as usize, word.0);
            }
            Change::Owner { slot, owner } => self.write_owner(slot, &owner),
            Change::Exact { key, slot } => {
                let value = ExactValue::new(slot, &key).0;
                self.exact.insert(key, value, 0).map_err(|source| map_error("write", "EXACT", source))?;
            }
            Change::ExactGone { key } => removed(self.exact.remove(&key), "EXACT")?,
            Change::Uid { key, slot } => {
                self.uids.insert(key, u64::from(slot), 0).map_err(|source| map_error("write", "UIDS", source))?;
            }
            Change::UidGone { key } => removed(self.uids.remove(&key), "UIDS")?,
            Change::Cgroup { id, level, slot, form } => {
                self.add_pod_level(level);
                let value = CgroupIdentity::new(id, slot, form).0;
                self.cgroups.insert(id, value, 0).map_err(|source| map_error("write", "CGROUPS", source))?;
            }
            Change::CgroupGone { id } => removed(self.cgroups.remove(&id), "CGROUPS")?,
        }
        Ok(())
    }

    fn write_owner(&self, slot: abi::Slot, owner: &abi::Owner) {
        let base = usize::from(slot) * owner_word::COUNT;
        let free = owner.id() == 0;
        self.owners.store(base + owner_word::KINSHIP, owner.kinship);
        // `cgroup_mkdir` may have noted the cgroup before we heard of it: what we do not know, we leave alone.
        if free || owner.cgroup != abi::CGROUP_UNKNOWN {
            self.owners.store(base + owner_word::LEVEL, owner.level);
            self.owners.store(base + owner_word::CGROUP, owner.cgroup);
        }
        self.owners.store(base + owner_word::IDENTITY, owner.identity);
    }

    fn add_pod_level(&self, level: u8) {
        let bit = 1u64 << (level & 63);
        let levels = self.config.load(config_word::POD_LEVELS);
        if levels & bit == 0 {
            self.config.store(config_word::POD_LEVELS, levels | bit);
        }
    }

    /// Reads all counters, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        let mut counts = Vec::with_capacity(abi::COUNTERS as usize);
        for index in 0..abi::COUNTERS {
            let per_cpu = self.counters.get(&index, 0).map_err(|source| map_error("read", "COUNTERS", source))?;
            counts.push(per_cpu.iter().sum());
        }
        Ok(Counters { counts })
    }

    /// Takes the ring of bind attempts.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_bind_events(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        typed(&mut self.ebpf, "BIND_EVENTS")
    }

    /// Takes the ring of cgroups that come and go.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_cgroup_events(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        typed(&mut self.ebpf, "CGROUP_EVENTS")
    }

    /// Starts to pass the programs' trace to the log. To be used where [`Options::trace`] is set.
    ///
    /// # Errors
    ///
    /// If the programs' log ring is not there.
    pub fn take_trace(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for (program, _) in CGROUP_HOOKS {
        let hook: &mut RawTracePoint = program_mut(ebpf, program)?;
        hook.load().map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
    }
    for program in BIND_HOOKS {
        let hook: &mut CgroupSockAddr = program_mut(ebpf, program)?;
        hook.load().map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
    }
    for program in POST_BIND_HOOKS {
        let hook: &mut CgroupSock = program_mut(ebpf, program)?;
        hook.load().map_err(|source| BpfError::Program { program, source: Box::new(source) })?;
    }
    Ok(())
}

/// A snapshot of the exact counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    counts: Vec<u64>,
}

impl Counters {
    /// Attempts with this verdict, reason and protocol.
    #[must_use]
    pub fn attempts(&self, verdict: VerdictKind, reason: Reason, protocol: Protocol) -> u64 {
        self.counts[abi::counter(verdict, reason, protocol) as usize]
    }

    /// Attempts with this verdict and reason, of all protocols.
    #[must_use]
    pub fn of(&self, verdict: VerdictKind, reason: Reason) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| self.attempts(verdict, reason, protocol)).sum()
    }

    /// Errors of the programs of this kind.
    #[must_use]
    pub fn errors(&self, error: KernelError) -> u64 {
        self.counts[abi::error_counter(error) as usize]
    }
}

fn map_error(action: &'static str, map: &'static str, source: MapError) -> BpfError {
    BpfError::Map { action, map, source: Box::new(source) }
}

/// A key that is gone already was removed by the kernel (`cgroup_rmdir`), which is what was wanted.
fn removed(result: Result<(), MapError>, map: &'static str) -> Result<(), BpfError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(map_error("remove from", map, source)),
    }
}

fn typed<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(BpfError::Missing(name))?;
    M::try_from(map).map_err(|source| map_error("use", name, source))
}

fn map_words(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<Words, BpfError> {
    let Some(Map::Array(data)) = ebpf.take_map(name) else {
        return Err(BpfError::Missing(name));
    };
    Words::map(data.fd().as_fd(), count).map_err(|source| BpfError::Mmap { map: name, source })
}

fn program_mut<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    program.try_into().map_err(|source| BpfError::Program { program: name, source: Box::new(source) })
}
