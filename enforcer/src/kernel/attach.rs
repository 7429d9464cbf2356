//! From loaded programs to attached ones, in the place of those of an earlier agent if it left any.

use std::{ffi::CStr, fs::File, os::fd::AsFd as _};

use aya::programs::{CgroupSock, CgroupSockAddr, ProgramError, ProgramFd, RawTracePoint};

use tracing::warn;

use crate::kernel::{
    Kernel,
    error::BpfError,
    grace_period,
    link::{Hook, Link},
    loader::program_mut,
    map_names::{BIND_TAIL4, BIND_TAIL6},
    pins::{PinError, Previous},
};

/// The programs that note cgroups, and their tracepoints.
pub(super) const CGROUP_PROGRAMS: [(&str, &CStr); 2] =
    [("pe_cgroup_mkdir", c"cgroup_mkdir"), ("pe_cgroup_rmdir", c"cgroup_rmdir")];

/// A program that judges or reports binds.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindProgram {
    /// Name of the program in the object.
    pub(super) name: &'static str,
    /// Name of the program's pin and of its link's.
    pub(super) pin: &'static str,
    /// Hook that it is attached to.
    pub(super) hook: Hook,
}

/// The programs that judge or report binds, in the order in which they are switched.
pub(super) const BIND_PROGRAMS: [BindProgram; 5] = [
    BindProgram { name: "pe_bind4", pin: "bind4", hook: Hook::Bind4 },
    BindProgram { name: "pe_bind6", pin: "bind6", hook: Hook::Bind6 },
    BindProgram { name: "pe_post_bind4", pin: "post_bind4", hook: Hook::PostBind4 },
    BindProgram { name: "pe_post_bind6", pin: "post_bind6", hook: Hook::PostBind6 },
    BindProgram { name: "pe_sock_release", pin: "sock_release", hook: Hook::SockRelease },
];

/// The programs that `bind4` and `bind6` go on with, and the arrays that hold them.
pub(super) const BIND_TAIL_PROGRAMS: [(&str, &str); 2] = [("pe_bind_tail4", BIND_TAIL4), ("pe_bind_tail6", BIND_TAIL6)];

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

    /// Attaches the programs that judge and report binds, in the place of those of an earlier agent if there are any.
    /// From here on the claims in the maps are enforced, so they have to be complete. Every bind is judged and counted
    /// once, by the earlier or by the new programs.
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
        if self.options.features.post_bind_denies {
            self.allow_sole_holds();
        }
        Ok(())
    }

    /// Lets sockets take sole holds. Without them each hold costs more, and all is right.
    fn allow_sole_holds(&mut self) {
        let old_programs_ended = if self.store.is_some() { grace_period::wait_for_programs() } else { Ok(()) };
        let allowed = match old_programs_ended {
            Ok(()) => self.maps.allow_sole_holds().map_err(|error| error.to_string()),
            Err(error) => Err(format!("cannot wait for the programs of the previous agent: {error}")),
        };
        if let Err(error) = allowed {
            warn!(event = "sole_holds", error, "cannot note holds of ports the short way; binds that share cost more");
        }
    }

    /// Takes what the previous agent left, once; `None` if there was none. Its programs judge until [`Self::attach`].
    ///
    /// # Errors
    ///
    /// If its programs judge, but its maps cannot be read.
    pub fn take_previous(&mut self) -> Result<Option<Previous>, PinError> {
        self.previous.take().transpose()
    }

    /// Removes the pins of earlier agents and, in an agent without persistence, the pins that were taken over. To be
    /// called after [`Self::attach`], when the rings of [`Self::take_previous`] have been read.
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

    /// Returns whether enforcement outlives this agent.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.maps.has_records()
    }
}

fn loaded<'a>(
    descriptor: Result<&'a ProgramFd, ProgramError>,
    program: &'static str,
) -> Result<&'a ProgramFd, BpfError> {
    descriptor.map_err(BpfError::program(program))
}
