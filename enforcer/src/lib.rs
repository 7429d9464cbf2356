//! The agent as a library, so that tests and tools can use its parts.
//!
//! | module | content |
//! | --- | --- |
//! | [`kernel`] | the kernel side: programs, maps, rings, probes |
//! | [`manifests`] | the embedded source: a folder of Pod manifests; and what `enforcer check` reads |
//! | [`k8s`] | the cluster: pods and modes in, Events out |
//! | [`host`] | the host: cgroups, sockets, clocks, and the sysctl of reserved ports |
//! | [`metrics`] | the metrics and their exposition |
//! | [`agent`] | the loop that connects them |
//! | [`cli`] | one file per subcommand |

pub mod agent;
pub mod cli;
pub mod host;
pub mod k8s;
pub mod kernel;
pub mod manifests;
pub mod metrics;
pub mod telemetry;
