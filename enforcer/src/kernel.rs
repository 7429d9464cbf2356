//! The kernel side as the agent sees it: load, attach, write maps, read counters and events. A facade over `aya` that
//! speaks the core's types.

pub mod btf;
mod counters;
mod crash_point;
pub mod kfunc;
mod lazy_mmap_array;
mod lease;
mod link;
mod mmap_array;
pub mod pins;
pub mod probe;
mod programs;

use std::{
    borrow::Cow,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, MapError, ProgramArray, RingBuf},
    programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, RawTracePoint},
};
use enforcer_ebpf::{
    OBJECT,
    wire::{self, AddressKey, AddressOwner, CgroupIdentity, Config, OWNER_RECORD_BYTES, Policy, Protocol, UidKey},
};
use tracing::warn;

use enforcer_core::plan::port_state::Change;

use crate::kernel::{
    btf::{MptcpOffsets, Offsets},
    kfunc::RdonlyCast,
    lazy_mmap_array::LazyMmapArray,
    link::{Hook, Link},
    mmap_array::MmapArray,
    pins::{
        Persistence,
        store::{BIND_PROGRAMS, PinStore, PreviousGeneration},
    },
    probe::Features,
    programs::{BIND_TAIL_PROGRAMS, CGROUP_PROGRAMS},
};

pub use counters::{CounterMap, Counters};
/// Indexes of the words of an [`wire::Owner`].
mod owner_word {
    pub(super) const CGROUP: usize = 0;
    pub(super) const IDENTITY: usize = 1;
    pub(super) const KINSHIP: usize = 2;
    pub(super) const LEVEL: usize = 3;
    pub(super) const COUNT: usize = 4;
}

