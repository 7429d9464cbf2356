//! Pods and modes coming in, from whatever source: one path into the engine.

use std::{collections::HashMap, time::Instant};

use tokio::task::JoinHandle;
use tracing::warn;

use crate::{
    agent::{AgentError, Source, reconciler::Engine, reporter::Reporter},
    host::allocator,
    k8s::{self, Outbox, Update, Updates},
    manifests::{Folder, Watch},
};

/// Most updates that are taken in after the first.
const AT_ONCE: usize = 32;

/// A source at work.
pub(super) enum Feed {
    Folder { folder: Folder, watch: Watch },
    Api { updates: Updates, tasks: Vec<JoinHandle<()>>, synced: bool },
}

/// Something that came.
pub(super) enum Input {
    FolderChanged,
    Update(Instant, Update),
}

impl Feed {
    /// The source, and where Events about its pods go, if anywhere.
    pub(super) fn new(source: Source, node: &str) -> Result<(Self, Option<Outbox>), AgentError> {
        match source {
            Source::Folder(path) => {
                // The watch comes before the first look, so that no change falls between the two.
                let watch = Watch::new(&path).map_err(|source| AgentError::Watch { path: path.clone(), source })?;
                Ok((Self::Folder { folder: Folder::new(path), watch }, None))
            }
            Source::Api { cluster, namespaces, instance } => {
                let outbox = Outbox::new(node);
                let (updates, tasks) = k8s::start(&cluster, node, namespaces, &instance, outbox.clone());
                Ok((Self::Api { updates, tasks, synced: false }, Some(outbox)))
            }
        }
    }

    /// Takes in what can be had without waiting.
    pub(super) fn first_look(&mut self, engine: &mut Engine, reporter: &mut Reporter) -> Result<(), AgentError> {
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

    /// Whether all pods were seen once.
    pub(super) fn is_synced(&self) -> bool {
        match self {
            Self::Folder { .. } => true,
            Self::Api { synced, .. } => *synced,
        }
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
    pub(super) fn take_in(&mut self, input: Input, engine: &mut Engine, reporter: &mut Reporter) {
        let was_synced = self.is_synced();
        self.take_in_all(input, engine, reporter);
        if self.is_synced() && !was_synced {
            allocator::give_back();
        }
    }

    /// In a storm of binds each turn of the loop has to count.
    fn take_in_all(&mut self, input: Input, engine: &mut Engine, reporter: &mut Reporter) {
        self.take_in_one(input, engine, reporter);
        for _ in 0..AT_ONCE {
            let Self::Api { updates, .. } = self else {
                return;
            };
            let Ok((arrived, update)) = updates.try_recv() else {
                return;
            };
            self.take_in_one(Input::Update(arrived, update), engine, reporter);
        }
    }

    fn take_in_one(&mut self, input: Input, engine: &mut Engine, reporter: &mut Reporter) {
        match input {
            Input::FolderChanged => self.look_again(engine, reporter),
            Input::Update(arrived, update) => {
                if let (Self::Api { synced, .. }, Update::PodsAre(_)) = (&mut *self, &update) {
                    *synced = true;
                }
                let is_change = !matches!(update, Update::Trouble(_) | Update::Recovered(_));
                take_in_update(update, engine, reporter);
                if is_change {
                    reporter.enforced_after(arrived.elapsed());
                }
            }
        }
    }

    /// The safety net below the events. A watch of the API has its own.
    pub(super) fn look_again(&mut self, engine: &mut Engine, reporter: &mut Reporter) {
        let Self::Folder { folder, watch } = self else {
            return;
        };
        if let Err(error) = watch.follow() {
            warn!(event = "watch_failed", %error, "the folder of manifests cannot be watched; it is looked at now and then");
        }
        match folder.read() {
            Ok(contents) => {
                reporter.problems(&contents.problems);
                reporter.folder_is_back();
                engine.reset(contents.pods);
            }
            Err(error) => reporter.folder_is_gone(folder.path(), &error),
        }
    }
}

fn take_in_update(update: Update, engine: &mut Engine, reporter: &mut Reporter) {
    match update {
        Update::PodsAre(pods) => {
            engine.reset(pods);
            reporter.pods_are_known(engine);
        }
        Update::Pod(pod) => engine.apply(*pod),
        Update::PodGone { namespace, name } => engine.delete(&namespace, &name),
        Update::ModesAre(labels) => engine.reset_mode_labels(&labels),
        Update::Mode { namespace, label } => engine.set_mode_label(&namespace, label.as_deref()),
        Update::Trouble(trouble) => reporter.trouble(&trouble),
        Update::Recovered(resource) => reporter.recovered(resource),
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Self::Api { tasks, .. } = self {
            for task in tasks {
                task.abort();
            }
        }
    }
}
