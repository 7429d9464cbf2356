//! The node that this process runs on.

/// The kernel's list of mounts.
pub(super) const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Returns the host name.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
