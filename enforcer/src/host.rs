//! What the agent learns of the host. Every reader takes the path of its root, so that tests can give it another one.

pub mod cgroup;
pub mod clock;
pub mod diag;
pub mod netns;
