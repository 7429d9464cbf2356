//! Steps of a start: take over the live generation, pin a new one beside it, and remove the rest.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapInfo, PerCpuArray},
    pin::PinError as AyaPinError,
    programs::ProgramInfo,
};
use enforcer_core::model::kernel_ids::CgroupId;
use enforcer_ebpf::wire::{self, NodeMode};

use crate::kernel::{
    attach::{BIND_PROGRAMS, BindProgram},
    crash_point::step,
    error::BpfError,
    link::{Hook, Link, LinkInfo},
    map_names::{COUNTERS, NODE_MODE, OF_GENERATION, OF_HOLDS, OWNER_RECORDS},
    maps::OwnerRecords,
    pins::{
        Persistence, PinError, Pins, Previous, entries, make_folder, node_mode, previous::open_map,
        remove_empty_folder, remove_pin,
    },
};

/// Folder of a generation's maps.
pub(super) const MAPS: &str = "maps";
/// Folder of a generation's programs.
const PROGRAMS: &str = "programs";
/// Folder of a generation's links.
const LINKS: &str = "links";

/// `BPF_F_NO_PREALLOC` in include/uapi/linux/bpf.h: most slots have no record.
const NO_PREALLOC: u32 = 1;

/// Name of a link that was not yet put in the place of another.
const NEW_LINK: &str = "new";

/// Links with their descriptions.
type Links = [Option<(Link, LinkInfo)>; BIND_PROGRAMS.len()];

/// The live generation that a start found, or why it cannot be read.
pub(in crate::kernel) type PreviousGeneration = Option<Result<Previous, PinError>>;

/// Pins of the agent that has the lock.
pub(in crate::kernel) struct PinStore {
    keep: Persistence,
    /// Folder of this start's generation.
    generation: PathBuf,
    /// The pinned links to the wanted cgroup, by the place of their program in [`BIND_PROGRAMS`].
    links: [Option<Link>; BIND_PROGRAMS.len()],
    /// Flag for a link that runs a program of this generation.
    live: bool,
}

impl PinStore {
    /// Reads what is pinned, removes what no link needs, and makes the maps that all generations share. `cgroup` is the
    /// id of the cgroup to attach to. Also returns the live generation.
    pub(in crate::kernel) fn open(keep: Persistence, cgroup: CgroupId) -> Result<(Self, PreviousGeneration), PinError> {
        let pins = keep.guard.pins();
        pins.check_layout()?;
        let links = pinned_links(pins)?;
        let generations = generations(pins)?;
        let live = live(&generations, &links)?;
        // The first link is the first to be switched: its generation is the newest of those that a start which was
        // stopped half-way left live, and was filled before.
        let found = match live.first().map(|generation| Previous::open(pins, generation)) {
            Some(Err(error @ PinError::Unknown(_))) => return Err(error),
            found => found,
        };
        remove_pin(&pins.links().join(NEW_LINK))?;
        for generation in &generations {
            if !live.contains(generation) {
                remove_tree(generation, "removed the half-made")?;
            }
        }
        let number = generations.iter().filter_map(|path| number(path)).max().map_or(1, |number| number + 1);
        let generation = pins.layout().join(format!("g{number}"));
        pins.rename_pins(&pins.shared())?;
        make_shared(pins, keep.persist)?;
        let wanted = |info: &LinkInfo| info.cgroup.is_some_and(|attached| attached.id == Some(cgroup));
        let links = links.map(|link| link.filter(|(_, info)| wanted(info)).map(|(link, _)| link));
        Ok((Self { keep, generation, links, live: false }, found))
    }

    fn pins(&self) -> &Pins {
        self.keep.guard.pins()
    }

    /// Returns the pinned maps that the programs use instead of new ones.
    pub(in crate::kernel) fn shared_maps(&self) -> Vec<(&'static str, PathBuf)> {
        let names = [COUNTERS, NODE_MODE].into_iter().chain(OF_HOLDS);
        let maps = names.map(|name| (name, self.pins().shared().join(name)));
        maps.filter(|(_, path)| path.exists()).collect()
    }

    /// Pins the maps and programs of this start, which are loaded by now. That makes nothing live.
    pub(in crate::kernel) fn pin_generation(&self, ebpf: &mut Ebpf) -> Result<(), BpfError> {
        if !self.keep.persist {
            return Ok(());
        }
        for folder in [MAPS, PROGRAMS, LINKS] {
            make_folder(&self.generation.join(folder))?;
            step("made the folder", folder);
        }
        for name in OF_GENERATION {
            let path = self.generation.join(MAPS).join(name);
            let map = ebpf.map(name).ok_or(BpfError::Missing(name))?;
            map.pin(&path).map_err(|error| pin_failed(&path, error))?;
            step("pinned the map", name);
        }
        for name in OF_HOLDS {
            let path = self.pins().shared().join(name);
            if !path.exists() {
                let map = ebpf.map(name).ok_or(BpfError::Missing(name))?;
                map.pin(&path).map_err(|error| pin_failed(&path, error))?;
                step("pinned the map", name);
            }
        }
        for BindProgram { name, pin, hook: _ } in BIND_PROGRAMS {
            let path = self.generation.join(PROGRAMS).join(pin);
            let program = ebpf.program_mut(name).ok_or(BpfError::Missing(name))?;
            program.pin(&path).map_err(|error| pin_failed(&path, error))?;
            step("pinned the program", pin);
        }
        Ok(())
    }

