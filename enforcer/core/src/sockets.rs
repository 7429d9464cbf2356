//! Bound sockets: who holds which port, and live conflicts between holders.

mod incumbent;
mod live_conflict;
mod table;
mod types;

pub use live_conflict::{Audience, Existing, Reported, Tenure};
pub use table::{Ended, Holders, Limits};
pub use types::{Activity, Binding, Holder, Party, Place, Process, Reuse, Scope, Sighting, Since};
