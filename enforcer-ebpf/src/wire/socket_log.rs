//! `SOCKET_LOG`: a log of sockets that were bound and released, in an array that the agent maps into its memory.
//!
//! A record in a ring costs each bind and each close twice as much: a lock, and a look at who has to be woken
//! (`__bpf_ringbuf_reserve` in kernel/bpf/ringbuf.c). Here a program reserves its bytes by one atomic exchange of
//! [`SocketLog::head`]. The agent reads the log every half second, with what it reads anyway, and when a program wakes it by
//! a record in the socket ring, because half of it is in use. Kernels before
//! 5.12 have no such exchange: there the records are in the socket ring themselves.
//!
//! Head and tail count the bytes since the start. The place of a byte in [`SocketLog::records`] is its number modulo
//! [`SOCKET_LOG_BYTES`]. A record is one word, its length in bytes without that word, and then a
//! [`BoundEvent`](super::BoundEvent) or a [`ReleaseEvent`](super::ReleaseEvent). It never continues at the beginning:
//! there is room for one beyond the end.
//!
//! - A program reserves only what the agent has read: it never overwrites, and what finds no room is counted
//!   ([`HolderEventLost`](super::KernelError::HolderEventLost)).
//! - The length is written last. The agent stops at a record whose length is 0, since it is still being written.
//! - The agent makes zeros of what it has read, and only then moves the tail.

use super::{BoundEvent, ReleaseEvent};

/// Bytes of records in the log, a power of two.
pub const SOCKET_LOG_BYTES: u32 = 1 << 19;
/// Bytes of the word before each record.
pub const SOCKET_LOG_HEADER_BYTES: usize = 8;
/// Bytes of the longest record, its header included.
pub const SOCKET_LOG_RECORD_BYTES: usize = SOCKET_LOG_HEADER_BYTES + size_of::<BoundEvent>();

/// 64-bit words of [`SocketLog::records`].
const WORDS: usize = (SOCKET_LOG_BYTES as usize + SOCKET_LOG_RECORD_BYTES) / 8;

const _: () = assert!(
    SOCKET_LOG_BYTES.is_power_of_two()
        && size_of::<ReleaseEvent>() <= size_of::<BoundEvent>()
        && size_of::<BoundEvent>().is_multiple_of(8)
        && size_of::<ReleaseEvent>().is_multiple_of(8)
);

/// The single element of the `SOCKET_LOG` array. Head and tail are in cache lines of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SocketLog {
    /// Bytes that were reserved since the start. Written by the programs.
    pub head: u64,
    /// Zero.
    pub padding: [u64; 7],
    /// Bytes that were read since the start. Written by the agent.
    pub tail: u64,
    /// Zero.
    pub padding_of_tail: [u64; 7],
    /// The records.
    pub records: [u64; WORDS],
}