    /// Makes and pins the map of records; `None` in an agent without persistence.
    pub(in crate::kernel) fn make_records(&self) -> Result<Option<OwnerRecords>, PinError> {
        if !self.keep.persist {
            return Ok(None);
        }
        let path = self.generation.join(MAPS).join(OWNER_RECORDS);
        make_records(&path)?;
        step("pinned the map", OWNER_RECORDS);
        open_map(&path).map(Some)
    }

    /// Pins a link to a raw tracepoint.
    pub(in crate::kernel) fn keep_tracepoint(&self, link: &Link, tracepoint: &CStr) -> Result<(), PinError> {
        if self.keep.persist {
            let path = self.generation.join(LINKS).join(tracepoint.to_string_lossy().as_ref());
            link.pin(&path).map_err(PinError::io("pin", &path))?;
            step("pinned the link", tracepoint.to_string_lossy());
        }
        Ok(())
    }

    /// Attaches a program of this generation in the place of the attached one, if there is one: every bind is judged by
    /// one of the two. `attach` makes a new link.
    pub(in crate::kernel) fn switch(
        &mut self,
        place: usize,
        program: BorrowedFd<'_>,
        attach: impl FnOnce() -> Result<Link, BpfError>,
    ) -> Result<Link, BpfError> {
        let pin = BIND_PROGRAMS[place].pin;
        let path = self.pins().links().join(pin);
        if let Some(link) = self.links[place].take() {
            if !self.keep.persist {
                // First, so that the link ends with this process whatever happens. Until then its descriptor keeps it.
                remove_pin(&path)?;
                step("removed the pin of the link", pin);
            }
            match link.update(program) {
                Ok(()) => {
                    self.live = true;
                    step("switched the link", pin);
                    return Ok(link);
                }
                // The cgroup was removed meanwhile (`cgroup_bpf_replace` in kernel/bpf/cgroup.c).
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(source) => return Err(PinError::Io { action: "replace the program of", path, source }.into()),
            }
        }
        let link = attach()?;
        if self.keep.persist {
            self.put_link(&link, pin, &path)?;
        } else {
            remove_pin(&path)?;
        }
        self.live = true;
        step("kept the new link", pin);
        Ok(link)
    }

    /// Pins a new link, in the place of one that is attached elsewhere, if there is one.
    fn put_link(&self, link: &Link, pin: &str, path: &Path) -> Result<(), PinError> {
        make_folder(&self.pins().links())?;
        let new = self.pins().links().join(NEW_LINK);
        link.pin(&new).map_err(PinError::io("pin", &new))?;
        step("pinned the new link", pin);
        let old = Link::pinned(path).ok().and_then(Link::checked);
        fs::rename(&new, path).map_err(PinError::io("rename the new link to", path))?;
        step("put in place the link", pin);
        if let Some(old) = old {
            // Without a pin it goes by itself, but only after a while.
            old.detach().map_err(PinError::io("detach what was pinned at", path))?;
        }
        Ok(())
    }

    /// Removes everything that is of no use once this generation judges.
    pub(in crate::kernel) fn retire(&mut self) -> Result<(), PinError> {
        for generation in generations(self.pins())? {
            if generation != self.generation || !self.keep.persist {
                remove_tree(&generation, "retired the")?;
            }
        }
        if !self.keep.persist {
            remove_tree(&self.pins().links(), "retired the")?;
            for name in [COUNTERS].into_iter().chain(OF_HOLDS) {
                remove_pin(&self.pins().shared().join(name))?;
                step("removed the map", name);
            }
        }
        Ok(())
    }
}

impl Drop for PinStore {
    fn drop(&mut self) {
        if !self.live {
            // No program of it is attached. The next start removes what cannot be removed now.
            let _ = remove_tree(&self.generation, "took back the");
        }
        if self.keep.persist {
            return;
        }
        let pins = self.pins();
        if !matches!(node_mode::open(pins), Ok(Some(mode)) if mode.get() != NodeMode::Unset) {
            let _ = remove_pin(&pins.shared().join(NODE_MODE));
        }
        for folder in [&pins.shared(), &pins.layout(), pins.folder()] {
            remove_empty_folder(folder);
        }
    }
}

