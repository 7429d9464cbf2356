//! What each socket holds: in the socket's storage (`SOCKET_HOLDS`), or by its address (`FALLBACK_HOLDS`) where it has
//! no storage.
//!
//! A socket holds at most one port. [`PortHold::count`] is of no use here and contains
//! [`enforcer_ebpf::wire::port_index`] of the port.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_SK_STORAGE_GET_F_CREATE, helpers::generated::bpf_sk_storage_get};
use enforcer_ebpf::wire::{KernelError, PortHold};

use super::table::{HoldRequest, give_back};
use crate::bpf::{
    constants::SOCK_TYPE,
    context::{read::load_word, socket::Socket},
    counters::count_error,
    maps::{FALLBACK_HOLDS, FALLBACK_USED, SOCKET_HOLDS},
};

/// Stores what was taken for a socket. Where there is no space for it, gives it back and counts an error.
///
/// `pointer` is the verifier's pointer to the socket, and `parent` the MPTCP socket whose subflow it is (0 for none).
#[inline(always)]
pub(super) fn store_hold<T>(pointer: *mut T, socket: Socket, mptcp_parent: u64, taken: &HoldRequest) {
    let hold = PortHold { holder: taken.holder, address: taken.address, extent: taken.extent, count: taken.port };
    let mut address = mptcp_parent;
    if mptcp_parent == 0 {
        let storage = socket_storage(pointer, BPF_SK_STORAGE_GET_F_CREATE);
        if !storage.is_null() {
            // SAFETY: the storage of a socket that is alive and locked; nobody else writes to it meanwhile.
            unsafe { storage.write(hold) };
            return;
        }
        // The kernel had no memory, or cannot allocate it here at all: storage comes from `kmalloc_nolock` since 7.0,
        // which gives none to a CPU without cmpxchg16b.
        address = socket.address();
        if let Some(in_use) = FALLBACK_USED.get_ptr_mut(0) {
            // SAFETY: an aligned word of the map's element, to which nothing else is ever stored.
            unsafe { in_use.write_volatile(1) };
        }
    }
    if address == 0 || FALLBACK_HOLDS.insert(address, hold, 0).is_err() {
        give_back(&hold);
        count_error(KernelError::HoldsFull);
    }
}

/// Gives back what a socket holds, if it holds anything. Returns the socket that the verifier's pointer leads to.
#[inline(always)]
pub(crate) fn release_socket<T>(pointer: *mut T) -> Socket {
    let (storage, socket);
    if SOCK_TYPE.is_set() {
        socket = Socket::from_pointer(pointer);
        storage = if socket.may_have_storage() { socket_storage(pointer, 0) } else { ptr::null_mut() };
    } else {
        storage = socket_storage(pointer, 0);
        socket = Socket::from_pointer_if_null(pointer, storage);
    }
    if storage.is_null() {
        if FALLBACK_USED.get_ptr(0).is_some_and(|in_use| load_word(in_use) != 0) {
            release_address(socket.address());
        }
        return socket;
    }
    // SAFETY: as in `store_hold`.
    let hold = unsafe { storage.read() };
    if hold.extent != 0 {
        // SAFETY: as in `store_hold`.
        unsafe { (&raw mut (*storage).extent).write(0) };
        give_back(&hold);
    }
    Socket::from_pointer(pointer)
}

/// Gives back what is held by address: by the subflow of this MPTCP socket, or by this socket without storage.
#[inline(always)]
pub(crate) fn release_address(address: u64) {
    if let Some(element) = FALLBACK_HOLDS.get_ptr(address) {
        // SAFETY: an element of the map, which nobody but this socket's own calls write to or remove.
        let hold = unsafe { element.read() };
        let _ = FALLBACK_HOLDS.remove(address);
        give_back(&hold);
    }
}

/// Returns the storage of a socket; null if there is none. `flags` are `BPF_SK_STORAGE_GET_*`; new storage is all
/// zeros, and null means that the kernel has no memory.
#[inline(always)]
fn socket_storage<T>(socket: *mut T, flags: u32) -> *mut PortHold {
    let map = (&raw const SOCKET_HOLDS).cast_mut().cast::<c_void>();
    // SAFETY: the verifier checks that the pointers are of a map and of a socket.
    unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), u64::from(flags)) }.cast()
}
