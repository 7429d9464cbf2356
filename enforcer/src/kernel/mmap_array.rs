//! A BPF array as 64-bit words in this process's memory.
//!
//! One store is one update, and a program sees it either not yet or whole; an update by system call is a `memcpy` that
//! a program may see half done. It also costs no system call.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// All elements of a memory-mapped array. The mapping keeps the map alive.
pub(super) struct MmapArray {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping is shared memory that is only accessed through atomics, from whatever thread.
unsafe impl Send for MmapArray {}

impl MmapArray {
    /// Maps the first `count` words of the array, whose elements must be multiples of 8 bytes long and which must have
    /// been created with `BPF_F_MMAPABLE`.
    pub(super) fn map(fd: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Self::map_from(fd, 0, count)
    }

    /// The same from this word on, which must be the first of a page.
    pub(super) fn map_from(fd: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<Self> {
        let offset = first as u64 * 8;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to that memory.
        let start = unsafe {
            mmap(ptr::null_mut(), count * 8, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, offset)
        }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { start, count })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: within the mapping.
        let word = unsafe { self.start.add(index) };
        // SAFETY: aligned, since the mapping begins at a page, and it lives as long as `self`.
        unsafe { word.as_ref() }
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    pub(super) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for MmapArray {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.count * 8) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
