//! Helpers that several targets share: the code under test, and the properties that hold of every claim and text.

#[path = "../../src"]
mod agent {
    pub mod manifests;

    pub(crate) mod kernel {
        pub mod ring_records;
    }
}

pub mod properties;

pub use agent::{kernel::ring_records, manifests};
