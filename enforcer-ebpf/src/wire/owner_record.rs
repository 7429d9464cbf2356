//! `RECORDS`: what the agent writes down of an owner for its successor. No program reads it.

/// Bytes of one element of `RECORDS`, whose key is the owner's slot (`u32`). What they mean is the agent's own affair.
pub const OWNER_RECORD_BYTES: usize = 512;
