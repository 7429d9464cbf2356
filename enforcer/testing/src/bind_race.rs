//! Two processes that bind the same port in the same moment, again and again.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::worker::{Answer, Bind, Order, Worker, bind_socket, open, take};

/// Result of a race: in how many rounds one, both or none of the two got the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub one: u32,
    pub both: u32,
    pub none: u32,
}

/// Memory that the two workers share.
#[repr(C)]
struct SharedMemory {
    arrived: AtomicU32,
    bound: [AtomicU32; 2],
}

/// The memory that a track is in.
struct Mapping(*mut SharedMemory);

impl Mapping {
    fn new(file: &OwnedFd) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<SharedMemory>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(start.cast())) }
    }

    fn track(&self) -> &SharedMemory {
        // SAFETY: the mapping lives as long as this, begins at a page, and holds atomics only.
        unsafe { &*self.0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference outlives it.
        unsafe { libc::munmap(self.0.cast(), size_of::<SharedMemory>()) };
    }
}

impl SharedMemory {
    /// Waits until both have come so far.
    fn meet(&self, times: &mut u32) {
        *times += 2;
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0u32;
        while self.arrived.load(Ordering::Acquire) < *times {
            spins += 1;
            if spins.is_multiple_of(4096) {
                thread::yield_now();
            }
        }
    }
}

/// Runs the part of one of the two workers, `place` 0 or 1. They meet in the shared memory behind a descriptor of
/// another process.
pub fn run(bind: &Bind, ports: u16, rounds: u32, place: usize, pid: u32, descriptor: i32) -> io::Result<Tally> {
    let mapping = Mapping::new(&take(pid, descriptor)?)?;
    let track = mapping.track();
    let (mut tally, mut meetings) = (Tally::default(), 0);
    for round in 0..rounds {
        let port = bind.port + u16::try_from(round % u32::from(ports)).expect("less than the ports");
        let bind = Bind { port, ..bind.clone() };
        let socket = open(&bind)?;
        track.meet(&mut meetings);
        let bound = bind_socket(&socket, &bind).is_ok();
        track.bound[place].store(u32::from(bound), Ordering::Release);
        track.meet(&mut meetings);
        match track.bound.iter().map(|bound| bound.load(Ordering::Acquire)).sum() {
            0 => tally.none += 1,
            1 => tally.one += 1,
            _ => tally.both += 1,
        }
        drop(socket);
        track.meet(&mut meetings);
    }
    Ok(tally)
}

/// Lets two workers race for `rounds` rounds, for so many ports from the bind's on in turn.
pub fn race(first: &mut Worker, second: &mut Worker, bind: &Bind, ports: u16, rounds: u32) -> Tally {
    let file: OwnedFd = memfd_create("race", MemfdFlags::CLOEXEC).expect("a file in memory");
    let file = File::from(file);
    file.set_len(4096).expect("a longer file");
    let order = |place| Order::Race {
        bind: bind.clone(),
        ports,
        rounds,
        place,
        pid: std::process::id(),
        descriptor: file.as_raw_fd(),
    };
    let answer = |worker: &mut Worker, place| match worker.order(&order(place)) {
        Answer::Race(tally) => tally,
        other => panic!("{other:?}"),
    };
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| answer(first, 0));
        (answer(second, 1), one.join().expect("a race"))
    });
    assert_eq!(one, other, "both saw the same");
    one
}
