//! What a program reads about its surroundings.
//!
//! | file | contents |
//! | --- | --- |
//! | [`address`] | address of a bind, and its encodings |
//! | [`caller`] | pod of the calling task |
//! | [`clock`] | clocks |
//! | [`config`] | configuration by the agent |
//! | [`netns`] | network namespace of a socket |
//! | [`owners`] | owners of ports and of pod cgroups |
//! | [`read`] | reads of kernel memory and of map words |
//! | [`socket`] | fields of a socket in kernel memory |
//! | [`task`] | fields of the calling task for a record |

pub(crate) mod address;
pub(crate) mod caller;
pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod netns;
pub(crate) mod owners;
pub(crate) mod read;
pub(crate) mod socket;
pub(crate) mod task;
