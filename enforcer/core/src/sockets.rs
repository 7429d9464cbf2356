//! Bound sockets: who holds which port, and live conflicts between holders.

mod incumbent;
mod live_conflict;
mod table;
mod types;

pub use live_conflict::{Audience, LiveConflict, NamedSocket, ReportedConflicts};
pub use table::{BoundSockets, DumpSummary, SocketLimits};
pub use types::{
    Activity, BoundSince, BoundSocket, DumpedSocket, Process, Reuse, Scope, SocketBinding, SocketOwner, SocketPlace,
};
