//! A network namespace of the tests' own, which plays the node's: no test meets the ports of this machine.

use enforcer::host::netns;

/// Moves this process to a network namespace of its own. To be called before any thread or worker is started.
///
/// Kernels that do not tell a namespace's cookie (before 5.14) take the initial namespace for the node's; there the
/// tests stay where they are.
pub(crate) fn isolate() {
    if netns::cookie().expect("a socket").is_none() {
        return;
    }
    // SAFETY: no memory effects.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: the tests need root");
}
