//! Network namespace of a socket.

use core::ptr;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_netns_cookie};

use super::{config::VolatileConfig, socket::Socket};

/// Returns whether a program's socket is in the node's network namespace. Sockets in others are never touched.
#[inline(always)]
pub(crate) fn is_in_node_netns(context: &impl EbpfContext, socket: Socket, config: &VolatileConfig) -> bool {
    let cookie = socket.netns_cookie(context);
    let node = config.netns_cookie();
    if node != 0 {
        return cookie == node;
    }
    // SAFETY: without a context the helper answers for the initial network namespace.
    cookie == unsafe { bpf_get_netns_cookie(ptr::null_mut()) }
}
