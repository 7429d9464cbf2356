//! A request as role-based access control sees it, and the options of lists and watches.

use std::time::Duration;

use axum::{
    extract::Query,
    http::{HeaderMap, Method, Uri, header},
};

use super::{
    resource::Resource,
    selector::Selector,
    status::{self, Flaw, Refusal},
};

/// Request as its path and its query name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) version: String,
    /// Resource with the subresource, as in `pods/status`; a path that names no resource is kept whole.
    pub(super) resource: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

/// The parameters of a request's query.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn of(uri: &Uri) -> Result<Self, Refusal> {
        let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
        query.map(|Query(pairs)| Self(pairs)).map_err(|error| status::bad_request(error.to_string()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Reads a parameter as a flag: present and not said to be false.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax for {name}"))
            }),
        }
    }
}

impl Asked {
    pub(super) fn new(method: &Method, uri: &Uri, parameters: &Parameters) -> Self {
        let parts: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, parts) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => {
                let verb = method.as_str().to_ascii_lowercase();
                return Self { verb, resource: uri.path().to_owned(), ..Self::default() };
            }
        };
        let (namespace, parts) = match parts {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            _ => (None, parts),
        };
        let name = parts.get(1).map(|name| (*name).to_owned());
        let (resource, name) = match parts {
            [resource, _, subresource @ ..] if !subresource.is_empty() => {
                (format!("{resource}/{}", subresource.join("/")), name)
            }
            [resource, ..] => ((*resource).to_owned(), name),
            [] => (String::new(), name),
        };
        let verb = match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if name.is_some() => "delete",
            Method::DELETE => "deletecollection",
            _ if name.is_some() => "get",
            _ if parameters.flag("watch") == Some(true) => "watch",
            _ => "list",
        };
        // Who watches one name needs the right for that name only.
        let name = name.or_else(|| {
            let fields = Some(parameters.text("fieldSelector")).filter(|_| matches!(verb, "list" | "watch"))?;
            fields.split(',').find_map(|field| field.strip_prefix("metadata.name=")).map(str::to_owned)
        });
        let (group, version) = (group.to_owned(), version.to_owned());
        Self { verb: verb.to_owned(), group, version, resource, namespace, name }
    }

    /// Returns the subresource.
    pub(super) fn subresource(&self) -> Option<&str> {
        self.resource.split_once('/').map(|(_, subresource)| subresource)
    }

    /// Returns what is served under this resource's name with this verb.
    pub(super) fn served(&self) -> Option<Resource> {
        self.resource().filter(|resource| resource.verbs(self.subresource()).contains(&self.verb.as_str()))
    }

    /// Returns what is served to an administrator only.
    pub(super) fn served_to_admin(&self) -> Option<Resource> {
        let resource = self.resource().filter(|_| self.subresource().is_none())?;
        resource.verbs_of_admin().contains(&self.verb.as_str()).then_some(resource)
    }

    /// Returns the resource of this name.
    fn resource(&self) -> Option<Resource> {
        let plural = self.resource.split_once('/').map_or(self.resource.as_str(), |(plural, _)| plural);
        Resource::ALL.into_iter().find(|resource| {
            plural == resource.plural() && self.group == resource.group() && self.version == resource.version()
        })
    }

    /// Returns the reason why role-based access control denies it.
    pub(super) fn denial(&self, user: &str) -> String {
        let Self { verb, group, resource, namespace, .. } = self;
        let scope = match namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
    }
}

/// Version that a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// The newest.
    Newest,
    /// Any will do.
    Any,
    NotOlderThan(u64),
    Exact(u64),
}

/// The options of a list or a watch.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) selector: Selector,
    pub(super) limit: Option<usize>,
    pub(super) token: Option<String>,
    pub(super) version: Version,
    pub(super) bookmarks: bool,
    pub(super) initial_events: bool,
    pub(super) timeout: Option<Duration>,
}

