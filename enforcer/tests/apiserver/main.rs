//! The stand-in for the API server, proved with the client that the agent uses.

mod admin;
mod cluster;
mod events;
mod faults;
mod lists;
#[path = "../support"]
mod support {
    pub(crate) mod apiserver;
}
mod watches;