/// Indexes of the words of [`wire::Config`].
mod config_word {
    pub(super) const LAYOUT: usize = 0;
    pub(super) const POLICY: usize = 1;
    pub(super) const ROOT_CGROUP: usize = 2;
    pub(super) const ROOT_LEVEL: usize = 3;
    pub(super) const POD_LEVELS: usize = 4;
    pub(super) const NETNS_COOKIE: usize = 5;
    pub(super) const LEASE_DEADLINE: usize = 6;
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
    /// The kernel refused to attach a program.
    #[error("cannot attach the program {program}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// What outlives the agent cannot be used.
    #[error(transparent)]
    Pin(#[from] pins::PinError),
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
#[derive(Debug)]
pub struct LoadOptions {
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
    /// When enforcement lapses unless [`Kernel::renew`] puts it off: nanoseconds since boot, sleep included; 0 is never.
    pub lease_deadline: u64,
    /// Ports that may be shared by whoever binds them, by [`wire::port_index`].
    pub shared_ports: Vec<u32>,
    /// What is kept in a BPF file system, and how; `None` if there is none, or nothing is to be looked for there.
    pub persistence: Option<Persistence>,
    /// What this kernel can do.
    pub features: Features,
    /// Whether the programs write a trace (`aya-log`). Without it, they hold no trace code at all.
    pub trace: bool,
}

/// The loaded programs and their maps. Dropping it detaches and unloads everything, unless it is kept
/// ([`Options::keep`]).
pub struct Kernel {
    ebpf: Ebpf,
    options: LoadOptions,
    links: Vec<Link>,
    store: Option<PinStore>,
    previous: PreviousGeneration,
    mode: MmapArray,
    marks: LazyMmapArray,
    slots: HashMap<MapData, u32, wire::PortHolds>,
    records: Option<HashMap<MapData, u32, [u8; OWNER_RECORD_BYTES]>>,
    config: MmapArray,
    ports: LazyMmapArray,
    owners: LazyMmapArray,
    exact: HashMap<MapData, AddressKey, u64>,
    uids: HashMap<MapData, UidKey, u64>,
    cgroups: HashMap<MapData, u64, u64>,
    counters: CounterMap,
}

impl Kernel {
    /// Loads the programs and attaches those that note the identity of cgroups. Binds are judged only after
    /// [`Self::attach`], so that the claims can be in the maps by then.
    ///
    /// # Errors
    ///
    /// If the object, a program or a map is refused. The verifier's words are part of the error.
    pub fn load(mut options: LoadOptions) -> Result<Self, BpfError> {
        let (store, previous) = match options.persistence.take() {
            Some(keep) => PinStore::open(keep, options.cgroup_id).map(|(store, found)| (Some(store), found))?,
            None => (None, None),
        };
        let shared = store.as_ref().map(PinStore::shared_maps).unwrap_or_default();
        let mut ebpf = match load_object(&options, &shared) {
            // With the trace the programs are larger, and older verifiers need more steps for the same.
            Err(BpfError::Program { program, source }) if options.trace => {
                let why = match *source {
                    ProgramError::LoadError { ref io_error, .. } => io_error.to_string(),
                    ref other => other.to_string(),
                };
                warn!(
                    event = "trace",
                    program, why, "this kernel refuses the programs with their trace: they run without it"
                );
                options.trace = false;
                load_object(&options, &shared)?
            }
            loaded => loaded?,
        };
        let mut records = None;
        if let Some(store) = &store {
            store.pin_generation(&mut ebpf)?;
            records = store.make_records()?;
        }
        let mut kernel = Self {
            config: mmap_array(&mut ebpf, "CONFIG", size_of::<Config>() / 8)?,
            ports: lazy_mmap_array(&mut ebpf, "PORTS", wire::PORT_COUNT as usize)?,
            owners: lazy_mmap_array(&mut ebpf, "OWNERS", wire::MAX_OWNERS as usize * owner_word::COUNT)?,
            exact: typed(&mut ebpf, "EXACT")?,
            uids: typed(&mut ebpf, "UIDS")?,
            cgroups: typed(&mut ebpf, "CGROUPS")?,
            counters: CounterMap::new(typed(&mut ebpf, "COUNTERS")?),
            mode: mmap_array(&mut ebpf, "MODE", 1)?,
            slots: typed(&mut ebpf, "SLOTS")?,
            marks: lazy_mmap_array(&mut ebpf, "MARKS", 2 * wire::ENFORCED_PORT_COUNT as usize)?,
            links: Vec::new(),
            records,
            previous,
            store,
            ebpf,
            options,
        };
        let shared = mmap_array(&mut kernel.ebpf, "SHARED", wire::SHARED_PORT_WORDS as usize)?;
        for index in std::mem::take(&mut kernel.options.shared_ports) {
            let (word, bit) = (index as usize / 64, index % 64);
            shared.store(word, shared.load(word) | 1 << bit);
        }
        kernel.write_config();
        kernel.attach_cgroup_programs()?;
        Ok(kernel)
    }

    fn write_config(&self) {
        let LoadOptions { cgroup: _, cgroup_id, cgroup_level, netns_cookie, policy, lease_deadline, .. } =
            &self.options;
        self.config.store(config_word::LAYOUT, u64::from(wire::LAYOUT_VERSION));
        self.config.store(config_word::POLICY, policy.to_word());
        self.config.store(config_word::ROOT_CGROUP, *cgroup_id);
        self.config.store(config_word::ROOT_LEVEL, cgroup_level.unwrap_or(wire::ROOT_LEVEL_UNKNOWN));
        self.config.store(config_word::POD_LEVELS, USUAL_POD_LEVELS);
        self.config.store(config_word::NETNS_COOKIE, netns_cookie.unwrap_or(0));
        self.config.store(config_word::LEASE_DEADLINE, lease::to_word(*lease_deadline));
    }

    /// Whether the programs write a trace: if that was asked for, and the kernel takes them with it.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.options.trace
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

    /// When enforcement lapses unless [`Self::renew`] puts it off: nanoseconds since boot; 0 is never.
    #[must_use]
    pub fn lease_deadline(&self) -> u64 {
        lease::from_word(self.config.load(config_word::LEASE_DEADLINE))
    }

    /// The level of the attached cgroup in the whole hierarchy, once it is known.
    #[must_use]
    pub fn root_level(&self) -> Option<u64> {
        let level = self.config.load(config_word::ROOT_LEVEL);
        (level != wire::ROOT_LEVEL_UNKNOWN).then_some(level)
    }

    /// Carries out one change that the core planned.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it, for instance because a map is full. Later changes do not depend on it.
    pub fn apply(&mut self, change: &Change) -> Result<(), BpfError> {
        match *change {
            Change::OwnerRecord { slot, ref bytes } => self.write_owner_record(slot, bytes)?,
            Change::OwnerRecordGone { slot } => self.remove_owner_record(slot)?,
            Change::Port { protocol, port, word } => {
                let index = wire::port_index(protocol, port) as usize;
                self.ports.store(index, word.0).map_err(mapping("PORTS"))?;
            }
            Change::Owner { slot, owner } => self.write_owner(slot, &owner).map_err(mapping("OWNERS"))?,
            Change::AddressOwner { key, slot } => {
                let value = AddressOwner::new(slot, &key).0;
                self.exact.insert(key, value, 0).map_err(|source| map_error("write", "EXACT", source))?;
            }
            Change::AddressOwnerGone { key } => removed(self.exact.remove(&key), "EXACT")?,
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
            Change::CgroupInPod { id, slot } => {
                removed(self.cgroups.remove(&id), "CGROUPS")?;
                if slot != 0 {
                    self.disown(slot, id).map_err(mapping("OWNERS"))?;
                }
            }
        }
        Ok(())
    }

    fn write_owner(&self, slot: wire::Slot, owner: &wire::Owner) -> io::Result<()> {
        let base = usize::from(slot) * owner_word::COUNT;
        let free = owner.id() == 0;
        self.owners.store(base + owner_word::KINSHIP, owner.kinship)?;
        // `cgroup_mkdir` may have noted the cgroup before we heard of it: what we do not know, we leave alone.
        if free || owner.cgroup != wire::CGROUP_UNKNOWN {
            self.owners.store(base + owner_word::LEVEL, owner.level)?;
            self.owners.store(base + owner_word::CGROUP, owner.cgroup)?;
        }
        self.owners.store(base + owner_word::IDENTITY, owner.identity)
    }

    /// Makes an owner whose cgroup is said to be this one an owner whose cgroup is not known. If its own is noted in this
    /// very moment, it is recognised the long way.
    fn disown(&self, slot: wire::Slot, cgroup: u64) -> io::Result<()> {
        let base = usize::from(slot) * owner_word::COUNT;
        if self.owners.load(base + owner_word::CGROUP)? == cgroup {
            self.owners.store(base + owner_word::LEVEL, 0)?;
            self.owners.store(base + owner_word::CGROUP, wire::CGROUP_UNKNOWN)?;
        }
        Ok(())
    }

    fn add_pod_level(&self, level: u8) {
        let bit = 1u64 << (level & 63);
        let levels = self.config.load(config_word::POD_LEVELS);
        if levels & bit == 0 {
            self.config.store(config_word::POD_LEVELS, levels | bit);
        }
    }

    /// The exact counters, to be read at any time and from anywhere.
    #[must_use]
    pub fn counters(&self) -> &CounterMap {
        &self.counters
    }

    /// Takes the ring of bind attempts.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_verdict_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        typed(&mut self.ebpf, "BIND_EVENTS")
    }

    /// Takes the ring of sockets that were bound and released.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_socket_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        typed(&mut self.ebpf, "HOLDER_EVENTS")
    }

