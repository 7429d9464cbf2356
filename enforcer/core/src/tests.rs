//! Tests of the crate as a whole. They are unit tests, so that `cargo test` compiles the crate once.

mod layers;
pub(crate) mod node;
