//! From API objects to pods and their claims.

pub mod annotation;
pub mod claims;
pub mod pod;
pub mod probes;
pub mod service;
