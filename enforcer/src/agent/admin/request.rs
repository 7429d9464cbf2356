//! Requests of the admin socket, as values.

use axum::body::Bytes;
use enforcer_core::{
    model::name::Name,
    views::explain::{ExplainError, Explanation},
};
use enforcer_ebpf::wire::Protocol;
use tokio::sync::oneshot;

use super::watchers::Lines;

/// A request with the channel for its answer. A connection that does not wait any more has closed the channel.
pub(in crate::agent) enum Request {
    /// The status of the node, as JSON.
    Status(oneshot::Sender<Bytes>),
    /// What the node's pods bind and do not declare, as JSON.
    Suggest(oneshot::Sender<Bytes>),
    /// An explanation of one port.
    Explain(ExplainRequest, oneshot::Sender<Result<Box<Explanation>, ExplainError>>),
    /// The end of the handover reservations of a port.
    Release {
        /// Protocol of the port.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// Answer: the names of the reservations that ended.
        reply: oneshot::Sender<Vec<Name>>,
    },
    /// Attempts from now on, or conflicts alone. No lines if there are too many watchers.
    Watch {
        /// Switch to leave out attempts that are no conflict.
        conflicts: bool,
        /// Answer.
        reply: oneshot::Sender<Option<Lines>>,
    },
}

impl Request {
    /// Checks whether the answer shows sockets, which have to be those of this moment.
    pub(in crate::agent) fn shows_sockets(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Explain(..) | Self::Suggest(_))
    }
}

/// An [`enforcer_core::views::explain::ExplainQuestion`] that owns its text.
pub(in crate::agent) struct ExplainRequest {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) pod: Option<(String, String)>,
}
