//! Cgroups of pods: their paths, and the tree below the attached root.

pub mod host_unit;
pub mod path;
pub mod tree;
