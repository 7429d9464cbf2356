//! `net.ipv4.ip_local_reserved_ports`: the set of ports, and the steps that add and remove our own.

mod plan;
mod set;

pub use plan::{MAX_WRITE_BYTES, RememberedPorts, Step, plan};
pub use set::{PortSet, PortSetError};
