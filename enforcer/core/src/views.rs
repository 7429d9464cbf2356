//! What people and programs read: the JSON and the text of `enforcer status`, `explain` and `watch`.

pub mod explain;
pub mod node_snapshot;
pub mod release;
pub mod status;
pub mod unenforced_time;
pub mod watch;
