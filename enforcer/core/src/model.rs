//! Types that every step uses.

pub mod digest;
pub mod port_spec;
pub mod text;
