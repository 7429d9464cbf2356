//! Waiting: bounded, and ended at once by Ctrl-C, so that what the demo made is always removed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How often is looked whether the awaited came.
const STEP: Duration = Duration::from_millis(10);

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on a signal that asks this process to end makes the current wait fail, instead of ending it where it is.
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

/// Fails if a signal asked this process to end.
pub(super) fn go_on() -> anyhow::Result<()> {
    if STOPPED.load(Ordering::Relaxed) {
        bail!("stopped by a signal; what the demo had made is removed");
    }
    Ok(())
}

/// Asks `poll` until it has an answer; `None` if there is none within `limit`.
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
        go_on()?;
        if let Some(answer) = poll()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

/// Like [`poll`]; that there is no answer within `limit` is an error that says what was waited for.
pub(super) fn until<T>(
    what: &str,
    limit: Duration,
    asked: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    poll(limit, asked)?.with_context(|| format!("waited {} s in vain for {what}", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end() {
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
