//! What goes wrong, and for which requests.

use std::{sync::Arc, time::Duration};

use super::{
    shared::Shared,
    status::{self, Refusal},
};

/// Requests that are meant: all, those with a verb, those for a resource, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    verb: Option<&'static str>,
    resource: Option<&'static str>,
}

impl Target {
    /// Every request.
    pub const ALL: Self = Self { verb: None, resource: None };

    /// Restricts to those with this verb: `list`, `watch`, `create`, `patch`, `get`.
    pub const fn verb(self, verb: &'static str) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// Restricts to those for this resource: `pods`, `events`, `nodehostports`, `nodehostports/status`, …
    pub const fn resource(self, resource: &'static str) -> Self {
        Self { resource: Some(resource), ..self }
    }

    pub fn matches(&self, verb: &str, resource: &str) -> bool {
        self.verb.is_none_or(|wanted| wanted == verb) && self.resource.is_none_or(|wanted| wanted == resource)
    }
}

/// Disturbance of a request, for as long as the fault's [`Outage`] lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 400: the server does not know a field selector.
    BadRequest,
    /// 401: the token has expired.
    Unauthorized,
    /// 403: role-based access control denies it.
    Forbidden,
    /// 409: the object has changed meanwhile.
    Conflict,
    /// 413: the request is too large.
    TooLarge,
    /// 410: the version that was asked for is no longer known.
    Gone,
    /// 429, with `Retry-After` in seconds.
    TooManyRequests { retry_after: u16 },
    /// 500.
    Internal,
    /// 503.
    Unavailable,
    /// The answer comes late, whole.
    DelayAnswer(Duration),
    /// The head comes at once, the body late.
    DelayBody(Duration),
    /// The body of a list is cut in the middle.
    CutList,
    /// The same, but only of pages after the first one.
    CutLaterPage,
    /// A watch is cut after so many events.
    CutWatchAfter(usize),
}

impl Fault {
    /// Checks whether it can happen to requests with this verb. `later_page` is whether a list goes on from a page
    /// before.
    pub(super) fn concerns(self, verb: &str, later_page: bool) -> bool {
        match self {
            Self::CutLaterPage => verb == "list" && later_page,
            Self::CutList => verb == "list",
            Self::CutWatchAfter(_) => verb == "watch",
            Self::Gone => matches!(verb, "list" | "watch"),
            _ => true,
        }
    }

    /// Returns the answer, where the fault is an answer.
    pub(super) fn refusal(self, group: &str, resource: &str, name: &str, why: &str) -> Option<Refusal> {
        match self {
            Self::BadRequest => Some(status::bad_request("field label not supported: spec.type")),
            Self::Unauthorized => Some(status::unauthorized()),
            Self::Forbidden => Some(status::forbidden(group, resource, name, why)),
            Self::Conflict => Some(status::conflict(resource, name)),
            Self::TooLarge => Some(status::too_large()),
            Self::Gone => Some(status::expired("The resourceVersion for the provided list is too old.")),
            Self::TooManyRequests { retry_after } => Some(status::too_many_requests(retry_after)),
            Self::Internal => Some(status::internal("etcdserver: request timed out")),
            Self::Unavailable => Some(status::unavailable()),
            Self::DelayAnswer(_) | Self::DelayBody(_) | Self::CutList | Self::CutLaterPage | Self::CutWatchAfter(_) => {
                None
            }
        }
    }
}

/// Interruption that is done once to watches that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The connection breaks, at once.
    Cut,
    /// The stream ends properly, as it does after its time.
    End,
    /// An ERROR event with a 410 ends it.
    Gone,
    /// A line that is no JSON is sent; the stream goes on.
    Malformed,
    /// A BOOKMARK is sent to those who asked for bookmarks.
    Bookmark,
}

/// A fault that is in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub(super) id: u64,
    pub(super) target: Target,
    pub(super) fault: Fault,
    /// Number of requests that met it.
    pub(super) hits: usize,
}

/// A fault lasts as long as this lives.
#[must_use = "the fault ends when this is dropped"]
#[derive(Debug)]
pub struct Outage {
    pub(super) id: u64,
    pub(super) shared: Arc<Shared>,
}

impl Outage {
    /// Counts the requests that met the fault so far.
    pub fn hits(&self) -> usize {
        let inner = self.shared.lock();
        inner.faults.iter().find(|active| active.id == self.id).map_or(0, |active| active.hits)
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.shared.update(|inner| inner.faults.retain(|active| active.id != self.id));
    }
}
