//! The stand-in for the API server, proved with the client that the agent uses.

mod admin;
mod cluster;
mod events;
mod faults;
mod lists;
mod watches;
