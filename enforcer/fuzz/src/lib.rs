//! Helpers that several targets share: the code under test, and the properties that hold of every claim and text.

#[path = "../../src"]
mod agent {
    pub mod manifests;
}

pub mod properties;

pub use agent::manifests;
