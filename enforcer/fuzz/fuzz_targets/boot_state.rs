//! What lies in the folder of the boot state: it is refused, or is exactly what an agent wrote.
#![no_main]

use std::time::Duration;

use enforcer_core::{
    boot_state::{BootState, BootStateError, VERSION},
    index::{Index, RestoredFrom},
    model::{digest::Digest, kernel_ids::CgroupId, now::Now},
};
use enforcer_fuzz::properties::assert_safe;
use libfuzzer_sys::fuzz_target;

const NOW: Now = Now { wall: 1_700_000_000_000_000, boottime: Duration::from_secs(5) };

fuzz_target!(|data: &[u8]| {
    // As it is, which is refused nearly always.
    check(data);
    // Behind a right first line, where every field is looked at.
    let head = format!("port-enforcer boot-state {VERSION} {:?} {}\n", Digest::of_bytes(data), data.len());
    let error = check(&[head.as_bytes(), data].concat());
    assert!(matches!(error, None | Some(BootStateError::Content(_))), "{error:?}");
});

fn check(bytes: &[u8]) -> Option<BootStateError> {
    let state = match BootState::decode(bytes, NOW) {
        Ok(state) => state,
        Err(error) => {
            // It is said to a terminal.
            assert_safe(&error.to_string());
            return Some(error);
        }
    };
    assert!(!state.cgroup.split('/').any(|segment| segment == ".."), "it leads out of the hierarchy");
    // What was read is written and read as the same, unless a time is beyond all clocks.
    if let Some(written) = state.encode(NOW) {
        let again = BootState::decode(&written, NOW).expect("an agent's own");
        assert_eq!(again.owners.len(), state.owners.len());
    }
    for owner in &state.owners {
        assert_safe(&owner.record.name.to_string());
        assert!(owner.record.encode().is_some(), "the next agent can read it");
    }
    // Whatever it is, it can be restored.
    let mut index = Index::new(state.settings, CgroupId::new(1));
    index.restore(state.owners, RestoredFrom::BootState, NOW);
    let _ = index.drain_output();
    None
}
