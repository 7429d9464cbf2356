//! What the agent writes down for its successor: whatever lies in the map is refused, or is exactly what it says.
#![no_main]

use enforcer_core::{
    model::digest::Digest,
    plan::owner_record::{OwnerRecord, OwnerRecordError, RecordedOwner, VERSION},
};
use enforcer_ebpf::wire::OWNER_RECORD_BYTES;
use enforcer_fuzz::properties::assert_safe;
use libfuzzer_sys::fuzz_target;

/// Where the checksum begins.
const CHECKSUM: usize = OWNER_RECORD_BYTES - 8;

fuzz_target!(|data: &[u8]| {
    // As it is, which is refused nearly always.
    assert!(check(data).is_err() || data.len() == OWNER_RECORD_BYTES);

    // Behind a right version and checksum, where every field is looked at.
    let mut sealed = [0; OWNER_RECORD_BYTES];
    let length = data.len().min(CHECKSUM - 2);
    sealed[..2].copy_from_slice(&VERSION.to_le_bytes());
    sealed[2..][..length].copy_from_slice(&data[..length]);
    let checksum = Digest::of_bytes(&sealed[..CHECKSUM]).short();
    sealed[CHECKSUM..].copy_from_slice(&checksum);
    assert_ne!(check(&sealed), Err(OwnerRecordError::Checksum));
});

fn check(bytes: &[u8]) -> Result<(), OwnerRecordError> {
    let record = OwnerRecord::decode(bytes)?;
    let written = record.encode().expect("what was read fits");
    assert_eq!(&written[..], bytes, "one record has one form");
    assert_safe(&record.name.to_string());
    match record.subject {
        RecordedOwner::Pod { key, mirror, .. } => {
            let uid = format!("{:032x}", u128::from_be_bytes(key.uid));
            assert_eq!(record.name.mirror, mirror.then_some(uid));
        }
        RecordedOwner::Node | RecordedOwner::HandoverReservation { .. } | RecordedOwner::Service => {
            assert_eq!(record.name.mirror, None);
        }
    }
    Ok(())
}
