//! Bounded waiting that a signal interrupts, so that the demo always removes its files and cgroups.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A signal asked this process to end.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Handles signals that ask this process to end: the current wait fails, and the process ends in order.
pub(super) fn watch_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot watch signals")?;
    let listen = |kind| {
        let _guard = runtime.enter();
        signal(kind).context("cannot watch signals")
    };
    let (mut interrupt, mut terminate, mut hangup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        STOPPED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Returns an error if a signal asked this process to end.
pub(super) fn check_signals() -> anyhow::Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("stopped by a signal; the files and cgroups of the demo are removed");
    }
    Ok(())
}

/// Calls `poll` until it returns a value. Returns `None` after `limit`.
///
/// # Errors
///
/// If `poll` fails, or if a signal asked this process to end.
pub(super) fn poll<T>(
    limit: Duration,
    mut poll: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        check_signals()?;
        if let Some(value) = poll()? {
            return Ok(Some(value));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Calls `poll` until it returns a value.
///
/// # Errors
///
/// As [`poll`], and after `limit`; then the error contains `expectation`.
pub(super) fn until<T>(
    expectation: &str,
    limit: Duration,
    condition: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    poll(limit, condition)?.with_context(|| format!("waited {} s in vain for {expectation}", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_with_a_value_or_at_its_limit() {
        let mut left = 3;
        let count = || {
            left -= 1;
            Ok((left == 0).then_some("there"))
        };
        assert_eq!(poll(Duration::from_secs(10), count).unwrap(), Some("there"));
        assert_eq!(poll(Duration::ZERO, || Ok(None::<()>)).unwrap(), None);
        let error = until("the moon", Duration::ZERO, || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for the moon");
    }
}
