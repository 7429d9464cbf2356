//! Host ports of a whole cluster: from the ledgers of its nodes and, where there is none, from what pods declare.
//!
//! | from | to | in |
//! | --- | --- | --- |
//! | ledgers, pods of nodes without one, Services | rows of all nodes, and conflicts | [`host_ports`] |
//! | pods of a node without a ledger | the ledger that an agent would write, without sockets | [`declared`] |
//! | rows, and a wish | ports that are free on every node | [`free`] |
//! | a pod, nodes, rows | why it is Pending, denied or fails | [`why`] |
//! | ledgers, and templates of workloads | patches that declare what pods bind | [`suggest`] |
//! | conflicts of all nodes | policy reports, and the steps that write them | [`policy_reports`] |

pub mod declared;
pub mod free;
pub mod host_ports;
mod messages;
pub mod policy_reports;
pub mod suggest;
pub mod why;
