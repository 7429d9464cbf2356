//! Failed calls to the API server.

use enforcer_core::model::text::escape_bounded;

use super::resource::ApiResource;

/// Longest message of the API client that is passed on, in characters.
pub(super) const MAX_MESSAGE: usize = 300;

/// Kind of a failed call. A closed list, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiErrorKind {
    /// It cannot be reached, or the connection broke.
    Unreachable,
    /// It does not know the agent (401): the token has expired or is wrong.
    Unauthorized,
    /// It refuses the agent (403): RBAC.
    Forbidden,
    /// It asks for fewer calls (429).
    Throttled,
    /// There is no such object, or no such kind of objects (404).
    NotFound,
    /// The object is another one than expected, or changed meanwhile (409).
    Conflict,
    /// The agent's place in the history is too old (410); it lists again.
    Gone,
    /// It takes no object of that size (413).
    TooLarge,
    /// It fails (5xx).
    Server,
    /// Its answer cannot be decoded, or it rejects the request.
    Invalid,
}

impl ApiErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Throttled,
        Self::NotFound,
        Self::Conflict,
        Self::Gone,
        Self::TooLarge,
        Self::Server,
        Self::Invalid,
    ];

    /// Returns the name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::Server => "server",
            Self::Invalid => "invalid",
        }
    }

    /// Returns the remedy.
    #[must_use]
    pub const fn remedy(self, resource: ApiResource) -> &'static str {
        match (self, resource) {
            (Self::Unreachable, _) => "check the server's address and the network between",
            (Self::Unauthorized, _) => "renew the token or the client certificate",
            (Self::Forbidden, ApiResource::Pods | ApiResource::Namespaces | ApiResource::NamespaceLimits) => {
                "grant the agent list and watch of pods and namespaces"
            }
            (Self::Forbidden, ApiResource::Services) => {
                "grant the agent list and watch of services, or run it with --service-ports=off"
            }
            (Self::Forbidden, ApiResource::Events) => "grant the agent create and patch of events in events.k8s.io",
            (Self::Forbidden, ApiResource::Ledger) => {
                "grant the agent get of nodes, and in port-enforcer.io get and create of nodehostports and patch of \
                 nodehostports/status, or run it with --ledger=false"
            }
            (Self::Invalid, ApiResource::Services) => {
                "run the agent with --service-ports=off: API servers before Kubernetes 1.23 do not select Services by type"
            }
            (Self::NotFound, ApiResource::Ledger) => {
                "apply the definition deploy/base/nodehostports.yaml, name the Node with --node-name, or run the agent \
                 with --ledger=false"
            }
            (Self::Invalid, ApiResource::Ledger) => {
                "apply the definition deploy/base/nodehostports.yaml of the agent's version"
            }
            (Self::Forbidden, ApiResource::Nodes) => {
                "apply the component deploy/components/startup-taint, which grants get and patch of nodes, or run the agent \
                 without --startup-taint"
            }
            (Self::NotFound, ApiResource::Nodes) => "name the Node with --node-name",
            (Self::TooLarge, ApiResource::Ledger) => "no action is needed: the ledger is written with fewer rows",
            (
                Self::Throttled
                | Self::NotFound
                | Self::Conflict
                | Self::Gone
                | Self::TooLarge
                | Self::Server
                | Self::Invalid,
                _,
            ) => "no action is needed",
        }
    }
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The resource.
    pub resource: ApiResource,
    /// The kind.
    pub kind: ApiErrorKind,
    /// Message of the client. Safe to show.
    pub message: String,
}

impl ApiError {
    /// Returns an error with a message that is escaped and shortened.
    pub(super) fn new(resource: ApiResource, kind: ApiErrorKind, message: &str) -> Self {
        Self { resource, kind, message: escape_bounded(message, MAX_MESSAGE) }
    }
}

/// Returns the kind of a status from the server.
pub(super) fn kind_of_status(code: u16) -> ApiErrorKind {
    match code {
        401 => ApiErrorKind::Unauthorized,
        403 => ApiErrorKind::Forbidden,
        404 => ApiErrorKind::NotFound,
        409 => ApiErrorKind::Conflict,
        410 => ApiErrorKind::Gone,
        413 => ApiErrorKind::TooLarge,
        429 => ApiErrorKind::Throttled,
        500..=599 => ApiErrorKind::Server,
        _ => ApiErrorKind::Invalid,
    }
}

/// Returns the kind of an error that is not a status from the server.
pub(super) fn kind_of_error(error: &kube::Error) -> ApiErrorKind {
    match error {
        kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => ApiErrorKind::Invalid,
        kube::Error::Auth(_) => ApiErrorKind::Unauthorized,
        _ => ApiErrorKind::Unreachable,
    }
}
