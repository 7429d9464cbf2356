//! What the agent learns of the host, and the one sysctl of it that it writes. Every reader takes the path of its root,
//! so that tests can give it another one.

pub mod boot_state_folder;
pub mod cgroup;
pub mod clock;
pub mod host_processes;
pub mod malloc_trim;
pub mod netns;
pub mod reserved_ports_sysctl;
pub mod sock_diag;
