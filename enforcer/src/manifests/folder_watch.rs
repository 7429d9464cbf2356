//! Learning that something in the folder changed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Time that the folder must be quiet before it is looked at: an editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Time that it may be restless before it is looked at all the same.
const RESTLESS: Duration = Duration::from_secs(1);

/// A watch on the folder that has a path, whichever folder that is.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// The folder that is watched; `None` if the path was without one meanwhile.
    identity: Option<Identity>,
    changed: mpsc::Receiver<()>,
    /// Change that was noticed, until it is reported.
    noticed: Option<Noticed>,
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

/// Identity of a folder: device, inode, and the time when it was made, as far as the filesystem knows. A new folder
/// often gets the inode of one that was removed.
type Identity = (u64, u64, Option<SystemTime>);

#[derive(Clone, Copy, Debug)]
struct Noticed {
    /// Time when the folder will have been quiet for long enough.
    quiet_at: Instant,
    /// Time when it is looked at all the same.
    at_last: Instant,
}

impl Watch {
    /// Watches a folder, not what is below its subfolders.
    ///
    /// # Errors
    ///
    /// If the folder is not there or the system's limit of watches is reached.
    pub fn new(path: &Path) -> notify::Result<Self> {
        // Before the watch: if the folder is replaced in between, this is no longer the one at the path.
        let identity = Some(identity(path)?);
        // One place: that something changed is all there is to know.
        let (sender, changed) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the folder makes events of its own.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self { path: path.to_owned(), identity, changed, noticed: None, _watcher: watcher })
    }

    /// Makes sure that the folder that is watched is the one that has the path now. To be called before the folder is
    /// read, so that no change falls between the two. Does nothing while no folder has the path.
    ///
    /// # Errors
    ///
    /// If another folder has the path and cannot be watched.
    pub fn follow(&mut self) -> notify::Result<()> {
        match identity(&self.path) {
            Ok(now) if self.identity == Some(now) => {}
            Ok(_) => *self = Self { noticed: self.noticed, ..Self::new(&self.path)? },
            Err(_) => self.identity = None,
        }
        Ok(())
    }

    /// Waits for a change, and until the folder is quiet again.
    ///
    /// It may be given up at any time: a change that was noticed is reported by the next call.
    pub async fn changed(&mut self) {
        if self.noticed.is_none() {
            if self.changed.recv().await.is_none() {
                // The watcher's thread ended; the agent looks at the folder now and then anyway.
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            self.noticed = Some(Noticed { quiet_at: now + SETTLE, at_last: now + RESTLESS });
        }
        while let Some(Noticed { quiet_at, at_last }) = self.noticed {
            sleep_until(quiet_at.min(at_last)).await;
            let now = Instant::now();
            let restless = self.changed.try_recv().is_ok();
            self.noticed = (restless && now < at_last).then_some(Noticed { quiet_at: now + SETTLE, at_last });
        }
    }
}

fn identity(folder: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino(), metadata.created().ok()))
}
