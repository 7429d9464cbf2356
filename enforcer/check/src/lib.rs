//! The edges of the check of manifests, for `enforcer check` and `kubectl host-ports check`: the rules are in
//! [`enforcer_core::check`].
//!
//! | from | to | module |
//! | --- | --- | --- |
//! | flags | the answer, and how the command ends | [`command`], [`flags`] |
//! | files, folders, standard input | manifests | [`inputs`] |
//! | a file | the registry of ports and their users, and back | `registry` |
//! | a cluster | the objects that make pods there | [`workloads`] |
//! | a list of a cluster | its pages | [`pages`] |
//! | findings | text, and JSON | `report` |
//! | claims | a table, and JSON | `listing` |

pub mod command;
pub mod flags;
pub mod inputs;
mod listing;
pub mod pages;
mod registry;
mod report;
pub mod workloads;
