//! The agent as a library, so that tests and tools can use its parts.
//!
//! | room | what |
//! | --- | --- |
//! | [`kernel`] | the kernel side: programs, maps, events, probes |
//! | [`manifests`] | the embedded source: a folder of Pod manifests; and what `enforcer check` reads |
//! | [`k8s`] | the cluster: pods and modes in |
//! | [`host`] | what the agent learns of the host, and the sysctl that it writes |
//! | [`metrics`] | what is counted and measured |
//! | [`agent`] | the loop that ties them together |
//! | [`cli`] | one file per subcommand |

pub mod agent;
pub mod cli;
pub mod host;
pub mod k8s;
pub mod kernel;
pub mod manifests;
pub mod metrics;
pub mod telemetry;
