//! Learning that something in the folder changed.

use std::{path::Path, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::sleep};

/// How long the folder must be quiet before it is looked at: an editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// How long it may be restless before it is looked at all the same.
const RESTLESS: u32 = 20;

/// A watch on a folder.
#[derive(Debug)]
pub struct Watch {
    changed: mpsc::Receiver<()>,
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches a folder, not what is below its subfolders.
    ///
    /// # Errors
    ///
    /// If the folder is not there or the system's limit of watches is reached.
    pub fn new(path: &Path) -> notify::Result<Self> {
        // One place: that something changed is all there is to know.
        let (sender, changed) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the folder makes events of its own.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self { changed, _watcher: watcher })
    }

    /// Waits for a change, and until the folder is quiet again.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watcher's thread ended; the agent looks at the folder now and then anyway.
            std::future::pending::<()>().await;
        }
        for _ in 0..RESTLESS {
            sleep(SETTLE).await;
            if self.changed.try_recv().is_err() {
                return;
            }
        }
    }
}
