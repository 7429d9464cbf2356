//! What an administrator installs: objects that are made, edited and deleted as they are. Nothing acts on them; a test sets
//! the status that a controller would.

use axum::http::StatusCode;
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::DaemonSet,
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, ResourceQuota, Secret, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    ApiServer, admission, event, protobuf,
    request_attributes::{Asked, Parameters},
    resource::Resource,
    serve::Good,
    status::{self, Flaw, Refusal},
    store::{Key, Store},
    strategic_merge,
};

impl ApiServer {
    /// Returns an installed object of a kind. The namespace is empty for what is in none.
    pub fn installed(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = Key::new(resource_of(kind), namespace, name);
        self.shared.lock().store.get(&key).map(|object| (**object).clone())
    }

    /// Returns the installed objects of all kinds, as `Kind/name`, without the records of who installed them.
    pub fn all_installed(&self) -> Vec<String> {
        let inner = self.shared.lock();
        let kinds =
            Resource::ALL.into_iter().filter(|resource| resource.is_installed() && *resource != Resource::Secrets);
        let names = kinds.flat_map(|resource| {
            let now = inner.store.now();
            let names = now.range(resource, None, None).map(|(key, _)| format!("{}/{}", resource.kind(), key.name));
            names.collect::<Vec<_>>()
        });
        names.collect()
    }

    /// Sets the status of an installed object, as its controller does.
    pub fn set_status(&self, kind: &str, namespace: &str, name: &str, status: &Value) {
        self.shared.update(|inner| {
            let key = Key::new(resource_of(kind), namespace, name);
            let object = inner.store.get(&key).unwrap_or_else(|| panic!("{key:?} is not installed"));
            let mut object = (**object).clone();
            object["status"] = status.clone();
            inner.store.put(key, object);
        });
    }
}

fn resource_of(kind: &str) -> Resource {
    let of = |resource: &Resource| resource.is_installed() && resource.kind() == kind;
    Resource::ALL.into_iter().find(of).unwrap_or_else(|| panic!("{kind} is not installed here"))
}

/// Answers a request that writes.
pub(super) fn write(
    store: &mut Store,
    resource: Resource,
    asked: &Asked,
    parameters: &Parameters,
    media: &str,
    body: &[u8],
) -> Result<Good, Refusal> {
    let strict = parameters.text("fieldValidation") == "Strict";
    let [namespace, name] = [&asked.namespace, &asked.name].map(|text| text.as_deref().unwrap_or_default());
    let key = Key::new(resource, namespace, name);
    match asked.verb.as_str() {
        "create" => create(store, &key, sent(media, body)?, strict),
        "update" => {
            let sent = sent(media, body)?;
            edit(store, &key, strict, |_| Ok(sent))
        }
        "patch" => edit(store, &key, strict, |before| patched(before, media, body)),
        _ => {
            let object = found(store, &key)?;
            store.remove(&key);
            Ok(Good { code: StatusCode::OK, value: object })
        }
    }
}

fn parse(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| status::bad_request(error.to_string()))
}

/// Reads an object in the form in which it was sent.
fn sent(media: &str, body: &[u8]) -> Result<Value, Refusal> {
    if media != protobuf::MEDIA {
        return parse(body);
    }
    protobuf::secret(body).ok_or_else(|| status::unsupported_media("application/json, and Secrets as Protocol Buffers"))
}

fn found(store: &Store, key: &Key) -> Result<Value, Refusal> {
    let object = store.get(key).map(|object| (**object).clone());
    object.ok_or_else(|| status::not_found(key.resource.qualified(), &key.name))
}

fn create(store: &mut Store, key: &Key, mut object: Value, strict: bool) -> Result<Good, Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if key.resource.is_namespaced() {
        found(store, &Key::namespace(&key.namespace))?;
        object["metadata"]["namespace"] = key.namespace.clone().into();
    }
    let key = Key { name, ..key.clone() };
    if store.get(&key).is_some() {
        return Err(status::already_exists(key.resource.qualified(), &key.name));
    }
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        object["metadata"][field] = Value::Null;
    }
    let mut object = admit(&key, &object, strict)?;
    object["metadata"]["generation"] = 1.into();
    Ok(Good { code: StatusCode::CREATED, value: (*store.put(key, object)).clone() })
}

/// Fields that no edit may change.
const IMMUTABLE: [(Resource, &str); 4] = [
    (Resource::DaemonSets, "/spec/selector"),
    (Resource::Jobs, "/spec/template"),
    (Resource::RoleBindings, "/roleRef"),
    (Resource::ClusterRoleBindings, "/roleRef"),
];