/// Makes the maps that all generations share, or checks them.
fn make_shared(pins: &Pins, persist: bool) -> Result<(), PinError> {
    node_mode::open_or_make(pins)?;
    step("made the map", NODE_MODE);
    let path = pins.shared().join(COUNTERS);
    if path.exists() {
        let info = MapInfo::from_pin(&path).map_err(PinError::map(&path))?;
        if (info.key_size(), info.value_size(), info.max_entries()) != (4, 8, wire::COUNTER_COUNT) {
            return Err(PinError::Unknown(path));
        }
    } else if persist {
        let map: PerCpuArray<_, u64> = PerCpuArray::create(wire::COUNTER_COUNT, 0).map_err(PinError::map(&path))?;
        map.pin(&path).map_err(|error| aya_pin_failed(&path, error))?;
        step("made the map", COUNTERS);
    }
    Ok(())
}

fn make_records(path: &Path) -> Result<(), PinError> {
    let map: OwnerRecords = HashMap::create(wire::MAX_OWNERS, NO_PREALLOC).map_err(PinError::map(path))?;
    map.pin(path).map_err(|error| aya_pin_failed(path, error))
}

fn pin_failed(path: &Path, error: AyaPinError) -> BpfError {
    aya_pin_failed(path, error).into()
}

fn aya_pin_failed(path: &Path, error: AyaPinError) -> PinError {
    let source = match error {
        AyaPinError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    PinError::io("pin", path)(source)
}

/// Returns the folder of the live generation, if there is one. Changes nothing.
pub(super) fn live_generation(pins: &Pins) -> Result<Option<PathBuf>, PinError> {
    Ok(live(&generations(pins)?, &pinned_links(pins)?)?.into_iter().next())
}

/// Returns the pinned links to a cgroup, by the place of their program in [`BIND_PROGRAMS`].
fn pinned_links(pins: &Pins) -> Result<Links, PinError> {
    let links = BIND_PROGRAMS.map(|program| pinned_link(&pins.links().join(program.pin), program.hook));
    let [bind4, bind6, post_bind4, post_bind6, sock_release] = links;
    Ok([bind4?, bind6?, post_bind4?, post_bind6?, sock_release?])
}

/// Opens a pinned link to a cgroup, if it is one.
fn pinned_link(path: &Path, hook: Hook) -> Result<Option<(Link, LinkInfo)>, PinError> {
    let link = match Link::pinned(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PinError::io("open", path)(error)),
    };
    let Some(link) = link.checked() else {
        return Ok(None);
    };
    let info = link.info().map_err(PinError::io("read what is pinned at", path))?;
    Ok(info.cgroup.is_some_and(|attached| attached.hook == hook as u32).then_some((link, info)))
}

/// Returns the folders of generations.
fn generations(pins: &Pins) -> Result<Vec<PathBuf>, PinError> {
    Ok(entries(&pins.layout())?.into_iter().filter(|path| number(path).is_some()).collect())
}

/// Returns the number of a generation.
fn number(generation: &Path) -> Option<u64> {
    generation.file_name()?.to_str()?.strip_prefix('g')?.parse().ok()
}

/// Returns the generations whose programs the links run, in the order of the links.
fn live(generations: &[PathBuf], links: &Links) -> Result<Vec<PathBuf>, PinError> {
    let mut programs = Vec::new();
    for generation in generations {
        programs.push((generation, program_ids(generation)?));
    }
    let mut live = Vec::new();
    for (_, info) in links.iter().flatten() {
        let of = programs.iter().find(|(_, ids)| ids.contains(&info.program));
        if let Some((generation, _)) = of.filter(|(generation, _)| !live.contains(*generation)) {
            live.push((*generation).clone());
        }
    }
    Ok(live)
}

/// Returns the ids of the pinned programs of a generation.
fn program_ids(generation: &Path) -> Result<BTreeSet<u32>, PinError> {
    let mut ids = BTreeSet::new();
    for path in entries(&generation.join(PROGRAMS))? {
        let info = ProgramInfo::from_pin(&path)
            .map_err(|error| PinError::io("read what is pinned at", &path)(io::Error::other(error)))?;
        ids.insert(info.id());
    }
    Ok(ids)
}

/// Removes a folder and all pins below it; it need not be there. `done` names the reason, for [`step`].
pub(super) fn remove_tree(path: &Path, done: &str) -> Result<(), PinError> {
    // Without the number of a generation, so that a step has the same name in every start.
    let name = |path: &Path| match number(path) {
        Some(_) => "generation".into(),
        None => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    for entry in entries(path)? {
        if entry.is_dir() {
            remove_tree(&entry, done)?;
        } else {
            remove_pin(&entry)?;
            step(done, format_args!("{}/{}", name(path), name(&entry)));
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PinError::io("remove the folder", path)(error)),
        _ => {
            step(done, format_args!("folder {}", name(path)));
            Ok(())
        }
    }
}
