//! From the object in this binary to loaded programs.

mod without_btf;

use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::ProgramArray,
    programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, RawTracePoint},
};
use enforcer_core::model::kernel_ids::{BootNanos, CgroupId};
use enforcer_ebpf::{OBJECT, wire::Policy};
use tracing::warn;

use crate::kernel::{
    attach::{BIND_PROGRAMS, BIND_TAIL_PROGRAMS, CGROUP_PROGRAMS},
    btf::Offsets,
    error::BpfError,
    link::Hook,
    object::Target,
    pins::Persistence,
    probe::{Features, constants},
};

/// Options of loading the programs.
#[derive(Debug)]
pub struct LoadOptions {
    /// Directory of the cgroup that the programs are attached to.
    pub cgroup: PathBuf,
    /// Id of that cgroup.
    pub cgroup_id: CgroupId,
    /// Level of that cgroup in the whole hierarchy, if this process can see it.
    pub cgroup_level: Option<u64>,
    /// Cookie of the node's network namespace, if the kernel has one.
    pub netns_cookie: Option<u64>,
    /// First policy.
    pub policy: Policy,
    /// Time when enforcement ends unless [`Kernel::renew`](crate::kernel::Kernel::renew) extends it; `None` is
    /// never.
    pub lease_deadline: Option<BootNanos>,
    /// Ports that everybody may share, by [`enforcer_ebpf::wire::port_index`].
    pub shared_ports: Vec<u32>,
    /// The pins in a BPF file system and how they are used; `None` for an agent without pins.
    pub persistence: Option<Persistence>,
    /// Features of this kernel.
    pub features: Features,
    /// Switch for a trace, which the programs write (`aya-log`). Without it, they have no trace code at all.
    pub trace: bool,
}

/// Loads the object and its programs, which are not attached. The programs use the maps that are pinned at `shared`
/// instead of new ones. Clears [`LoadOptions::trace`] where the kernel refuses the programs with their trace.
pub(super) fn load_object(options: &mut LoadOptions, shared: &[(&str, PathBuf)]) -> Result<Ebpf, BpfError> {
    match try_load_object(options, shared) {
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
            try_load_object(options, shared)
        }
        loaded => loaded,
    }
}

fn try_load_object(options: &LoadOptions, shared: &[(&str, PathBuf)]) -> Result<Ebpf, BpfError> {
    let features = &options.features;
    let constants = constants(features, &Offsets::of_running_kernel()?);
    let target = Target { constants: &constants, cast: features.cast, has_atomic_exchange: features.atomic_exchange };
    let object = target.adapt(OBJECT);
    let log_level = if options.trace { aya_log::Level::Trace as u8 } else { 0 };
    // The object has no relocations by the kernel's types: what it needs of them are its constants.
    let mut loader = without_btf::loader();
    for (name, path) in shared {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.override_global(aya_log::LEVEL, &log_level, true).load(&object)?;
    // The programs refer to the maps by descriptor, so they are loaded before the maps are taken out.
    load_programs(&mut ebpf)?;
    if features.takes_before_bind() {
        load_bind_tail_programs(&mut ebpf)?;
    }
    Ok(ebpf)
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for (program, _) in CGROUP_PROGRAMS {
        let hook: &mut RawTracePoint = program_mut(ebpf, program)?;
        hook.load().map_err(BpfError::program(program))?;
    }
    for program in BIND_PROGRAMS {
        let loaded = match program.hook {
            Hook::Bind4 | Hook::Bind6 => program_mut::<CgroupSockAddr>(ebpf, program.name)?.load(),
            Hook::PostBind4 | Hook::PostBind6 | Hook::SockRelease => {
                program_mut::<CgroupSock>(ebpf, program.name)?.load()
            }
        };
        loaded.map_err(BpfError::program(program.name))?;
    }
    Ok(())
}

/// Loads the programs that take a port before it is bound, and puts each into the array by which `bind4` or `bind6` goes
/// on.
fn load_bind_tail_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for (program, name) in BIND_TAIL_PROGRAMS {
        let hook: &mut CgroupSockAddr = program_mut(ebpf, program)?;
        hook.load().map_err(BpfError::program(program))?;
        let descriptor = hook.fd().and_then(|program| Ok(program.try_clone()?)).map_err(BpfError::program(program))?;
        let map = ebpf.map_mut(name).ok_or(BpfError::Missing(name))?;
        let set = |map| ProgramArray::try_from(map).and_then(|mut array| array.set(0, &descriptor, 0));
        set(map).map_err(BpfError::map("write", name))?;
    }
    Ok(())
}

/// Returns a program of the object.
pub(super) fn program_mut<'a, P: 'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
    program.try_into().map_err(BpfError::program(name))
}