fn edit(
    store: &mut Store,
    key: &Key,
    strict: bool,
    change: impl FnOnce(&Value) -> Result<Value, Refusal>,
) -> Result<Good, Refusal> {
    let before = found(store, key)?;
    let object = change(&before)?;
    let version = &object["metadata"]["resourceVersion"];
    if !version.is_null() && *version != "" && *version != before["metadata"]["resourceVersion"] {
        return Err(status::conflict(key.resource.qualified(), &key.name));
    }
    let mut object = admit(key, &object, strict)?;
    for (resource, field) in IMMUTABLE {
        if resource == key.resource && object.pointer(field) != before.pointer(field) {
            let flaw = Flaw::invalid(field, &json!(object.pointer(field)).to_string(), "field is immutable");
            return Err(status::invalid(key.resource.kind(), &key.name, &[flaw]));
        }
    }
    // The status has a way of its own.
    if !before["status"].is_null() {
        object["status"] = before["status"].clone();
    }
    let generation = before["metadata"]["generation"].as_u64().unwrap_or(1);
    object["metadata"]["generation"] = (generation + u64::from(object["spec"] != before["spec"])).into();
    Ok(Good { code: StatusCode::OK, value: (*store.put(key.clone(), object)).clone() })
}

fn patched(before: &Value, media: &str, body: &[u8]) -> Result<Value, Refusal> {
    const MERGE: &str = "application/merge-patch+json";
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let patch = parse(body)?;
    let mut object = before.clone();
    match media {
        MERGE => event::merge(&mut object, &patch),
        STRATEGIC => strategic_merge::merge(&mut object, &patch).map_err(status::bad_request)?,
        _ => return Err(status::unsupported_media(&format!("{MERGE}, {STRATEGIC}"))),
    }
    Ok(object)
}

/// Finds a field that the type does not know, by its path.
fn unknown_field(sent: &Value, known: &Value) -> Option<String> {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => {
            sent.iter().filter(|(_, value)| !value.is_null()).find_map(|(key, value)| {
                let Some(known) = known.get(key) else { return Some(key.clone()) };
                unknown_field(value, known).map(|below| format!("{key}.{below}"))
            })
        }
        (Value::Array(sent), Value::Array(known)) => sent
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (sent, known))| unknown_field(sent, known).map(|below| format!("[{index}].{below}"))),
        _ => None,
    }
}

/// Reads an object as its type, and gives it back as that type writes it. Fields that the type does not know are refused if
/// the client asks for that, and dropped else.
fn admit(key: &Key, object: &Value, strict: bool) -> Result<Value, Refusal> {
    fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
        let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(typed).map_err(|error| error.to_string())
    }
    let metadata = serde_json::from_value::<ObjectMeta>(object["metadata"].clone()).map_err(|error| error.to_string());
    let wrong = |why: String| status::invalid(key.resource.kind(), &key.name, &[Flaw::invalid("", &key.name, &why)]);
    metadata.and_then(|metadata| admission::check_metadata(&metadata)).map_err(wrong)?;
    // Which characters a name may have differs by kind, and is not checked.
    if object["metadata"]["name"] != *key.name || key.name.is_empty() {
        return Err(wrong(format!("{} is not the name {:?}", object["metadata"]["name"], key.name)));
    }
    if object["kind"] != key.resource.kind() || object["apiVersion"] != key.resource.api_version() {
        let given = format!("{} {}", object["apiVersion"], object["kind"]);
        return Err(status::bad_request(format!("{given} is no {}", key.resource.kind())));
    }
    let typed = match key.resource {
        Resource::DaemonSets => typed::<DaemonSet>(object),
        Resource::CronJobs => typed::<CronJob>(object),
        Resource::Jobs => typed::<Job>(object),
        Resource::ConfigMaps => typed::<ConfigMap>(object),
        Resource::Secrets => typed::<Secret>(object),
        Resource::ServiceAccounts => typed::<ServiceAccount>(object),
        Resource::Quotas => typed::<ResourceQuota>(object),
        Resource::Roles => typed::<Role>(object),
        Resource::RoleBindings => typed::<RoleBinding>(object),
        Resource::ClusterRoles => typed::<ClusterRole>(object),
        Resource::ClusterRoleBindings => typed::<ClusterRoleBinding>(object),
        Resource::AdmissionPolicies => typed::<ValidatingAdmissionPolicy>(object),
        Resource::AdmissionPolicyBindings => typed::<ValidatingAdmissionPolicyBinding>(object),
        Resource::Definitions => typed::<CustomResourceDefinition>(object),
        other => Err(format!("{} is not installed here", other.kind())),
    };
    let typed = typed.map_err(wrong)?;
    match unknown_field(object, &typed).filter(|_| strict) {
        Some(field) => Err(status::bad_request(format!("strict decoding error: unknown field {field:?}"))),
        None => Ok(typed),
    }
}
