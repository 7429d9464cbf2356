//! Events, checked as a server checks what comes through `events.k8s.io/v1`.

use axum::http::StatusCode;
use k8s_openapi::{api::events::v1::Event, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    admission::{is_qualified_name, is_subdomain},
    resource::Resource,
    serve::Good,
    status::{self, Flaw, Refusal},
    store::{Key, Store},
};

const EVENTS: &str = "events";

/// Fields that no edit may change, and what a refusal calls them.
const IMMUTABLE: [(&str, &str); 13] = [
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// Answers a POST.
pub(super) fn create(store: &mut Store, namespace: &str, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    if media != "application/json" {
        return Err(status::unsupported_media("application/json"));
    }
    let value = serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))?;
    let mut event = decode(&value)
        .map_err(|why| status::bad_request(format!("Event in version \"v1\" cannot be handled as a Event: {why}")))?;
    let metadata = &mut event.metadata;
    fit(metadata.namespace.as_deref(), "namespace", "sent on the request", namespace)?;
    metadata.namespace = Some(namespace.to_owned());
    if metadata.resource_version.as_deref().is_some_and(|version| !matches!(version, "" | "0")) {
        return Err(status::internal("resourceVersion should not be set on objects to be created"));
    }
    if metadata.name.as_ref().is_none_or(String::is_empty)
        && let Some(prefix) = metadata.generate_name.as_ref().filter(|prefix| !prefix.is_empty())
    {
        metadata.name = Some(format!("{prefix}{:05x}", store.revision() % 0x10_0000));
    }
    // The server alone gives these.
    (metadata.uid, metadata.creation_timestamp) = (None, None);
    let name = metadata.name.clone().unwrap_or_default();

    match store.get(&Key::namespace(namespace)) {
        None => return Err(status::not_found("namespaces", namespace)),
        Some(found) if found["metadata"]["deletionTimestamp"].is_string() => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            return Err(status::forbidden(Resource::Events.group(), EVENTS, &name, &why));
        }
        Some(_) => {}
    }
    let mut flaws = always(&event);
    flaws.extend(name_flaws(&name));
    flaws.extend(series_flaws(&event));
    flaws.extend(strict_flaws(&event));
    if !flaws.is_empty() {
        return Err(status::invalid("Event", &name, &flaws));
    }
    let key = Key::new(Resource::Events, namespace, &name);
    if store.get(&key).is_some() {
        return Err(status::already_exists(EVENTS, &name));
    }
    Ok(Good { code: StatusCode::CREATED, value: (*store.put(key, encode(&event))).clone() })
}

/// Answers a PATCH.
pub(super) fn patch(store: &mut Store, namespace: &str, name: &str, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    const MERGE: &str = "application/merge-patch+json";
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    if ![MERGE, STRATEGIC].contains(&media) {
        return Err(status::unsupported_media(&format!("{MERGE}, {STRATEGIC}")));
    }
    let key = Key::new(Resource::Events, namespace, name);
    let old = store.get(&key).cloned().ok_or_else(|| status::not_found(EVENTS, name))?;
    let patch: Value = serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))?;
    if !patch.is_object() {
        return Err(status::bad_request("the patch is no object"));
    }
    if media == STRATEGIC && !is_plain(&patch) {
        return Err(status::bad_request("the test server knows no directives and no lists in strategic merge patches"));
    }
    let mut merged = (*old).clone();
    merge(&mut merged, &patch);
    let new = decode(&merged).map_err(|why| {
        let flaw = Flaw::invalid("patch", &merged.to_string(), &why);
        status::invalid("", "", &[flaw])
    })?;
    fit(new.metadata.name.as_deref(), "name", "on the URL", name)?;
    fit(new.metadata.namespace.as_deref(), "namespace", "sent on the request", namespace)?;
    if merged["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        return Err(status::conflict(EVENTS, name));
    }
    let encoded = encode(&new);
    let mut flaws = always(&new);
    for field in ["uid", "creationTimestamp"] {
        if encoded["metadata"][field] != old["metadata"][field] {
            flaws.push(immutable(&format!("metadata.{field}"), &encoded["metadata"][field]));
        }
    }
    if encoded["series"] != old["series"] {
        flaws.extend(series_flaws(&new));
    }
    let changed = IMMUTABLE.iter().filter(|(field, _)| encoded[field] != old[field]);
    flaws.extend(changed.map(|(field, told)| immutable(told, &encoded[field])));
    if !flaws.is_empty() {
        return Err(status::invalid("Event", name, &flaws));
    }
    Ok(Good { code: StatusCode::OK, value: (*store.put(key, encoded)).clone() })
}

fn immutable(field: &str, value: &Value) -> Flaw {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Flaw::invalid(field, &value, "field is immutable")
}

