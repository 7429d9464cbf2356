//! `net.ipv4.ip_local_reserved_ports`: the set of ports, and the steps that add and remove our own.

mod plan;
mod set;

pub use plan::{MOST_BYTES, Memory, Step, plan};
pub use set::{PortSet, PortSetError};
