//! Who holds a port.
//!
//! | file | contents | map |
//! | --- | --- | --- |
//! | [`port_holders`] | the holder of each TCP and UDP port, as far as is known | `PORT_HOLDERS` |
//! | [`first_binder`] | the rule that the first pod to bind a port owns it | |
//! | [`acquire`] | decides whether a caller may take a port beside its holders | |
//! | [`table`] | the holders of each port that sockets can share, under a lock | `PORT_HOLDS` |
//! | [`sole_hold`] | the only hold of each port that has one | `SOLE_HOLDS` |
//! | [`socket_holds`] | what each other socket holds | `SOCKET_HOLDS`, `FALLBACK_HOLDS`, `FALLBACK_USED` |

mod acquire;
pub(crate) mod first_binder;
pub(crate) mod port_holders;
pub(crate) mod socket_holds;
pub(crate) mod sole_hold;
mod table;
