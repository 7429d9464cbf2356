//! From kernel events and notices to messages.

pub mod rate_limit;
pub mod report;
pub mod ring_records;
