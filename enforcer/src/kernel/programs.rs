//! From loaded programs to programs that judge, in the place of those of an earlier agent if it left any.

use std::{ffi::CStr, fs::File, os::fd::AsFd as _};

use aya::programs::{CgroupSock, CgroupSockAddr, ProgramError, ProgramFd, RawTracePoint};
use enforcer_ebpf::wire::{NodeMode, OWNER_RECORD_BYTES, Slot};

use crate::kernel::{
    BpfError, Kernel, config_word, lease,
    link::{Hook, Link},
    map_error,
    pins::{
        PinError, Previous,
        store::{BIND_PROGRAMS, BindProgram},
    },
    program_mut, removed,
};

/// The programs that note cgroups, and their tracepoints.
pub(super) const CGROUP_PROGRAMS: [(&str, &CStr); 2] =
    [("pe_cgroup_mkdir", c"cgroup_mkdir"), ("pe_cgroup_rmdir", c"cgroup_rmdir")];

/// The programs that `bind4` and `bind6` go on by, and the arrays that hold them.
pub(super) const BIND_TAIL_PROGRAMS: [(&str, &str); 2] = [("pe_reserve4", "RESERVE4"), ("pe_reserve6", "RESERVE6")];

impl Kernel {
    /// Attaches the programs that note cgroups, beside those of an earlier agent: each note in maps of their own.
    pub(super) fn attach_cgroup_programs(&mut self) -> Result<(), BpfError> {
        for (program, tracepoint) in CGROUP_PROGRAMS {
            let hook: &mut RawTracePoint = program_mut(&mut self.ebpf, program)?;
            let link = Link::to_raw_tracepoint(loaded(hook.fd(), program)?.as_fd(), tracepoint)
                .map_err(|source| BpfError::Attach { program, source })?;
            if let Some(store) = &self.store {
                store.keep_tracepoint(&link, tracepoint)?;
            }
            self.links.push(link);
        }
        Ok(())
    }

    /// Lets the programs of this start judge and report binds, in the place of those of an earlier agent if there are
    /// any. From here on the claims in the maps are enforced, so they have to be complete. Every bind is judged and
    /// counted once, by the one or by the other.
    ///
    /// # Errors
    ///
    /// If the cgroup cannot be opened or the kernel refuses a link. Hooks that were switched by then stay switched.
    pub fn attach(&mut self) -> Result<(), BpfError> {
        let path = self.options.cgroup.clone();
        let cgroup = File::open(&path).map_err(|source| BpfError::Cgroup { path, source })?;
        for (place, BindProgram { name: program, hook, .. }) in BIND_PROGRAMS.into_iter().enumerate() {
            let descriptor = match hook {
                Hook::Bind4 | Hook::Bind6 => {
                    program_mut::<CgroupSockAddr>(&mut self.ebpf, program).map(|hook| loaded(hook.fd(), program))??
                }
                Hook::PostBind4 | Hook::PostBind6 | Hook::SockRelease => {
                    program_mut::<CgroupSock>(&mut self.ebpf, program).map(|hook| loaded(hook.fd(), program))??
                }
            };
            let descriptor = descriptor.as_fd();
            let attach = || {
                Link::to_cgroup(descriptor, cgroup.as_fd(), hook).map_err(|source| BpfError::Attach { program, source })
            };
            let link = match &mut self.store {
                Some(store) => store.switch(place, descriptor, attach)?,
                None => attach()?,
            };
            self.links.push(link);
        }
        Ok(())
    }

    /// What the agent before this one left, once; `None` if there was none. Its programs judge until [`Self::attach`].
    ///
    /// # Errors
    ///
    /// If it judges, but what it held cannot be read.
    pub fn take_previous(&mut self) -> Result<Option<Previous>, PinError> {
        self.previous.take().transpose()
    }

    /// Removes what is of no use once this agent judges: whatever earlier agents pinned, and where nothing is to be
    /// kept also the pins that were taken over. To be called after [`Self::attach`], when the rings of
    /// [`Self::take_previous`] have been read.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed. The next start tries again.
    pub fn retire_previous(&mut self) -> Result<(), PinError> {
        match &mut self.store {
            Some(store) => store.retire(),
            None => Ok(()),
        }
    }

    /// Whether what this agent does outlives it.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.records.is_some()
    }

    /// Puts off the moment when enforcement lapses, to so many nanoseconds since boot, sleep included; 0 is never. One
    /// store, at any time.
    pub fn renew(&self, deadline: u64) {
        self.config.store(config_word::LEASE_DEADLINE, lease::to_word(deadline));
    }

    /// The mode that an operator set on the node.
    #[must_use]
    pub fn node_mode(&self) -> NodeMode {
        NodeMode::from_word(self.mode.load(0))
    }

    /// Writes down what the next agent is to know of an owner. Nothing where nothing is kept.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(super) fn write_owner_record(&mut self, slot: Slot, record: &[u8; OWNER_RECORD_BYTES]) -> Result<(), BpfError> {
        let Some(records) = &mut self.records else {
            return Ok(());
        };
        records.insert(u32::from(slot), record, 0).map_err(|source| map_error("write", "RECORDS", source))
    }

    /// Forgets what was written down of an owner.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(super) fn remove_owner_record(&mut self, slot: Slot) -> Result<(), BpfError> {
        match &mut self.records {
            Some(records) => removed(records.remove(&u32::from(slot)), "RECORDS"),
            None => Ok(()),
        }
    }
}

fn loaded<'a>(
    descriptor: Result<&'a ProgramFd, ProgramError>,
    program: &'static str,
) -> Result<&'a ProgramFd, BpfError> {
    descriptor.map_err(|source| BpfError::Program { program, source: Box::new(source) })
}
