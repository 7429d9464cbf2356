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
//! | findings | fingerprints, and which a baseline accepts | `judged`, `baseline` |
//! | findings | text and JSON, SARIF, XML of `JUnit`, commands of a GitHub workflow | `report`, `sarif`, `junit`, `github` |
//! | names of files | names and addresses for machines | [`paths`] |
//! | claims | a table, and JSON | `listing` |

mod baseline;
pub mod command;
mod files;
pub mod flags;
mod github;
pub mod inputs;
mod judged;
mod junit;
mod listing;
pub mod pages;
pub mod paths;
mod registry;
mod report;
mod sarif;
pub mod workloads;
