//! What people and programs read: the JSON and the text of `enforcer status`, `explain` and `watch`.

pub mod enforcement_gap;
pub mod explain;
pub mod json;
pub mod status;
pub mod watch;
