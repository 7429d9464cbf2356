//! The stand-in for the API server, proved with the client that the agent uses.

mod access;
mod admin_requests;
mod cluster_objects;
mod events;
mod faults;
mod installed_objects;
mod ledger_schema;
mod ledgers;
mod lists;
mod long_lists;
mod server_and_client;
mod watches;
