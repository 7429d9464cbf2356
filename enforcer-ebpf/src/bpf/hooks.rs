//! The programs, one file per hook of the kernel.
//!
//! | file | hook |
//! | --- | --- |
//! | [`bind`] | `cgroup/bind4`, `cgroup/bind6`: the verdict on an attempt |
//! | [`bind_tail`] | the same hooks before Linux 5.17: takes a port before the bind |
//! | [`post_bind`] | `cgroup/post_bind4`, `cgroup/post_bind6`: the port that a socket was bound to |
//! | [`sock_release`] | `cgroup/sock_release`: gives back what a closed socket held |
//! | [`cgroup`] | raw tracepoints `cgroup_mkdir`, `cgroup_rmdir`: the pod of a new cgroup |
//!
//! [`answer`] is what they return to the kernel.

mod answer;
mod bind;
mod bind_tail;
mod cgroup;
mod post_bind;
mod sock_release;