impl Options {
    /// Reads and checks them as a server does that knows streaming lists, or does not.
    pub(super) fn parse(
        asked: &Asked,
        resource: Resource,
        parameters: &Parameters,
        streaming_lists: bool,
    ) -> Result<Self, Refusal> {
        let watch = asked.verb == "watch";
        let flaws = flaws(watch, parameters, streaming_lists);
        if !flaws.is_empty() {
            return Err(status::invalid("ListOptions.meta.k8s.io", "", &flaws));
        }
        let version = match parameters.text("resourceVersion") {
            "" => Version::Newest,
            "0" => Version::Any,
            text => {
                let number = text.parse().map_err(|_| {
                    let flaw = Flaw::invalid("resourceVersion", text, "strconv.ParseUint: invalid syntax");
                    status::invalid("ListOptions.meta.k8s.io", "", &[flaw])
                })?;
                match parameters.text("resourceVersionMatch") {
                    "Exact" => Version::Exact(number),
                    _ => Version::NotOlderThan(number),
                }
            }
        };
        let token = Some(parameters.text("continue")).filter(|token| !token.is_empty()).map(str::to_owned);
        if token.is_some() && !matches!(version, Version::Newest | Version::Any) {
            return Err(status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let limit = parameters.number("limit")?.filter(|limit| *limit > 0);
        let selector = Selector::parse(resource, parameters.text("labelSelector"), parameters.text("fieldSelector"))?;
        Ok(Self {
            selector,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            token,
            version,
            bookmarks: parameters.flag("allowWatchBookmarks") == Some(true),
            initial_events: parameters.flag("sendInitialEvents") == Some(true),
            timeout: parameters.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }
}

fn flaws(watch: bool, parameters: &Parameters, streaming_lists: bool) -> Vec<Flaw> {
    const MATCH: &str = "resourceVersionMatch";
    const INITIAL: &str = "sendInitialEvents";
    let wanted = parameters.text(MATCH);
    let initial = parameters.flag(INITIAL).is_some();
    let mut flaws = Vec::new();
    if watch && initial {
        if wanted != "NotOlderThan" {
            flaws.push(Flaw::forbidden(
                MATCH,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !streaming_lists {
            let why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            flaws.push(Flaw::forbidden(INITIAL, why));
        }
    } else if watch && !wanted.is_empty() {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        flaws.push(Flaw::forbidden(MATCH, why));
    } else if !watch && initial {
        flaws.push(Flaw::forbidden(INITIAL, "sendInitialEvents is forbidden for list"));
    }
    if !wanted.is_empty() {
        if !watch && parameters.text("resourceVersion").is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            flaws.push(Flaw::forbidden(MATCH, why));
        }
        if !parameters.text("continue").is_empty() {
            flaws.push(Flaw::forbidden(MATCH, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(wanted, "Exact" | "NotOlderThan") {
            flaws.push(Flaw::unsupported(MATCH, wanted, r#""Exact", "NotOlderThan", """#));
        }
        if wanted == "Exact" && parameters.text("resourceVersion") == "0" {
            let why = r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#;
            flaws.push(Flaw::forbidden(MATCH, why));
        }
    }
    flaws
}

/// Checks whether the client wants only the metadata of what is a list or is none.
pub(super) fn metadata_only(headers: &HeaderMap, list: bool) -> Result<bool, Refusal> {
    const ACCEPTED: &str = "application/json";
    let Some(accept) = headers.get(header::ACCEPT) else { return Ok(false) };
    let accept = accept.to_str().map_err(|error| status::bad_request(error.to_string()))?;
    let wanted = if list { "PartialObjectMetadataList" } else { "PartialObjectMetadata" };
    let good = accept.split(',').find_map(|media| {
        let mut parts = media.split(';').map(str::trim);
        if !matches!(parts.next(), Some(ACCEPTED | "application/*" | "*/*")) {
            return None;
        }
        let pairs: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (value("as"), value("g"), value("v")) {
            (None, ..) => Some(false),
            (Some(kind), Some("meta.k8s.io"), Some("v1")) if kind == wanted => Some(true),
            _ => None,
        }
    });
    good.ok_or_else(|| status::not_acceptable(ACCEPTED))
}
