//! The only hold of a port (`SOLE_HOLDS`): one socket, noted by its cookie. It costs a fifth of a hold in the table, which
//! also needs storage on the socket.
//!
//! Only a socket whose own bind named the port takes one: the kernel lets such a socket keep its port until it is closed
//! (`SOCK_BINDPORT_LOCK`; `__inet_bind` in `net/ipv4/af_inet.c`, `tcp_set_state` in net/ipv4/tcp.c, `__udp_disconnect` in
//! net/ipv4/udp.c), so that the port leads to the hold again. A socket that was bound by a bind to port 0 may lose its
//! port without any hook.
//!
//! Whoever takes a hold in the table says so first ([`leave_to_table`]): from then on nobody takes a sole hold of that port,
//! and one that is there can only go. So that both are looked at one after the other, and nobody comes between.

use aya_ebpf::helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock};
use enforcer_ebpf::{
    decide::holds_overlap,
    wire::{IN_TABLE, SoleHold},
};

use super::table::HoldRequest;
use crate::bpf::maps::SOLE_HOLDS;

/// Takes the only hold of the port for the socket with this cookie. Returns `false` if the port has a hold, or holds in
/// the table.
#[inline(always)]
pub(super) fn take_sole_hold(request: &HoldRequest, cookie: u64) -> bool {
    pe_take_sole(request.port, request.holder, request.address, request.extent, cookie) != 0
}

/// Leaves further holds of the port to the table. Returns the holder of the sole hold if it is another one's and in the
/// way; [`SAME_HOLD`] if it is the same hold of the same holder; else 0.
#[inline(always)]
pub(super) fn leave_to_table(request: &HoldRequest) -> u64 {
    pe_leave_to_table(request.port, request.holder, request.address, request.extent)
}

/// Answer of [`leave_to_table`]. No holder has this number.
pub(super) const SAME_HOLD: u64 = u64::MAX;

/// Gives back the sole hold of the socket with this cookie on the port with this index, if it has one.
#[inline(always)]
pub(crate) fn give_back_sole_hold(port: u32, cookie: u64) {
    let Some(hold) = SOLE_HOLDS.get_ptr(port) else {
        return;
    };
    // Without the lock: while the hold is this socket's, nobody but its own release removes it.
    // SAFETY: an aligned word of the map's element.
    let socket = unsafe { (&raw const (*hold).socket).read_volatile() };
    if cookie != 0 && socket & !IN_TABLE == cookie {
        pe_give_back_sole(port);
    }
}

// Global functions, as those of the table.

/// See [`take_sole_hold`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_take_sole(port: u32, holder: u64, address: u64, extent: u32, cookie: u64) -> u32 {
    let Some(hold) = SOLE_HOLDS.get_ptr_mut(port) else {
        return 0;
    };
    let mut taken = 0;
    // SAFETY: the verifier checks that the lock is a map element's, and that no helper is called until it is released.
    // All accesses are of fields of the element, through raw pointers, as other CPUs use it before and after.
    unsafe {
        lock((&raw mut (*hold).lock).cast());
        if (&raw const (*hold).socket).read_volatile() == 0 {
            write(hold, extent, holder, address, cookie);
            taken = 1;
        }
        unlock((&raw mut (*hold).lock).cast());
    }
    taken
}

/// See [`leave_to_table`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_leave_to_table(port: u32, holder: u64, address: u64, extent: u32) -> u64 {
    let Some(hold) = SOLE_HOLDS.get_ptr_mut(port) else {
        return 0;
    };
    let (there, by);
    // SAFETY: as in `pe_take_sole`.
    unsafe {
        lock((&raw mut (*hold).lock).cast());
        let socket = &raw mut (*hold).socket;
        socket.write_volatile(socket.read_volatile() | IN_TABLE);
        there = ((&raw const (*hold).address).read_volatile(), (&raw const (*hold).extent).read_volatile());
        by = (&raw const (*hold).holder).read_volatile();
        unlock((&raw mut (*hold).lock).cast());
    }
    if by != holder {
        return if holds_overlap(there, (address, extent)) { by } else { 0 };
    }
    if there == (address, extent) { SAME_HOLD } else { 0 }
}

/// See [`give_back_sole_hold`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pe_give_back_sole(port: u32) -> u32 {
    let Some(hold) = SOLE_HOLDS.get_ptr_mut(port) else {
        return 0;
    };
    // SAFETY: as in `pe_take_sole`.
    unsafe {
        lock((&raw mut (*hold).lock).cast());
        let socket = (&raw const (*hold).socket).read_volatile();
        write(hold, 0, 0, 0, socket & IN_TABLE);
        unlock((&raw mut (*hold).lock).cast());
    }
    0
}

/// Writes all but the lock.
///
/// # Safety
///
/// `hold` must be an element of the map, and its lock must be held.
#[inline(always)]
unsafe fn write(hold: *mut SoleHold, extent: u32, holder: u64, address: u64, socket: u64) {
    // SAFETY: fields of the element, as the caller vouches.
    unsafe {
        (&raw mut (*hold).extent).write_volatile(extent);
        (&raw mut (*hold).holder).write_volatile(holder);
        (&raw mut (*hold).address).write_volatile(address);
        (&raw mut (*hold).socket).write_volatile(socket);
    }
}
