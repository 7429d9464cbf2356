//! Pods and modes coming in, from whatever source: one path into the engine.

use std::{collections::HashMap, time::Instant};

use tokio::task::JoinHandle;
use tracing::warn;

use crate::{
    agent::{AgentError, SourceConfig, reconciler::Reconciler, reporter::Reporter},
    host::allocator,
    k8s::{self, EventQueue, Update, Updates},
    manifests::{Folder, Watch},
};

/// Most updates that are taken in after the first.
const MAX_BATCH: usize = 32;

/// A source at work.
pub(super) enum PodSource {
    Folder { folder: Folder, watch: Watch },
    Api { updates: Updates, tasks: Vec<JoinHandle<()>> },
}

/// Something that came.
pub(super) enum Input {
    FolderChanged,
    Update(Instant, Update),
}

impl PodSource {
    /// The source, and where Events about its pods go, if anywhere.
    pub(super) fn new(source: SourceConfig, node: &str) -> Result<(Self, Option<EventQueue>), AgentError> {
        match source {
            SourceConfig::Folder(path) => {
                // The watch comes before the first look, so that no change falls between the two.
                let watch = Watch::new(&path).map_err(|source| AgentError::Watch { path: path.clone(), source })?;
                Ok((Self::Folder { folder: Folder::new(path), watch }, None))
            }
            SourceConfig::Api { cluster, namespaces, instance } => {
                let outbox = EventQueue::new(node);
                let (updates, tasks) = k8s::start(&cluster, node, namespaces, &instance, outbox.clone());
                Ok((Self::Api { updates, tasks }, Some(outbox)))
            }
        }
    }

    /// Takes in what can be had without waiting.
    pub(super) fn initial_sync(&mut self, engine: &mut Reconciler, reporter: &mut Reporter) -> Result<(), AgentError> {
        if let Self::Folder { folder, .. } = self {
            let path = folder.path().to_owned();
            let contents = folder.read().map_err(|source| AgentError::Folder { path, source })?;
            reporter.problems(&contents.problems);
            // No namespace has a label here, whatever the agent before this one knew.
            engine.reset_mode_labels(&HashMap::new());
            engine.reset(contents.pods);
        }
        Ok(())
    }

    /// Waits for the next thing. It may be given up at any time.
    pub(super) async fn next(&mut self) -> Input {
        match self {
            Self::Folder { watch, .. } => {
                watch.changed().await;
                Input::FolderChanged
            }
            Self::Api { updates, .. } => match updates.recv().await {
                Some((arrived, update)) => Input::Update(arrived, update),
                // The tasks never end by themselves.
                None => std::future::pending().await,
            },
        }
    }

    /// Takes it in, and what came with it. The memory that reading a first list took is given back.
    pub(super) fn take_in(&mut self, input: Input, engine: &mut Reconciler, reporter: &mut Reporter) {
        let was_synced = engine.is_synced();
        self.take_in_all(input, engine, reporter);
        if engine.is_synced() && !was_synced {
            allocator::give_back();
        }
    }

    /// In a storm of binds each turn of the loop has to count.
    fn take_in_all(&mut self, input: Input, engine: &mut Reconciler, reporter: &mut Reporter) {
        self.take_in_one(input, engine, reporter);
        for _ in 0..MAX_BATCH {
            let Self::Api { updates, .. } = self else {
                return;
            };
            let Ok((arrived, update)) = updates.try_recv() else {
                return;
            };
            self.take_in_one(Input::Update(arrived, update), engine, reporter);
        }
    }

    fn take_in_one(&mut self, input: Input, engine: &mut Reconciler, reporter: &mut Reporter) {
        match input {
            Input::FolderChanged => self.resync(engine, reporter),
            Input::Update(arrived, update) => {
                let is_change = !matches!(update, Update::ApiError(_) | Update::ApiRecovered(_));
                take_in_update(update, engine, reporter);
                if is_change {
                    reporter.enforced(arrived.elapsed());
                }
            }
        }
    }

    /// The safety net below the events. A watch of the API has its own.
    pub(super) fn resync(&mut self, engine: &mut Reconciler, reporter: &mut Reporter) {
        let Self::Folder { folder, watch } = self else {
            return;
        };
        if let Err(error) = watch.follow() {
            warn!(event = "watch_failed", %error, "the folder of manifests cannot be watched; it is looked at now and then");
        }
        match folder.read() {
            Ok(contents) => {
                reporter.problems(&contents.problems);
                reporter.source_recovered();
                engine.reset(contents.pods);
            }
            Err(error) => reporter.source_lost(folder.path(), &error),
        }
    }
}

fn take_in_update(update: Update, engine: &mut Reconciler, reporter: &mut Reporter) {
    match update {
        Update::PodsReset(pods) => {
            engine.reset(pods);
            reporter.synced(engine);
        }
        Update::Pod(pod) => engine.apply(*pod),
        Update::PodDeleted { namespace, name } => engine.delete(&namespace, &name),
        Update::NamespaceModesReset(labels) => engine.reset_mode_labels(&labels),
        Update::NamespaceMode { namespace, label } => engine.set_mode_label(&namespace, label.as_deref()),
        Update::ApiError(trouble) => reporter.api_error(&trouble),
        Update::ApiRecovered(resource) => reporter.api_recovered(resource),
    }
}

impl Drop for PodSource {
    fn drop(&mut self) {
        if let Self::Api { tasks, .. } = self {
            for task in tasks {
                task.abort();
            }
        }
    }
}