    /// Says who holds a port: [`wire::Mark::holder`]. For TCP and UDP.
    ///
    /// # Errors
    ///
    /// If the map cannot be mapped into memory.
    pub fn set_port_holder(&self, protocol: Protocol, port: u16, holder: u64) -> Result<(), BpfError> {
        let index = wire::port_index(protocol, port);
        if index >= wire::ENFORCED_PORT_COUNT {
            return Ok(());
        }
        self.marks.store(2 * index as usize, holder).map_err(mapping("MARKS"))
    }

    /// Who is said to hold a port: [`wire::Mark::holder`].
    ///
    /// # Errors
    ///
    /// As [`Self::mark`].
    pub fn port_holder(&self, protocol: Protocol, port: u16) -> Result<u64, BpfError> {
        let index = wire::port_index(protocol, port);
        if index >= wire::ENFORCED_PORT_COUNT {
            return Ok(0);
        }
        self.marks.load(2 * index as usize).map_err(mapping("MARKS"))
    }

    /// Who holds the ports whose sockets could share them, as the programs have noted it: by [`wire::port_index`], and only
    /// ports that are held.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn port_holds(&self) -> Result<Vec<(u32, Vec<wire::PortHold>)>, BpfError> {
        let mut held = Vec::new();
        for entry in &self.slots {
            let (port, slot) = entry.map_err(|source| map_error("read", "SLOTS", source))?;
            let holds: Vec<_> = slot.holds.into_iter().filter(|hold| hold.holder != 0).collect();
            if !holds.is_empty() {
                held.push((port, holds));
            }
        }
        Ok(held)
    }

    /// Takes the ring of cgroups that come and go.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_cgroup_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
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

