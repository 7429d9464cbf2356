//! Fixtures for tests and benchmarks: pods, cgroups with worker processes in them, the agent, and an API server.
//!
//! | module | content |
//! | --- | --- |
//! | [`pods`] | pods as the API server has them |
//! | [`cgroup_sandbox`], [`bpffs`], [`network`], [`device`] | a cgroup subtree, a BPF file system, a network namespace, a network device of the test's own |
//! | [`worker`], [`bind_race`], [`io_uring_bind`], [`bind_variants`] | processes in cgroups that open sockets on command |
//! | [`reconciler_fixture`] | a reconciler on a sandbox, driven step by step |
//! | [`mini_agent`] | a small agent whose kernel state outlives it |
//! | [`agent`], [`agent_fixture`] | the real binary on a folder of manifests |
//! | [`apiserver`] | an API server for what the agent reads and writes, with faults on order |
//! | [`browser`] | a headless browser |
//! | [`http`], [`exposition`] | the agent's HTTP answers, and its metrics |
//! | [`figures`] | figures of tests, for `cargo xtask siege` |
//! | [`own_machine`] | the virtual machines of `cargo xtask kernels` |

pub mod agent;
pub mod agent_fixture;
pub mod apiserver;
pub mod bind_race;
pub mod bind_variants;
pub mod bpffs;
pub mod browser;
pub mod cgroup_sandbox;
pub mod device;
pub mod exposition;
pub mod figures;
pub mod http;
pub mod io_uring_bind;
pub mod mini_agent;
pub mod network;
pub mod own_machine;
pub mod pods;
pub mod reconciler_fixture;
pub mod worker;

/// Lists tests by name: a slice of pairs of a test's name and the function of that name.
///
/// `tests![f => a, b]` lists tests that `f` runs, which takes the function.
#[macro_export]
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), $name)),+]
    };
    ($run:path => $($name:ident),+ $(,)?) => {
        &[$((stringify!($name), || $run($name))),+]
    };
}