/// Checks that the object says what the path says, or nothing.
fn fit(given: Option<&str>, what: &str, place: &str, wanted: &str) -> Result<(), Refusal> {
    match given {
        None | Some("") => Ok(()),
        Some(given) if given == wanted => Ok(()),
        Some(given) => Err(status::bad_request(format!(
            "the {what} of the provided object does not match the {what} {place}: {given:?}, not {wanted:?}"
        ))),
    }
}

/// Merges a patch as RFC 7396 defines it.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(fields) = target.as_object_mut() {
                fields.remove(name);
            }
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// Checks whether a strategic merge patch means what the same merge patch means.
fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.starts_with('$') && is_plain(value)),
        Value::Array(_) => false,
        _ => true,
    }
}

fn encode(event: &Event) -> Value {
    serde_json::to_value(event).expect("an Event is JSON")
}

/// Reads an Event as strictly as a server; fields that it does not know are dropped.
fn decode(value: &Value) -> Result<Event, String> {
    for (field, wanted) in [("apiVersion", Resource::Events.api_version()), ("kind", Resource::Events.kind())] {
        match &value[field] {
            Value::Null => {}
            Value::String(given) if given == wanted => {}
            other => return Err(format!("the {field} in the data ({other}) does not match the expected {wanted}")),
        }
    }
    for (field, time) in
        [("eventTime", &value["eventTime"]), ("lastObservedTime", &value["series"]["lastObservedTime"])]
    {
        if let Some(text) = time.as_str().filter(|text| !is_micro_time(text)) {
            return Err(format!("{field}: parsing time {text:?} as \"2006-01-02T15:04:05.000000Z07:00\""));
        }
    }
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

/// Checks for a time of RFC 3339 with exactly six digits after the point.
fn is_micro_time(text: &str) -> bool {
    let digits = text.split_once('.').map_or(0, |(_, rest)| rest.chars().take_while(char::is_ascii_digit).count());
    digits == 6 && text.parse::<Timestamp>().is_ok()
}

/// Returns the flaws by what holds for new Events and for edited ones.
fn always(event: &Event) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let own = event.metadata.namespace.as_deref().unwrap_or_default();
    let regarding = event.regarding.as_ref().and_then(|object| object.namespace.as_deref()).unwrap_or_default();
    let fits = match regarding {
        "" => matches!(own, "default" | "kube-system"),
        // Not every real server insists; `kubectl describe` finds the Event only where this holds.
        regarding => own == regarding,
    };
    if !fits {
        flaws.push(Flaw::invalid("involvedObject.namespace", regarding, "does not match event.namespace"));
    }
    let controller = event.reporting_controller.as_deref().unwrap_or_default();
    if controller.is_empty() {
        flaws.push(Flaw::required("reportingController"));
    } else if !is_qualified_name(controller) {
        let why = "a qualified name must consist of alphanumeric characters, '-', '_' or '.'";
        flaws.push(Flaw::invalid("reportingController", controller, why));
    }
    for (field, value) in
        [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)]
    {
        match value.as_deref().unwrap_or_default() {
            "" => flaws.push(Flaw::required(field)),
            text if text.len() > 128 => flaws.push(Flaw::invalid(field, "", "can have at most 128 characters")),
            _ => {}
        }
    }
    // Bytes, whatever the words say.
    if event.note.as_ref().is_some_and(|note| note.len() > 1024) {
        flaws.push(Flaw::invalid("message", "", "can have at most 1024 characters"));
    }
    flaws
}

fn name_flaws(name: &str) -> Option<Flaw> {
    if name.is_empty() {
        return Some(Flaw::required("metadata.name"));
    }
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
    (!is_subdomain(name)).then(|| Flaw::invalid("metadata.name", name, why))
}

fn series_flaws(event: &Event) -> Option<Flaw> {
    let series = event.series.as_ref()?;
    (series.count < 2).then(|| Flaw::invalid("series.count", "", "should be at least 2"))
}

/// Returns the flaws by what holds for new Events.
fn strict_flaws(event: &Event) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    if event.event_time.is_none() {
        flaws.push(Flaw::required("eventTime"));
    }
    let kind = event.type_.as_deref().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        flaws.push(Flaw::invalid("type", "", &format!("has invalid value: {kind}")));
    }
    let source = event.deprecated_source.as_ref();
    for (field, set) in [
        ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
        ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
        ("count", event.deprecated_count.is_some_and(|count| count != 0)),
        ("source", source.is_some_and(|source| source.component.is_some() || source.host.is_some())),
    ] {
        if set {
            flaws.push(Flaw::invalid(field, "", "needs to be unset"));
        }
    }
    flaws
}
