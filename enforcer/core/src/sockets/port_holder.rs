//! The holder of a port, as the kernel programs know it.

use enforcer_ebpf::wire::{HOLDER_SOMEBODY, Protocol};

use crate::{index::Index, sockets::BoundSockets};

impl BoundSockets {
    /// Returns the holder of a port as the programs know it: the pod that alone holds it, [`HOLDER_SOMEBODY`] for several
    /// or another one, 0 for nobody.
    #[must_use]
    pub fn port_holder(&self, protocol: Protocol, port: u16, index: &Index) -> u64 {
        let mut pods = self.on(protocol, port).map(|holder| index.pod_cgroup(holder.cgroup));
        let Some(first) = pods.next() else {
            return 0;
        };
        if pods.all(|pod| pod == first) { first.unwrap_or(HOLDER_SOMEBODY) } else { HOLDER_SOMEBODY }
    }
}
