//! What a program reads about its surroundings: the configuration, the caller, the socket and the task.

pub(crate) mod caller;
pub(crate) mod config;
pub(crate) mod socket;
pub(crate) mod task;
