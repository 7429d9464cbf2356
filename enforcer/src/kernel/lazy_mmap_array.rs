//! A large BPF array in this process's memory, of which only what is used is mapped: every page of a mapping counts as this
//! process's, and of 65,536 ports a node uses a few.

use std::{
    cell::OnceCell,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use crate::kernel::mmap_array::MmapArray;

/// Words that are mapped at once: 64 KiB of them, whole pages of every size that they have on our kernels.
const WINDOW: usize = 8192;

/// All elements of an array that was created with `BPF_F_MMAPABLE`.
pub(super) struct LazyMmapArray {
    map: OwnedFd,
    count: usize,
    mapped: Vec<OnceCell<MmapArray>>,
}

impl LazyMmapArray {
    /// The first `count` words of the array.
    pub(super) fn of(map: OwnedFd, count: usize) -> Self {
        Self { map, count, mapped: vec![(); count.div_ceil(WINDOW)].into_iter().map(|()| OnceCell::new()).collect() }
    }

    fn window(&self, index: usize) -> io::Result<&MmapArray> {
        let number = index / WINDOW;
        let window = &self.mapped[number];
        if let Some(words) = window.get() {
            return Ok(words);
        }
        let first = number * WINDOW;
        let words = MmapArray::map_from(self.map.as_fd(), first, WINDOW.min(self.count - first))?;
        Ok(window.get_or_init(|| words))
    }

    /// # Errors
    ///
    /// If it was not mapped yet and cannot be.
    pub(super) fn load(&self, index: usize) -> io::Result<u64> {
        Ok(self.window(index)?.load(index % WINDOW))
    }

    /// # Errors
    ///
    /// As [`Self::load`].
    pub(super) fn store(&self, index: usize, value: u64) -> io::Result<()> {
        self.window(index)?.store(index % WINDOW, value);
        Ok(())
    }
}
