//! Lists, and their pages.

use axum::http::StatusCode;
use serde_json::json;

use super::{
    request_attributes::{Asked, Options, Parameters, Version},
    resource::Resource,
    serve::Good,
    shared::Inner,
    status::{self, Refusal},
    store::{Key, Store, shown},
};

/// What a page of a list leaves for the next. Opaque to clients.
struct Continue {
    revision: u64,
    /// Number of objects that the pages before have sent: what remains is counted without a look at it.
    sent: usize,
    last: Key,
}

impl Continue {
    fn parse(resource: Resource, token: &str) -> Result<Self, Refusal> {
        let parsed = || {
            let mut parts = token.splitn(4, ':');
            let (revision, sent) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            Some(Self { revision, sent, last: Key::new(resource, parts.next()?, parts.next()?) })
        };
        parsed().ok_or_else(|| status::bad_request(format!("continue key is not valid: {token:?}")))
    }

    fn token(&self) -> String {
        format!("{}:{}:{}:{}", self.revision, self.sent, self.last.namespace, self.last.name)
    }

    /// Refuses to go on from a version that is forgotten, and says how to go on from the present one.
    fn expired(&self, store: &Store, resource: Resource, namespace: Option<&str>) -> Refusal {
        let mut refusal = status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results.",
        );
        let now = store.now();
        let sent = now.range(resource, namespace, None).take_while(|(key, _)| **key <= self.last).count();
        let next = Self { revision: store.revision(), sent, last: self.last.clone() };
        refusal.metadata.continue_ = Some(next.token());
        refusal
    }
}

/// Answers a list.
pub(super) fn list(
    inner: &Inner,
    resource: Resource,
    namespace: Option<&str>,
    metadata_only: bool,
    asked: &Asked,
    parameters: &Parameters,
) -> Result<Good, Refusal> {
    let options = Options::parse(asked, resource, parameters, inner.streaming_lists)?;
    let store = &inner.store;
    let from = options.token.as_deref().map(|token| Continue::parse(resource, token)).transpose()?;
    let revision = match (&from, options.version) {
        (Some(from), _) => from.revision,
        (None, Version::Exact(revision)) => revision,
        (None, Version::Newest | Version::Any | Version::NotOlderThan(_)) => store.revision(),
    };
    if let Version::Exact(wanted) | Version::NotOlderThan(wanted) = options.version
        && wanted > store.revision()
    {
        return Err(status::too_new(wanted, store.revision()));
    }
    let view = store.at(revision).ok_or_else(|| match &from {
        Some(from) => from.expired(store, resource, namespace),
        None => status::expired(format!("The resourceVersion for the provided list is too old: {revision}")),
    })?;
    // The cache of a real server, which answers these, knows no pages.
    let limit = options.limit.filter(|_| options.version != Version::Any || from.is_some());
    let mut found = view
        .range(resource, namespace, from.as_ref().map(|from| &from.last))
        .filter(|(_, object)| options.selector.matches(object));
    let page: Vec<_> = found.by_ref().take(limit.unwrap_or(usize::MAX)).collect();

    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (Some((last, _)), true) = (page.last(), found.next().is_some()) {
        let sent = from.as_ref().map_or(0, |from| from.sent) + page.len();
        metadata["continue"] = Continue { revision, sent, last: (*last).clone() }.token().into();
        if options.selector.is_everything() {
            metadata["remainingItemCount"] = view.count(resource, namespace).saturating_sub(sent).into();
        }
    }
    let items = page.iter().map(|(_, object)| {
        let mut item = shown(object, metadata_only).into_owned();
        // The items of a list do not repeat what they are, but custom resources do.
        if !metadata_only
            && !resource.is_custom()
            && let Some(fields) = item.as_object_mut()
        {
            fields.retain(|name, _| name != "apiVersion" && name != "kind");
        }
        item
    });
    let items: Vec<_> = items.collect();
    let (kind, version) = if metadata_only {
        ("PartialObjectMetadata", "meta.k8s.io/v1")
    } else {
        (resource.kind(), resource.api_version())
    };
    let value = json!({"kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": items});
    Ok(Good { code: StatusCode::OK, value })
}
