//! Rules of the word that names a port's holder: [`PortHolder::holder`](crate::wire::PortHolder::holder).
//!
//! The programs know sockets and not pods. They note which socket holds a port, and that it is free again when that is
//! closed. The agent, which sees all sockets, writes which pod it is, and what it wrote only the agent takes back.

use crate::wire::{HOLDER_SOCKET, HOLDER_SOMEBODY};

/// Returns the word after a bind by the socket with this cookie; 0 for a socket that has another cookie when it is closed.
#[must_use]
#[inline(always)]
pub const fn after_bind(holder: u64, cookie: u64) -> u64 {
    let noted = if cookie == 0 { HOLDER_SOMEBODY } else { HOLDER_SOCKET | cookie };
    if holder == 0 || holder == noted {
        noted
    } else if is_socket(holder) {
        HOLDER_SOMEBODY
    } else {
        holder
    }
}

/// Returns whether the port is free when the socket with this cookie is closed, as far as the programs know.
#[must_use]
#[inline(always)]
pub const fn is_free_without(holder: u64, cookie: u64) -> bool {
    holder == HOLDER_SOCKET | cookie
}

/// Returns the pod's cgroup that the word names, if the agent wrote one.
#[must_use]
#[inline(always)]
pub const fn pod_cgroup(holder: u64) -> Option<u64> {
    if holder > HOLDER_SOMEBODY && !is_socket(holder) { Some(holder) } else { None }
}

/// Returns whether the word names a socket, which the programs noted.
#[must_use]
#[inline(always)]
pub const fn is_socket(holder: u64) -> bool {
    holder & HOLDER_SOCKET != 0
}

/// Returns whether the agent, after it has read records, may write this holder in the place of another one. Where every
/// socket that it knows was released (0), a socket that the programs noted is a later one, whose record comes yet.
#[must_use]
pub const fn may_replace(found: u64, by: u64) -> bool {
    by != 0 || !is_socket(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: u64 = 5000;
    const SOCKET: u64 = HOLDER_SOCKET | 7;

    #[test]
    fn only_socket_is_noted_and_taken_back() {
        let holder = after_bind(0, 7);
        assert_eq!(holder, SOCKET);
        assert_eq!(after_bind(holder, 7), SOCKET, "bound again");
        assert!(is_free_without(holder, 7) && !is_free_without(holder, 8) && !is_free_without(0, 7));
    }

    #[test]
    fn second_socket_makes_it_somebody_whom_no_close_takes_back() {
        for (first, second) in [(7, 8), (7, 0), (0, 8), (0, 0)] {
            let holder = after_bind(after_bind(0, first), second);
            assert_eq!(holder, HOLDER_SOMEBODY, "{first} {second}");
            assert!(!is_free_without(holder, first) && !is_free_without(holder, second));
        }
    }

    #[test]
    fn pod_that_the_agent_wrote_stays() {
        assert_eq!(after_bind(POD, 7), POD);
        assert!(!is_free_without(POD, POD));
    }

    #[test]
    fn pod_is_known_only_from_the_agent() {
        assert_eq!([0, HOLDER_SOMEBODY, SOCKET, POD].map(pod_cgroup), [None, None, None, Some(POD)]);
    }

    #[test]
    fn agent_leaves_a_socket_that_it_has_not_read_of() {
        assert!(!may_replace(SOCKET, 0));
        for (found, by) in [(SOCKET, POD), (SOCKET, HOLDER_SOMEBODY), (POD, 0), (HOLDER_SOMEBODY, 0), (0, 0)] {
            assert!(may_replace(found, by), "{found:x} {by:x}");
        }
    }
}
