//! The holder of a port, as the kernel programs know it.

use enforcer_ebpf::wire::{HOLDER_SOMEBODY, Protocol};

use crate::{index::Index, model::kernel_ids::CgroupId, sockets::BoundSockets};

impl BoundSockets {
    /// Returns the holder of a port as the programs know it: the pod that alone holds it, [`HOLDER_SOMEBODY`] for several
    /// or another one, 0 for nobody.
    #[must_use]
    pub fn port_holder(&self, protocol: Protocol, port: u16, index: &Index) -> u64 {
        let mut pods = self.on(protocol, port).map(|holder| holder.cgroup.and_then(|cgroup| index.pod_cgroup(cgroup)));
        let Some(first) = pods.next() else {
            return 0;
        };
        if pods.all(|pod| pod == first) { first.map_or(HOLDER_SOMEBODY, CgroupId::get) } else { HOLDER_SOMEBODY }
    }
}
