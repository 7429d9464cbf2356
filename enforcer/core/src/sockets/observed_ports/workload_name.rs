//! Names of the objects that make pods.

use crate::{
    index::Index,
    model::owner::{OwnerId, OwnerKind},
};

/// Name of the object whose template makes a pod, for people and for a patch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName {
    /// Its namespace.
    pub namespace: String,
    /// Its kind: `Pod` for a pod without a controller, [`Self::STATIC_POD`] for a static pod.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl WorkloadName {
    /// Kind of a static pod, which no object of the API makes.
    pub const STATIC_POD: &str = "StaticPod";

    /// Returns the object whose template makes the pods of a controller. A Job of a `CronJob` is named by the `CronJob`
    /// (`getJobName` in `pkg/controller/cronjob/utils.go` appends the minute of its schedule).
    #[must_use]
    pub fn of_controller(namespace: &str, kind: &str, name: &str) -> Self {
        let is_minute = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
        let (kind, name) = match name.rsplit_once('-') {
            Some((cron_job, minute)) if kind == "Job" && is_minute(minute) => ("CronJob", cron_job),
            _ => (kind, name),
        };
        Self { namespace: namespace.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }

    /// Returns the workload of a pod that is there.
    #[must_use]
    pub fn of_owner(id: OwnerId, index: &Index) -> Option<Self> {
        let owner = index.owner(id).filter(|owner| owner.kind == OwnerKind::Pod)?;
        let namespace = &owner.name.namespace;
        if let Some((kind, name)) = owner.workload {
            return Some(Self::of_controller(namespace, kind, name));
        }
        let kind = if owner.is_static { Self::STATIC_POD } else { "Pod" };
        Some(Self { namespace: namespace.clone(), kind: kind.to_owned(), name: owner.name.name.clone() })
    }
}
