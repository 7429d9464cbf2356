//! The programs, one file per hook of the kernel.

mod bind;
mod bind_tail;
mod cgroup;
mod post_bind;
mod sock_release;
