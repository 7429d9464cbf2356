//! Progress of a rollout: on how many nodes a `DaemonSet` has its present pods, and they are available.

use serde::Deserialize;

/// Part of a `DaemonSet` that says how far its rollout is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rollout {
    metadata: Metadata,
    status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Metadata {
    generation: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    observed_generation: u64,
    desired_number_scheduled: u32,
    updated_number_scheduled: u32,
    number_available: u32,
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutProgress {
    /// The controller has not seen the present specification yet.
    Unseen,
    /// Number of nodes whose pod is done, of all that are to have one.
    Nodes {
        /// Those that are done.
        done: u32,
        /// All of them.
        all: u32,
    },
}

impl RolloutProgress {
    /// Checks whether all nodes are done; a cluster may have none.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Nodes { done, all } if done >= all)
    }
}

impl Rollout {
    /// Returns the progress, by the rules of `kubectl rollout status`.
    #[must_use]
    pub fn progress(&self) -> RolloutProgress {
        let Self { metadata, status } = self;
        if status.observed_generation == 0 || status.observed_generation < metadata.generation {
            return RolloutProgress::Unseen;
        }
        // A pod of an earlier specification can be available too.
        let done = status.number_available.min(status.updated_number_scheduled);
        RolloutProgress::Nodes { done, all: status.desired_number_scheduled }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn progress(generation: u64, status: &serde_json::Value) -> RolloutProgress {
        let object = json!({ "metadata": { "name": "x", "generation": generation }, "status": status });
        serde_json::from_value::<Rollout>(object).expect("a DaemonSet").progress()
    }

    #[test]
    fn only_present_and_available_pods_count() {
        let status = |observed, all, updated, available| {
            json!({
                "observedGeneration": observed, "desiredNumberScheduled": all, "updatedNumberScheduled": updated,
                "numberAvailable": available, "numberReady": all, "currentNumberScheduled": all,
            })
        };
        let nodes = |done, all| RolloutProgress::Nodes { done, all };
        for (generation, status, expected, complete) in [
            (1, json!({}), RolloutProgress::Unseen, false),
            (2, status(1, 3, 3, 3), RolloutProgress::Unseen, false),
            (1, status(1, 3, 3, 2), nodes(2, 3), false),
            (1, status(1, 3, 1, 3), nodes(1, 3), false),
            (1, status(1, 3, 3, 3), nodes(3, 3), true),
            (1, status(1, 0, 0, 0), nodes(0, 0), true),
        ] {
            let progress = progress(generation, &status);
            assert_eq!((progress, progress.is_complete()), (expected, complete), "{generation} {status}");
        }
    }
}
