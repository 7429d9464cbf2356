//! Who asks, and what role-based access control lets them do.

use axum::http::{HeaderMap, HeaderValue, Uri, header, request::Parts};

use super::{
    request_attributes::Asked,
    shared::Inner,
    status::{self, Refusal},
};

/// User who may do what the agent needs.
const AGENT: &str = "system:serviceaccount:port-enforcer:port-enforcer";

/// User who may make and delete what the agent only sees.
const ADMIN: &str = "admin";

/// User whose rights a test sets.
const READER: &str = "jane";

/// User behind a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    Agent,
    Admin,
    Reader,
    /// Somebody without any right.
    Other(String),
}

impl User {
    /// Returns the bearer token that a kubeconfig carries and the server wants.
    pub(super) fn token(&self) -> &'static str {
        match self {
            Self::Agent => "the-token-of-the-agent",
            Self::Admin => "the-token-of-the-administrator",
            Self::Reader => "the-token-of-the-reader",
            Self::Other(name) => panic!("{name} has no token"),
        }
    }

    fn named(name: &str) -> Self {
        match name {
            AGENT => Self::Agent,
            ADMIN => Self::Admin,
            READER => Self::Reader,
            name => Self::Other(name.to_owned()),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Agent => AGENT,
            Self::Admin => ADMIN,
            Self::Reader => READER,
            Self::Other(name) => name,
        }
    }

    /// Finds out who asks, and as whom. The administrator may ask as anybody, the reader if a rule says so.
    pub(super) fn of(inner: &Inner, headers: &HeaderMap, asked: &Asked) -> Result<Self, Refusal> {
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(Self::Other("system:anonymous".to_owned()).denied(asked));
        };
        let is_of = |user: &Self| given.as_bytes() == format!("Bearer {}", user.token()).as_bytes();
        let user = [Self::Agent, Self::Admin, Self::Reader].into_iter().find(is_of).ok_or_else(status::unauthorized)?;
        let Some(name) = impersonated(headers) else { return Ok(user) };
        if user == Self::Admin || (user == Self::Reader && inner.reader_may("impersonate", "users")) {
            return Ok(Self::named(name));
        }
        let asked = Asked { verb: "impersonate".to_owned(), resource: "users".to_owned(), ..Asked::default() };
        Err(user.denied(&Asked { name: Some(name.to_owned()), ..asked }))
    }

    /// Checks whether access control allows a request for what is served.
    pub(super) fn may(&self, inner: &Inner, asked: &Asked) -> bool {
        match self {
            Self::Agent | Self::Admin => true,
            Self::Reader => inner.reader_may(&asked.verb, &asked.resource),
            Self::Other(_) => false,
        }
    }

    /// Returns the refusal of a request that access control does not allow.
    pub(super) fn denied(&self, asked: &Asked) -> Refusal {
        let name = asked.name.as_deref().unwrap_or_default();
        status::forbidden(&asked.group, &asked.resource, name, &asked.denial(self.name()))
    }
}

/// Path below which a request is that of the administrator, as behind a proxy that authenticates (`kubectl proxy`): clients
/// of client-go send no token without TLS.
pub(super) const PROXY: &str = "/proxy-of-the-administrator";

/// Makes a request that came through the proxy what it would be without.
pub(super) fn pass_proxy(head: &mut Parts) {
    let Some(rest) = head.uri.path_and_query().and_then(|path| path.as_str().strip_prefix(PROXY)) else { return };
    // What is left begins with a slash, or it is another path.
    let Ok(uri) = rest.parse::<Uri>() else { return };
    let token = HeaderValue::try_from(format!("Bearer {}", User::Admin.token())).expect("a token is a header's value");
    head.uri = uri;
    head.headers.insert(header::AUTHORIZATION, token);
}

/// Returns the user as whom a request is made.
pub(super) fn impersonated(headers: &HeaderMap) -> Option<&str> {
    headers.get("Impersonate-User").and_then(|value| value.to_str().ok())
}
