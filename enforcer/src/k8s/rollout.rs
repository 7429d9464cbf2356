//! Wait for a `DaemonSet`, whose progress [`enforcer_core::rollout`] judges.

use std::time::Duration;

use enforcer_core::{
    model::text::{escape_bounded, message_with_causes},
    rollout::{Rollout, RolloutProgress},
};
use kube::{api::GetParams, core::Request};
use tokio::time::{sleep, timeout};

use super::{
    client::Cluster,
    error::{ApiErrorKind, MAX_MESSAGE, kind_of_error, kind_of_status},
};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest duration of a look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A look that failed.
struct FailedLook {
    kind: ApiErrorKind,
    /// Safe to show.
    message: String,
}

impl FailedLook {
    fn new(kind: ApiErrorKind, message: &str) -> Self {
        Self { kind, message: escape_bounded(message, MAX_MESSAGE) }
    }

    /// Checks whether another look can succeed without anybody's help.
    const fn is_transient(&self) -> bool {
        matches!(self.kind, ApiErrorKind::Unreachable | ApiErrorKind::Throttled | ApiErrorKind::Server)
    }
}

/// Waits until a `DaemonSet` of the client's namespace has an available pod on each of its nodes. `report` gets each change
/// of the progress, and what keeps the server from answering.
///
/// # Errors
///
/// If the server refuses, in a sentence that is safe to show.
pub async fn wait_for_daemonset(
    cluster: &Cluster,
    name: &str,
    mut report: impl FnMut(Result<RolloutProgress, &str>),
) -> Result<(), String> {
    let mut last = None;
    loop {
        let seen = match timeout(LOOK_TIMEOUT, look(cluster, name)).await {
            Ok(Err(failed)) if !failed.is_transient() => return Err(failed.message),
            Ok(seen) => seen.map_err(|failed| failed.message),
            Err(_) => Err(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())),
        };
        if last.as_ref() != Some(&seen) {
            report(seen.as_ref().copied().map_err(String::as_str));
        }
        if seen.as_ref().is_ok_and(|progress| progress.is_complete()) {
            return Ok(());
        }
        last = Some(seen);
        sleep(INTERVAL).await;
    }
}

async fn look(cluster: &Cluster, name: &str) -> Result<RolloutProgress, FailedLook> {
    // Not the type of the API: it would bring the whole specification of pods into the binary.
    let url = format!("/apis/apps/v1/namespaces/{}/daemonsets", cluster.client.default_namespace());
    let request = Request::new(url).get(name, &GetParams::default());
    let request = request.map_err(|error| FailedLook::new(ApiErrorKind::Invalid, &error.to_string()))?;
    let rollout: kube::Result<Rollout> = cluster.client.request(request).await;
    rollout.map(|rollout| rollout.progress()).map_err(|error| match &error {
        kube::Error::Api(status) => FailedLook::new(kind_of_status(status.code), &status.message),
        other => FailedLook::new(kind_of_error(other), &message_with_causes(other)),
    })
}
