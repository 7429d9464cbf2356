//! `OWNER_RECORDS`: what the agent writes of an owner for the next agent. No program reads it.

/// Bytes of one element of `OWNER_RECORDS`, whose key is the owner's slot (`u32`). The core encodes and decodes them.
pub const OWNER_RECORD_BYTES: usize = 512;
