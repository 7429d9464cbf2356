//! The agent's end of the socket log: [`wire::SocketLog`] says how the two ends keep out of each other's way.

use std::{io, mem::offset_of, os::fd::BorrowedFd};

use enforcer_ebpf::wire::{self, SOCKET_LOG_BYTES, SOCKET_LOG_HEADER_BYTES, SOCKET_LOG_RECORD_BYTES};

use crate::kernel::mmap_array::MmapArray;

/// Words before the records, and places of words among them.
const HEAD: usize = offset_of!(wire::SocketLog, head) / 8;
const TAIL: usize = offset_of!(wire::SocketLog, tail) / 8;
const RECORDS: usize = offset_of!(wire::SocketLog, records) / 8;

/// Bytes that are read before the programs are told: each store takes the word from the caches of their CPUs.
const BYTES_GIVEN_BACK: u64 = SOCKET_LOG_BYTES as u64 / 64;

/// Bytes of the longest record, without its header.
const RECORD_BYTES: usize = SOCKET_LOG_RECORD_BYTES - SOCKET_LOG_HEADER_BYTES;

/// The records that the programs wrote and that were not read yet.
pub struct SocketLog {
    words: MmapArray,
    tail: u64,
    /// Tail that the programs know.
    told_tail: u64,
}

impl SocketLog {
    /// Maps the log into memory.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(super) fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let words = MmapArray::map(map, size_of::<wire::SocketLog>() / 8)?;
        let tail = words.load(TAIL);
        Ok(Self { words, tail, told_tail: tail })
    }

    /// Skips everything: no program writes such a length, so that nothing tells where the next record begins.
    fn skip_all(&mut self) {
        let head = self.words.load(HEAD);
        (RECORDS..size_of::<wire::SocketLog>() / 8).for_each(|place| self.words.store(place, 0));
        self.tail = head;
        self.give_back();
    }

    /// Tells the programs what was read.
    fn give_back(&mut self) {
        if self.told_tail != self.tail {
            self.words.store(TAIL, self.tail);
            self.told_tail = self.tail;
        }
    }
}

impl Iterator for SocketLog {
    type Item = SocketLogRecord;

    /// Takes the next record: a [`wire::BoundEvent`] or a [`wire::ReleaseEvent`]. Returns `None` if there is none, or if
    /// the next one is still being written.
    fn next(&mut self) -> Option<SocketLogRecord> {
        #[expect(clippy::cast_possible_truncation, reason = "it is less than the bytes of the log")]
        let at = RECORDS + (self.tail % u64::from(SOCKET_LOG_BYTES)) as usize / 8;
        let length = self.words.load(at);
        if length == 0 {
            self.give_back();
            return None;
        }
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > RECORD_BYTES || !bytes.is_multiple_of(8) {
            self.skip_all();
            return Some(SocketLogRecord { bytes: [0; RECORD_BYTES], length: 0 });
        }
        let mut record = SocketLogRecord { bytes: [0; RECORD_BYTES], length: bytes };
        for (place, word) in record.bytes[..bytes].chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.words.load(at + 1 + place).to_ne_bytes());
        }
        // The programs find zeros, before they may write here again.
        (at..=at + bytes / 8).for_each(|place| self.words.store(place, 0));
        self.tail += SOCKET_LOG_HEADER_BYTES as u64 + length;
        if self.tail - self.told_tail >= BYTES_GIVEN_BACK {
            self.give_back();
        }
        Some(record)
    }
}

/// Record of the log.
#[derive(Clone, Copy, Debug)]
pub struct SocketLogRecord {
    bytes: [u8; RECORD_BYTES],
    /// Bytes in use.
    length: usize,
}

impl SocketLogRecord {
    /// Returns its bytes; none if the log was not what the programs write.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
