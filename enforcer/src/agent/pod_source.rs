//! The source of pods and modes, as a stream of inputs.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    agent::{
        error::AgentError,
        input::{FolderRead, Input},
        source_config::SourceConfig,
    },
    k8s::{self, EventQueue, LedgerQueue, Queues, TaintRemover, Watches},
    manifests::{Folder, Watch},
};

/// Most updates of one batch. In a storm of binds each turn of the loop has to count.
const MAX_BATCH: usize = 32;
/// Time between two reads of the folder without a change: the safety net below the watch.
const FOLDER_RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two tries to read a folder that cannot be read.
const FOLDER_RETRY: Duration = Duration::from_secs(1);

/// A running source.
pub(super) enum PodSource {
    /// A folder of manifests.
    Folder(FolderSource),
    /// Watches of the API server.
    Api(Watches),
}

/// A folder of manifests and the watch on it.
pub(super) struct FolderSource {
    folder: Folder,
    watch: Watch,
    read_at: Instant,
}

impl PodSource {
    /// Starts a source. Returns it with the queues of what is published in its cluster; `None` without a cluster.
    pub(super) fn start(config: SourceConfig, node: &str) -> Result<(Self, Option<Queues>), AgentError> {
        match config {
            SourceConfig::Folder(path) => Ok((Self::Folder(FolderSource::new(path)?), None)),
            SourceConfig::Api { cluster, watched, instance, ledger, startup_taint } => {
                let queues = Queues {
                    events: EventQueue::new(node),
                    ledger: ledger.then(LedgerQueue::new),
                    startup_taint: startup_taint.map(TaintRemover::new),
                };
                let watches = k8s::start(&cluster, node, &watched, &instance, queues.clone());
                Ok((Self::Api(watches), Some(queues)))
            }
        }
    }

    /// Returns the pods that are known without waiting: those of a folder.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub(super) fn initial_sync(&mut self) -> Result<Option<Input>, AgentError> {
        let Self::Folder(source) = self else {
            return Ok(None);
        };
        let path = source.folder.path().to_owned();
        let contents = source.folder.read().map_err(|source| AgentError::Folder { path: path.clone(), source })?;
        Ok(Some(Input::Folder(FolderRead { path, watch_error: None, contents: Ok(contents) })))
    }

    /// Asks for a new list of the pods. A folder is read whole each time.
    pub(super) fn relist(&self) {
        if let Self::Api(watches) = self {
            watches.relist_pods();
        }
    }

    /// Waits for the next inputs. Cancel safe.
    pub(super) async fn next(&mut self) -> Vec<Input> {
        match self {
            Self::Folder(source) => vec![source.next().await],
            Self::Api(Watches { updates, .. }) => {
                let mut batch = Vec::with_capacity(1);
                if updates.recv_many(&mut batch, MAX_BATCH).await == 0 {
                    // The tasks never end by themselves.
                    std::future::pending::<()>().await;
                }
                batch.into_iter().map(|(arrived, update)| Input::Update(arrived, update)).collect()
            }
        }
    }
}

impl FolderSource {
    fn new(path: PathBuf) -> Result<Self, AgentError> {
        // The watch comes before the first read, so that no change falls between the two.
        let watch = Watch::new(&path).map_err(|source| AgentError::Watch { path: path.clone(), source })?;
        Ok(Self { folder: Folder::new(path), watch, read_at: Instant::now() + FOLDER_RESYNC_INTERVAL })
    }

    async fn next(&mut self) -> Input {
        tokio::select! {
            () = self.watch.changed() => {}
            () = sleep_until(self.read_at) => {}
        }
        // Nothing is awaited from here on: a change that was taken is read.
        let watch_error = self.watch.follow().err();
        let contents = self.folder.read();
        let pause = if contents.is_ok() { FOLDER_RESYNC_INTERVAL } else { FOLDER_RETRY };
        self.read_at = Instant::now() + pause;
        Input::Folder(FolderRead { path: self.folder.path().to_owned(), watch_error, contents })
    }
}

impl Drop for PodSource {
    fn drop(&mut self) {
        if let Self::Api(Watches { tasks, .. }) = self {
            for task in tasks {
                task.abort();
            }
        }
    }
}
