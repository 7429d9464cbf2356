//! The ledger of a node: who uses which of its host ports, as an object of the API that the whole cluster can read.
//!
//! | from | to | in |
//! | --- | --- | --- |
//! | | the content of the object | [`node_host_ports`] |
//! | claims, sockets and conflicts of a node | that content, bounded | [`content`] |
//! | changes of the content, answers of the API server | when to write or look | [`schedule`] |

pub mod content;
pub mod node_host_ports;
pub mod schedule;
