//! Bound sockets: who holds which port, and live conflicts between holders.

mod bound_socket;
mod live_conflict;
pub mod observed_ports;
mod port_holder_word;
mod table;

pub use bound_socket::{
    Activity, BoundSince, BoundSocket, DumpedSocket, Process, Scope, SocketBinding, SocketOwner, SocketPlace,
};
pub use live_conflict::{LiveConflict, NamedSocket, ReportedConflicts};
pub use table::{BoundSockets, DumpSummary, SocketLimits};
