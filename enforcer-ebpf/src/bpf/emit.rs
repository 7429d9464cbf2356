//! Records to the agent.
//!
//! | file | contents |
//! | --- | --- |
//! | [`attempts`] | attempts, in the rings |
//! | [`sockets`] | sockets that were bound and released, in the socket log |
//! | [`socket_log`] | space in the log |
//! | [`share`] | shares of the space, so that no cgroup takes it all |
//! | [`wakeup`] | when a record wakes the agent |

pub(crate) mod attempts;
pub(crate) mod share;
mod socket_log;
pub(crate) mod sockets;
mod wakeup;
