//! Bound sockets: who holds which port, live conflicts between holders, and ports of pods that others answer.

mod answered_by_other;
mod answered_ports;
mod bound_socket;
mod live_conflict;
pub mod observed_ports;
mod port_holder_word;
mod table;

pub use answered_by_other::{AnswerInputs, AnsweredByOther, AnsweredPort};
pub use answered_ports::{AnsweredPorts, MAX_ANSWERED};
pub use bound_socket::{
    Activity, BoundSince, BoundSocket, DumpedSocket, Process, Scope, SocketBinding, SocketOwner, SocketPlace,
};
pub use live_conflict::{LiveConflict, NamedSocket, ReportedConflicts};
pub use table::{BoundSockets, DumpSummary, SocketLimits};
