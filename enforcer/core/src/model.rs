//! Types that every step uses. This folder imports no other one.

pub mod actor;
pub mod attempt;
pub mod digest;
pub mod free_ports;
pub mod jitter;
pub mod kernel_ids;
pub mod kubernetes_ports;
pub mod list_text;
pub mod mode;
pub mod name;
pub mod namespace_label;
pub mod now;
pub mod owner;
pub mod port_spec;
pub mod quota;
pub mod source;
pub mod text;
pub mod token_bucket;
