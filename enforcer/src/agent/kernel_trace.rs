//! The kernel programs' trace, written to the log.

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

use crate::agent::{error::AgentError, reconciler::Reconciler};

/// Reader of the trace; without a trace it waits for ever.
pub(super) struct Tracer {
    logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
}

impl Tracer {
    /// Opens the trace of the loaded programs, if they write one.
    pub(super) fn new(reconciler: &mut Reconciler) -> Result<Self, AgentError> {
        if !reconciler.kernel().traces() {
            return Ok(Self { logger: None });
        }
        let logger = match reconciler.kernel_mut().take_trace() {
            Ok(logger) => logger,
            Err(error) => {
                warn!(event = "trace_unavailable", %error, "cannot read the trace of the kernel programs");
                return Ok(Self { logger: None });
            }
        };
        // SAFETY: the logger's descriptor is that of its ring, which it keeps open for as long as it lives.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| AgentError::system("wait for the programs' trace")(error.into()))?;
        Ok(Self { logger: Some(logger) })
    }

    /// Waits for lines of the trace and writes them to the log. Cancel safe.
    pub(super) async fn flush(&mut self) {
        let Some(logger) = &mut self.logger else {
            return std::future::pending().await;
        };
        if let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
