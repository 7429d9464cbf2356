//! `RECORDS`: what an agent writes down of an owner for the agent after it. The programs do not read it.

/// Bytes of a [`Record`].
pub const RECORD_BYTES: usize = 512;

/// Value of the `RECORDS` hash, whose key is the owner's slot (`u32`). What the bytes mean is the agent's own business;
/// here they are only kept.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Record(pub [u8; RECORD_BYTES]);

impl core::fmt::Debug for Record {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Record(")?;
        let used = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        write!(f, "{:?})", &self.0[..used])
    }
}

// SAFETY: transparent over bytes, of which every pattern is valid.
#[cfg(not(target_arch = "bpf"))]
unsafe impl aya::Pod for Record {}
