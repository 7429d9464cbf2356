//! What the targets have in common: the code under test, and what several of them ask of it.
//!
//! The code under test is the modules themselves, not the crates that they are of: with these, the agent's other
//! dependencies (the cluster's client and its TLS, HTTP, aya's build) would be compiled with the sanitizer for nothing.

// By this name the modules of the agent know the crate that they share with the kernel programs.
extern crate self as enforcer_ebpf;

#[path = "../../src"]
mod agent {
    pub mod core;
    pub mod manifests;

    pub(crate) mod bpf {
        pub mod events;
    }
}

#[expect(clippy::inline_always, clippy::cast_possible_truncation, reason = "as in the crate that they are of")]
#[path = "../../../enforcer-ebpf/src"]
mod shared {
    pub mod abi;
    pub mod cgroup_name;
    pub mod decide;
    pub mod verifier;
}

pub mod sound;

// As in the crates that they are of.
pub use agent::{bpf::events, core, manifests};
pub use shared::{abi, cgroup_name, decide, verifier};
