//! Bound sockets: who holds which port, and live conflicts between holders.

mod bound_socket;
mod live_conflict;
mod port_holder_word;
mod table;

pub use bound_socket::{
    Activity, BoundSince, BoundSocket, DumpedSocket, Process, Scope, SocketBinding, SocketOwner, SocketPlace,
};
pub use live_conflict::{LiveConflict, NamedSocket, ReportedConflicts};
pub use table::{BoundSockets, DumpSummary, SocketLimits};
