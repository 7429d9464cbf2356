//! BPF arrays as 64-bit words in this process's memory.
//!
//! One store is one update, and a program sees it either not yet or whole; an update by system call is a `memcpy` that
//! a program may see half done. It also costs no system call.
//!
//! Every page of a mapping counts as this process's memory. A large array of which few words are used is mapped in
//! windows, each when it is first used ([`LazyMmapArray`]): of 65,536 ports a node uses a few.

use std::{
    cell::OnceCell,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Words that are mapped at once: 64 KiB, whole pages of every page size.
const WINDOW_WORDS: usize = 8192;

/// Memory-mapped array. The mapping keeps the map alive.
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

    /// Maps `count` words from the word `first` on, which must be the first of a page.
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

    /// Loads a word.
    ///
    /// # Panics
    ///
    /// If the array has no such word.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores a word.
    ///
    /// # Panics
    ///
    /// If the array has no such word.
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

/// Array that is mapped window by window. It must have been created with `BPF_F_MMAPABLE`.
pub(super) struct LazyMmapArray {
    map: OwnedFd,
    count: usize,
    windows: Vec<OnceCell<MmapArray>>,
}

impl LazyMmapArray {
    /// Makes an array of the first `count` words of the map. Nothing is mapped yet.
    pub(super) fn new(map: OwnedFd, count: usize) -> Self {
        Self { map, count, windows: (0..count.div_ceil(WINDOW_WORDS)).map(|_| OnceCell::new()).collect() }
    }

    fn window(&self, index: usize) -> io::Result<&MmapArray> {
        let number = index / WINDOW_WORDS;
        let window = &self.windows[number];
        if let Some(words) = window.get() {
            return Ok(words);
        }
        let first = number * WINDOW_WORDS;
        let words = MmapArray::map_from(self.map.as_fd(), first, WINDOW_WORDS.min(self.count - first))?;
        Ok(window.get_or_init(|| words))
    }

    /// Loads a word.
    ///
    /// # Errors
    ///
    /// If the window is not mapped yet and cannot be mapped.
    pub(super) fn load(&self, index: usize) -> io::Result<u64> {
        Ok(self.window(index)?.load(index % WINDOW_WORDS))
    }

    /// Loads all words, by a mapping that ends with this call: windows that were not used take no memory after it either.
    ///
    /// # Errors
    ///
    /// If the array cannot be mapped.
    pub(super) fn load_all(&self) -> io::Result<Vec<u64>> {
        let words = MmapArray::map(self.map.as_fd(), self.count)?;
        Ok((0..self.count).map(|index| words.load(index)).collect())
    }

    /// Stores a word, if it contains something else: a store takes the word from the caches of the programs' CPUs.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub(super) fn change(&self, index: usize, value: u64) -> io::Result<()> {
        if self.load(index)? == value {
            return Ok(());
        }
        self.store(index, value)
    }

    /// Stores a word.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub(super) fn store(&self, index: usize, value: u64) -> io::Result<()> {
        self.window(index)?.store(index % WINDOW_WORDS, value);
        Ok(())
    }
}
