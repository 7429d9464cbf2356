//! Mark of a restore at boot in `OWNER_RECORDS`: the element of slot 0, which is nobody's.
//!
//! The agent that takes over learns from it that the maps were filled from a boot state and when, so that it knows how
//! long nothing was enforced after the boot, and that nobody looked while the node was off.

use enforcer_ebpf::wire::OWNER_RECORD_BYTES;

use crate::{model::kernel_ids::BootNanos, plan::owner_record::RecordBytes};

/// Slot of the mark.
pub const SLOT: u32 = 0;
/// First bytes of the mark. Zeros and then the time follow: nanoseconds since boot, little-endian, in the last 8 bytes.
const TEXT: &[u8] = b"restored at boot";

/// Returns the bytes of the mark of a restore at this time.
#[must_use]
pub fn encode(at: BootNanos) -> RecordBytes {
    let mut bytes = Box::new([0; OWNER_RECORD_BYTES]);
    bytes[..TEXT.len()].copy_from_slice(TEXT);
    bytes[OWNER_RECORD_BYTES - 8..].copy_from_slice(&at.get().to_le_bytes());
    bytes
}

/// Returns the time of the restore; `None` if the bytes are no mark.
#[must_use]
pub fn decode(bytes: &[u8; OWNER_RECORD_BYTES]) -> Option<BootNanos> {
    let (head, time) = bytes.split_last_chunk()?;
    let rest = head.strip_prefix(TEXT)?;
    rest.iter().all(|byte| *byte == 0).then(|| BootNanos::new(u64::from_le_bytes(*time)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::owner_record::OwnerRecord;

    #[test]
    fn mark_is_read_and_is_no_record() {
        let at = BootNanos::new(3_141_592_653);
        let bytes = encode(at);
        assert_eq!(decode(&bytes), Some(at));
        assert!(OwnerRecord::decode(&bytes[..]).is_err());
        let mut other = bytes.clone();
        other[100] = 1;
        assert_eq!(decode(&other), None);
        assert_eq!(decode(&[0; OWNER_RECORD_BYTES]), None, "there is none");
    }
}
