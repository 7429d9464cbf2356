//! The socket log: [`enforcer_ebpf::wire::SocketLog`].

use enforcer_ebpf::wire::{SOCKET_LOG_BYTES, SOCKET_LOG_HEADER_BYTES, SocketLog};

use crate::bpf::{
    atomic::{compare_exchange, publish},
    context::read::load_word,
    maps::SOCKET_LOG,
};

/// Most attempts to reserve space, of which each fails only because another CPU reserved some meanwhile.
const MAX_ATTEMPTS: u32 = 8;

/// Space for a record.
pub(super) struct Reserved<T> {
    /// The record, none of whose fields was written yet.
    pub(super) record: *mut T,
    /// Bytes of the log that were in use before it.
    pub(super) used: u64,
}

/// Reserves space for a record of type `T`. Returns `None` if there is none. `has_share` says whether the record may be
/// written where so many bytes are in use.
#[inline(always)]
pub(super) fn reserve<T>(has_share: impl Fn(u64) -> bool) -> Option<Reserved<T>> {
    let length = (SOCKET_LOG_HEADER_BYTES + size_of::<T>()) as u64;
    let log: *mut SocketLog = SOCKET_LOG.get_ptr_mut(0)?;
    // SAFETY: only addresses of fields of the map's element are taken.
    let (head, tail, records) = unsafe { (&raw mut (*log).head, &raw const (*log).tail, &raw mut (*log).records) };
    for _ in 0..MAX_ATTEMPTS {
        let at = load_word(head);
        let used = at.wrapping_sub(load_word(tail));
        if used > u64::from(SOCKET_LOG_BYTES) - length || !has_share(used) {
            return None;
        }
        // SAFETY: a word of the map's element.
        if unsafe { compare_exchange(head, at, at + length) } == at {
            // A multiple of 8 that is less than the length: the verifier sees that it is, and the array has room for one
            // record beyond its end.
            let offset = at & (u64::from(SOCKET_LOG_BYTES) - 8);
            // SAFETY: as above. The header is one word, which is 0 until the record is published.
            let record = unsafe { records.cast::<u64>().byte_add(offset as usize).add(1) };
            return Some(Reserved { record: record.cast(), used });
        }
    }
    None
}

/// Publishes a record, by its length in the header.
///
/// # Safety
///
/// The record must come from [`reserve`], and all its fields must have been written.
#[inline(always)]
pub(super) unsafe fn publish_record<T>(record: *mut T) {
    // SAFETY: the header is the word before the record.
    unsafe { publish(record.cast::<u64>().sub(1), size_of::<T>() as u64) };
}
