//! Bound sockets: who holds which port, and live conflicts between holders.

mod live_conflict;
mod port_holder;
mod table;
mod types;

pub use live_conflict::{LiveConflict, NamedSocket, ReportedConflicts};
pub use table::{BoundSockets, DumpSummary, SocketLimits};
pub use types::{
    Activity, BoundSince, BoundSocket, DumpedSocket, Process, Scope, SocketBinding, SocketOwner, SocketPlace,
};