/// The object with its programs, which are loaded and not attached. `shared` are the pinned maps that they use.
fn load_object(options: &LoadOptions, shared: &[(&str, PathBuf)]) -> Result<Ebpf, BpfError> {
    let offsets = Offsets::of_running_kernel()?;
    let has_set_retval = u8::from(options.features.set_retval);
    let readable = |offset: u32| if options.features.probe_read { offset } else { 0 };
    let mptcp = |offset: fn(MptcpOffsets) -> u32| offsets.mptcp.map_or(0, |mptcp| readable(offset(mptcp)));
    let log_level = if options.trace { aya_log::Level::Trace as u8 } else { 0 };
    let cast = options.features.cast;
    let casted = |number: fn(RdonlyCast) -> u32| cast.map_or(0, number);
    let object = cast.map_or(Cow::Borrowed(OBJECT), |cast| Cow::Owned(cast.patch_calls(OBJECT)));
    let mut loader = EbpfLoader::new();
    for (name, path) in shared {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader
        .override_global("HAS_SET_RETVAL", &has_set_retval, true)
        .override_global("SOCK_FLAGS_OFFSET", &readable(offsets.sock_flags), true)
        .override_global("HAS_POST_SET_RETVAL", &u8::from(options.features.post_set_retval), true)
        .override_global("HAS_COARSE_TIME", &u8::from(options.features.coarse_time), true)
        .override_global("POST_BIND_DENIES", &u8::from(options.features.post_bind_denies), true)
        .override_global("RESERVES", &u8::from(!options.features.post_bind_denies), true)
        .override_global("KERN_SOCK_BIT", &readable(offsets.kern_sock_bit), true)
        .override_global("BOUND_DEV_OFFSET", &readable(offsets.bound_dev), true)
        .override_global("SOCK_NUM_OFFSET", &readable(offsets.sock_num), true)
        .override_global("IS_MPTCP_OFFSET", &mptcp(|mptcp| mptcp.is_mptcp), true)
        .override_global("ULP_DATA_OFFSET", &mptcp(|mptcp| mptcp.ulp_data), true)
        .override_global("SUBFLOW_CONN_OFFSET", &mptcp(|mptcp| mptcp.conn), true)
        .override_global("CGROUP_KN_OFFSET", &offsets.cgroup_kn, true)
        .override_global("CGROUP_ROOT_OFFSET", &offsets.cgroup_root, true)
        .override_global("ROOT_HIERARCHY_OFFSET", &offsets.root_hierarchy, true)
        .override_global("KN_ID_OFFSET", &offsets.kn_id, true)
        .override_global("KN_NAME_OFFSET", &offsets.kn_name, true)
        .override_global("KN_PARENT_OFFSET", &offsets.kn_parent, true)
        .override_global("SOCK_TYPE", &casted(|cast| cast.sock), true)
        .override_global("TASK_TYPE", &casted(|cast| cast.task), true)
        .override_global("TASK_TGID_OFFSET", &casted(|cast| cast.offsets.tgid), true)
        .override_global("TASK_COMM_OFFSET", &casted(|cast| cast.offsets.comm), true)
        .override_global("TASK_CRED_OFFSET", &casted(|cast| cast.offsets.cred), true)
        .override_global("CRED_UID_OFFSET", &casted(|cast| cast.offsets.uid), true)
        .override_global(aya_log::LEVEL, &log_level, true)
        .load(&object)?;
    // The programs refer to the maps by descriptor, so they are loaded before the maps are taken out.
    load_programs(&mut ebpf)?;
    if !options.features.post_bind_denies {
        load_bind_tail_programs(&mut ebpf)?;
    }
    Ok(ebpf)
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let refused = |program| move |source| BpfError::Program { program, source: Box::new(source) };
    for (program, _) in CGROUP_PROGRAMS {
        let hook: &mut RawTracePoint = program_mut(ebpf, program)?;
        hook.load().map_err(refused(program))?;
    }
    for program in BIND_PROGRAMS {
        let loaded = match program.hook {
            Hook::Bind4 | Hook::Bind6 => program_mut::<CgroupSockAddr>(ebpf, program.name)?.load(),
            Hook::PostBind4 | Hook::PostBind6 | Hook::SockRelease => {
                program_mut::<CgroupSock>(ebpf, program.name)?.load()
            }
        };
        loaded.map_err(refused(program.name))?;
    }
    Ok(())
}

/// Where a port that could be shared is taken before it is bound: the programs that do it, each in the array that `bind4` or
/// `bind6` goes on by.
fn load_bind_tail_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for (program, map) in BIND_TAIL_PROGRAMS {
        let refused = |source| BpfError::Program { program, source: Box::new(source) };
        let hook: &mut CgroupSockAddr = program_mut(ebpf, program)?;
        hook.load().map_err(refused)?;
        let descriptor = hook.fd().and_then(|program| Ok(program.try_clone()?)).map_err(refused)?;
        let map = ebpf.map_mut(map).ok_or(BpfError::Missing(map))?;
        let set = |map| ProgramArray::try_from(map).and_then(|mut array| array.set(0, &descriptor, 0));
        set(map).map_err(|source| map_error("write", "RESERVE", source))?;
    }
    Ok(())
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

fn mapping(map: &'static str) -> impl Fn(io::Error) -> BpfError {
    move |source| BpfError::Mmap { map, source }
}

fn array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, BpfError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(BpfError::Missing(name)),
    }
}

fn mmap_array(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<MmapArray, BpfError> {
    MmapArray::map(array(ebpf, name)?.fd().as_fd(), count).map_err(mapping(name))
}

fn lazy_mmap_array(ebpf: &mut Ebpf, name: &'static str, count: usize) -> Result<LazyMmapArray, BpfError> {
    let map = array(ebpf, name)?.fd().as_fd().try_clone_to_owned().map_err(mapping(name))?;
    Ok(LazyMmapArray::of(map, count))
}

fn program_mut<'a, P: 'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    program.try_into().map_err(|source| BpfError::Program { program: name, source: Box::new(source) })
}
