//! From claims to claims in force.

pub mod arbiter;
pub mod quota;
