//! From kernel events and notices to messages, and few enough of them.

mod bounded_map;
pub mod deduplicator;
pub mod failing_binds;
mod incumbent;
pub mod log_rate_limiter;
pub mod messages;
pub mod report;
pub mod ring_records;
