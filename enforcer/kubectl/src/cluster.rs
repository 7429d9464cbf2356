//! Reading a cluster: the connection, lists page by page, and what is known about each node.

mod connection;
mod nodes;
mod pages;
mod progress;
mod refusal;

pub(crate) use self::{
    connection::{Cluster, Connection},
    nodes::{KnownNodes, NodeScope, nodes_without, read_ledgers, read_nodes, read_services},
    pages::for_each,
    progress::Progress,
    refusal::{Refusal, Resource, missing_right},
};
