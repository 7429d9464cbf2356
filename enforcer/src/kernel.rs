//! The kernel side as the agent sees it: load, attach, write maps, read counters and rings. A facade over `aya` that
//! speaks the core's types.
//!
//! | to change | go to |
//! | --- | --- |
//! | how the programs are loaded, and with which constants | `loader`, `object`, [`probe`] |
//! | what a planned change writes | `maps`, and `word_indexes` for places of wire fields |
//! | a name of a map or pin | [`map_names`] |
//! | hooks, and the switch to this agent's programs | `attach`, `link` |
//! | what outlives the agent | [`pins`] |
//! | what this kernel offers | [`probe`] |

mod attach;
pub mod bpf_syscall;
pub mod btf;
mod counters;
mod crash_point;
mod error;
mod grace_period;
mod instruction;
mod lease_deadline;
mod link;
mod loader;
pub mod map_names;
mod maps;
mod mmap_array;
mod object;
pub mod pins;
pub mod probe;
pub mod rdonly_cast;
pub mod socket_log;
mod word_indexes;

use std::{os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use enforcer_core::{model::kernel_ids::BootNanos, plan::port_state::Change};
use enforcer_ebpf::wire::{NodeMode, Policy, PortHold, Protocol, SoleHold};

use crate::kernel::{
    link::Link,
    map_names::{CGROUP_RING, SOCKET_LOG, SOCKET_RING, VERDICT_RING},
    maps::{Maps, take_array, take_map},
    pins::pin_store::{PinStore, PreviousGeneration},
    socket_log::SocketLog,
};

pub use self::{
    counters::{CounterMap, Counters},
    error::BpfError,
    loader::LoadOptions,
};

/// The loaded programs and their maps. Dropping it detaches and unloads everything, unless it is pinned
/// ([`LoadOptions::persistence`]).
pub struct Kernel {
    ebpf: Ebpf,
    options: LoadOptions,
    links: Vec<Link>,
    store: Option<PinStore>,
    previous: PreviousGeneration,
    maps: Maps,
}

impl Kernel {
    /// Loads the programs and attaches those that note the identity of cgroups. Binds are judged only after
    /// [`Self::attach`], so that the claims can be in the maps by then.
    ///
    /// # Errors
    ///
    /// If the object, a program or a map is refused. The verifier's log is part of the error.
    pub fn load(mut options: LoadOptions) -> Result<Self, BpfError> {
        let (store, previous) = match options.persistence.take() {
            Some(keep) => PinStore::open(keep, options.cgroup_id).map(|(store, found)| (Some(store), found))?,
            None => (None, None),
        };
        let shared = store.as_ref().map(PinStore::shared_maps).unwrap_or_default();
        let mut ebpf = loader::load_object(&mut options, &shared)?;
        let mut records = None;
        if let Some(store) = &store {
            store.pin_generation(&mut ebpf)?;
            records = store.make_records()?;
        }
        let maps = Maps::take(&mut ebpf, records)?;
        maps::write_shared_ports(&mut ebpf, &std::mem::take(&mut options.shared_ports))?;
        maps.write_config(&options);
        let mut kernel = Self { ebpf, options, links: Vec::new(), store, previous, maps };
        kernel.attach_cgroup_programs()?;
        Ok(kernel)
    }

    /// Returns whether the programs write a trace: if that was asked for, and the kernel takes them with it.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.options.trace
    }

    /// Returns the cgroup that the programs are attached to.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.options.cgroup
    }

    /// Changes the policy of the running programs.
    pub fn set_policy(&self, policy: Policy) {
        self.maps.set_policy(policy);
    }

    /// Returns the policy of the running programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.maps.policy()
    }

    /// Extends the lease to this time; `None` is never. One store, at any time.
    pub fn renew(&self, deadline: Option<BootNanos>) {
        self.maps.set_lease_deadline(deadline);
    }

    /// Returns when enforcement ends unless [`Self::renew`] extends it; `None` is never.
    #[must_use]
    pub fn lease_deadline(&self) -> Option<BootNanos> {
        self.maps.lease_deadline()
    }

    /// Returns the level of the attached cgroup in the whole hierarchy, once it is known.
    #[must_use]
    pub fn root_level(&self) -> Option<u64> {
        self.maps.root_level()
    }

    /// Returns the mode that an operator set on the node.
    #[must_use]
    pub fn node_mode(&self) -> NodeMode {
        self.maps.node_mode()
    }

    /// Writes one change that the core planned.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it, for instance because a map is full. Later changes do not depend on it.
    pub fn apply(&mut self, change: &Change) -> Result<(), BpfError> {
        self.maps.apply(change)
    }

    /// Notes for the next agent that the maps were filled from a boot state at this time. Nothing without persistence.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn mark_boot_restore(&mut self, at: BootNanos) -> Result<(), BpfError> {
        self.maps.mark_boot_restore(at)
    }

    /// Returns the exact counters, which any thread can read at any time.
    #[must_use]
    pub fn counters(&self) -> &CounterMap {
        self.maps.counters()
    }

    /// Sets the holder of a port: [`enforcer_ebpf::wire::PortHolder::holder`]. Does nothing for a protocol that is not
    /// enforced.
    ///
    /// # Errors
    ///
    /// If the map cannot be mapped into memory.
    pub fn set_port_holder(&self, protocol: Protocol, port: u16, holder: u64) -> Result<(), BpfError> {
        self.maps.set_port_holder(protocol, port, holder)
    }

    /// Returns the holder of a port: [`enforcer_ebpf::wire::PortHolder::holder`]; 0 for a protocol that is not enforced.
    ///
    /// # Errors
    ///
    /// As [`Self::set_port_holder`].
    pub fn port_holder(&self, protocol: Protocol, port: u16) -> Result<u64, BpfError> {
        self.maps.port_holder(protocol, port)
    }

    /// Returns the ports that have a holder, known or not: [`enforcer_ebpf::wire::PortHolder::holder`].
    ///
    /// # Errors
    ///
    /// As [`Self::set_port_holder`].
    pub fn held_ports(&self) -> Result<Vec<(Protocol, u16)>, BpfError> {
        self.maps.held_ports()
    }

    /// Checks whether a process named this port in a bind, denied ones excepted, since the programs were loaded; false
    /// for a protocol that is not enforced. A port that only binds of port 0 got is not named.
    ///
    /// # Errors
    ///
    /// As [`Self::set_port_holder`].
    pub fn was_named(&self, protocol: Protocol, port: u16) -> Result<bool, BpfError> {
        self.maps.was_named(protocol, port)
    }

    /// Returns the holds that the programs keep of ports whose sockets could share them: by
    /// [`enforcer_ebpf::wire::port_index`], and only ports that are held.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn port_holds(&self) -> Result<Vec<(u32, Vec<PortHold>)>, BpfError> {
        self.maps.port_holds()
    }

    /// Returns the sole hold of a port, by [`enforcer_ebpf::wire::port_index`].
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn sole_hold(&self, port: u32) -> Result<SoleHold, BpfError> {
        self.maps.sole_hold(port)
    }

    /// Takes the ring of judged binds.
    ///
    /// # Errors
    ///
    /// If it was taken already or cannot be mapped.
    pub fn take_verdict_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        take_map(&mut self.ebpf, VERDICT_RING)
    }

    /// Takes the log of sockets that were bound and released.
    ///
    /// # Errors
    ///
    /// As [`Self::take_verdict_ring`].
    pub fn take_socket_log(&mut self) -> Result<SocketLog, BpfError> {
        let map = take_array(&mut self.ebpf, SOCKET_LOG)?;
        SocketLog::map(map.fd().as_fd()).map_err(BpfError::mmap(SOCKET_LOG))
    }

    /// Takes the ring of binds of held ports and of wake-ups.
    ///
    /// # Errors
    ///
    /// As [`Self::take_verdict_ring`].
    pub fn take_socket_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        take_map(&mut self.ebpf, SOCKET_RING)
    }

    /// Takes the ring of cgroups that were made and removed.
    ///
    /// # Errors
    ///
    /// As [`Self::take_verdict_ring`].
    pub fn take_cgroup_ring(&mut self) -> Result<RingBuf<MapData>, BpfError> {
        take_map(&mut self.ebpf, CGROUP_RING)
    }

    /// Starts to pass the programs' trace to the log. Only where [`Self::traces`] is true.
    ///
    /// # Errors
    ///
    /// If the programs' log ring is not there.
    pub fn take_trace(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }
}
