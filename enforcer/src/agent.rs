//! The agent: pods and kernel events in, map writes and reports out.
//!
//! Data flows one way. Inputs are values ([`input`]): the source of pods, the kernel's rings and the timers make them.
//! The [`reconciler`] applies them to the index and to the kernel's maps and queues outputs, which are values too
//! ([`output`]). The dispatcher hands each output to the log, the metrics, the Events and the watchers. [`run()`] is
//! the loop that connects them, and the only place that waits.
//!
//! | module | content |
//! | --- | --- |
//! | `startup`, `run` | everything before the first turn of the loop; the loop |
//! | `pod_source`, `ring_poll` | inputs: pods, and rings of the kernel programs |
//! | [`input`], [`reconciler`], `socket_tracker`, [`output`] | from inputs to outputs |
//! | `dispatcher`, `log_reporter` | outputs to log, metrics, Events and watchers |
//! | `gauges`, `readiness`, `snapshot` | read-only views of the state: metrics, `/readyz`, status |
//! | `admin`, `health_and_metrics`, `http_server` | the services on the unix socket and on TCP, and the server below both |
//! | [`reserved_ports_worker`] | the thread that writes the sysctl of reserved ports |
//! | [`boot_state_writer`] | the thread that writes what is in force to the disk |

mod admin;
pub mod boot_state_writer;
mod dispatcher;
mod error;
mod gauges;
mod health_and_metrics;
mod http_server;
pub mod input;
mod kernel_trace;
mod ledger_compiler;
mod log_reporter;
pub mod output;
pub mod own_sockets;
mod pod_source;
mod readiness;
pub mod reconciler;
pub mod reserved_ports_worker;
mod ring_poll;
mod run;
mod snapshot;
mod socket_tracker;
mod source_config;
mod startup;

pub use error::{AgentError, ReconcilerError};
pub use socket_tracker::{DumpReport, reconcile};
pub use source_config::SourceConfig;
pub use startup::AgentConfig;

/// Runs an agent until SIGTERM or SIGINT. Persistent enforcement continues after that ([`AgentConfig::persist`]).
///
/// # Errors
///
/// If the agent cannot start, or loses the kernel's events for good.
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    match startup::start(config, run::Stop::new()?).await? {
        Some(agent) => Box::pin(agent.run()).await,
        None => Ok(()),
    }
}
