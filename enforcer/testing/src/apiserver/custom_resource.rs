//! The custom resource of the ledgers: its definition, and server-side apply.
//!
//! Simplified: what a manager owns is known for the status only, and as a whole. What an apply of the rest no longer
//! names stays, and whose it was is not asked.

use std::{fs, path::Path, sync::Arc};

use axum::http::StatusCode;
use enforcer_core::yaml::documents::{documents, with_large_stack};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::{
    admission,
    event::merge,
    request_attributes::{Asked, Parameters},
    resource::Resource,
    serve::Good,
    shared::Inner,
    status::{self, Flaw, Refusal},
    store::Key,
    structural_schema::StructuralSchema,
};

const LEDGERS: Resource = Resource::NodeHostPorts;

/// Kind with its group, as refusals name it.
const KIND: &str = "NodeHostPorts.port-enforcer.io";

/// File of the `CustomResourceDefinition` that is shipped.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/base/nodehostports.yaml");

/// What a server knows of a custom resource.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) installed: bool,
    /// `None` to take everything.
    pub(super) schema: Option<Arc<StructuralSchema>>,
}

impl Definition {
    /// Reads the definition that is shipped; without one everything is taken.
    pub(super) fn shipped() -> Self {
        let schema = Path::new(FILE).exists().then(|| {
            let text = fs::read_to_string(FILE).expect("the file of the CustomResourceDefinition");
            let schema = parse_yaml(&text).and_then(|definition| schema_of(&definition));
            Arc::new(schema.unwrap_or_else(|error| panic!("{FILE}: {error}")))
        });
        Self { installed: true, schema }
    }
}

/// Returns the schema of a `CustomResourceDefinition`, which must be the one of the ledgers.
fn schema_of(definition: &Value) -> Result<StructuralSchema, String> {
    let wanted = [
        ("/kind", "CustomResourceDefinition"),
        ("/metadata/name", LEDGERS.qualified()),
        ("/spec/group", LEDGERS.group()),
        ("/spec/names/plural", LEDGERS.plural()),
        ("/spec/names/kind", LEDGERS.kind()),
        ("/spec/scope", "Cluster"),
    ];
    for (pointer, wanted) in wanted {
        let given = definition.pointer(pointer).and_then(Value::as_str);
        if given != Some(wanted) {
            return Err(format!("{pointer} is {given:?}, not {wanted:?}"));
        }
    }
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let named = |version: &Value| version["name"].as_str().map(|name| format!("{}/{name}", LEDGERS.group()));
    let mut versions = versions.filter(|version| named(version).as_deref() == Some(LEDGERS.api_version()));
    let version = versions.next().ok_or_else(|| format!("no version {}", LEDGERS.api_version()))?;
    if version["served"] != true || !version["subresources"]["status"].is_object() {
        return Err("the version is not served, or has no subresource for the status".to_owned());
    }
    StructuralSchema::parse(&version["schema"]["openAPIV3Schema"])
}

fn parse_yaml(text: &str) -> Result<Value, String> {
    with_large_stack(|| {
        let mut documents = documents(text);
        let first = documents.next().unwrap_or_else(|| panic!("nothing in {text:?}"));
        first.map(|document| document.root.to_json()).map_err(|error| error.message)
    })
}

/// Reads a body in YAML, of which JSON is a part.
fn parse(body: &[u8]) -> Result<Value, String> {
    let object = match serde_json::from_slice(body) {
        Ok(object) => object,
        Err(_) => parse_yaml(&String::from_utf8_lossy(body))?,
    };
    if Value::is_object(&object) { Ok(object) } else { Err("cannot unmarshal into an object".to_owned()) }
}

fn remove_field(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn invalid(name: &str, flaws: &[Flaw]) -> Result<(), Refusal> {
    if flaws.is_empty() { Ok(()) } else { Err(status::invalid(KIND, name, flaws)) }
}

/// Checks an object as it would be stored.
fn check(object: &Value, schema: Option<&StructuralSchema>) -> Result<(), Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let given = object["kind"].as_str().unwrap_or_default();
    if given != LEDGERS.kind() {
        return invalid(name, &[Flaw::invalid("kind", given, &format!("must be {}", LEDGERS.kind()))]);
    }
    let mut flaws = Vec::new();
    if name.is_empty() {
        flaws.push(Flaw::required_since("metadata.name", "name or generateName is required"));
    } else if !admission::is_subdomain(name) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
        flaws.push(Flaw::invalid("metadata.name", name, why));
    }
    let metadata = serde_json::from_value::<ObjectMeta>(object["metadata"].clone());
    let metadata = metadata.map_err(|error| status::bad_request(error.to_string()))?;
    if let Err(why) = admission::check_metadata(&metadata) {
        flaws.push(Flaw::invalid("metadata", name, &why));
    }
    for (index, owner) in metadata.owner_references.iter().flatten().enumerate() {
        let fields = [("apiVersion", &owner.api_version), ("kind", &owner.kind), ("name", &owner.name)];
        for (field, _) in fields.into_iter().chain([("uid", &owner.uid)]).filter(|(_, text)| text.is_empty()) {
            let why = format!("{} must not be empty", if field == "apiVersion" { "version" } else { field });
            flaws.push(Flaw::invalid(&format!("metadata.ownerReferences[{index}].{field}"), "", &why));
        }
    }
    flaws.extend(schema.into_iter().flat_map(|schema| schema.flaws(object)));
    invalid(name, &flaws)
}

/// Answers a POST.
pub(super) fn create(inner: &mut Inner, media: &str, body: &[u8]) -> Result<Good, Refusal> {
    const ACCEPTED: [&str; 2] = ["application/json", "application/yaml"];
    if !ACCEPTED.contains(&media) {
        return Err(status::unsupported_media(&ACCEPTED.join(", ")));
    }
    let mut object = parse(body).map_err(status::bad_request)?;
    if object["kind"].is_null() {
        return Err(status::bad_request(format!("Object 'Kind' is missing in '{object}'")));
    }
    if object["apiVersion"] != LEDGERS.api_version() {
        return Err(status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            object["apiVersion"].as_str().unwrap_or_default(),
            LEDGERS.api_version()
        )));
    }
    if !matches!(object["metadata"]["resourceVersion"].as_str(), None | Some("" | "0")) {
        return Err(status::internal("resourceVersion should not be set on objects to be created"));
    }
    // The status has a way of its own.
    remove_field(&mut object, "status");
    for field in ["uid", "creationTimestamp", "managedFields", "deletionTimestamp"] {
        remove_field(&mut object["metadata"], field);
    }
    let schema = inner.definition.schema.as_deref();
    if let Some(schema) = schema {
        schema.prune(&mut object);
    }
    check(&object, schema)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = Key::new(LEDGERS, "", &name);
    if inner.store.get(&key).is_some() {
        return Err(status::already_exists(LEDGERS.qualified(), &name));
    }
    object["metadata"]["generation"] = 1.into();
    Ok(Good { code: StatusCode::CREATED, value: (*inner.store.put(key, object)).clone() })
}

/// Answers a PATCH of an object or of its status.
pub(super) fn apply(
    inner: &mut Inner,
    asked: &Asked,
    parameters: &Parameters,
    media: &str,
    body: &[u8],
) -> Result<Good, Refusal> {
    const APPLY: &str = "application/apply-patch+yaml";
    if media != APPLY {
        return Err(status::unsupported_media(APPLY));
    }
    let manager = parameters.text("fieldManager");
    if manager.is_empty() {
        let flaw = Flaw::required_since("fieldManager", "is required for apply patch");
        return Err(status::invalid("PatchOptions.meta.k8s.io", "", &[flaw]));
    }
    let name = asked.name.as_deref().unwrap_or_default();
    let key = Key::new(LEDGERS, "", name);
    let before = inner.store.get(&key).cloned();
    let of_status = asked.subresource().is_some();
    if of_status && before.is_none() {
        return Err(status::not_found(LEDGERS.qualified(), name));
    }
    let patch = parse(body).map_err(|error| status::bad_request(format!("error decoding YAML: {error}")))?;
    let schema = inner.definition.schema.as_deref();
    fit(&patch, name, before.as_deref(), schema)?;
    let code = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let new = || json!({"apiVersion": LEDGERS.api_version(), "metadata": {"name": name, "generation": 1}});
    let mut object = before.as_deref().cloned().unwrap_or_else(new);
    object["kind"] = patch["kind"].clone();
    if of_status {
        apply_status(&mut object, &patch, manager, parameters.flag("force") == Some(true))?;
    } else {
        apply_rest(&mut object, &patch, manager);
    }
    check(&object, schema)?;
    Ok(Good { code, value: (*inner.store.put(key, object)).clone() })
}

/// Checks that a patch can be applied to this object.
fn fit(patch: &Value, name: &str, before: Option<&Value>, schema: Option<&StructuralSchema>) -> Result<(), Refusal> {
    let text = |field: &str| patch[field].as_str().unwrap_or_default();
    if text("apiVersion") != LEDGERS.api_version() {
        return Err(status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            text("apiVersion"),
            LEDGERS.api_version()
        )));
    }
    let metadata = &patch["metadata"];
    if !metadata["managedFields"].is_null() {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    // Undeclared fields are an error of the server's own until somebody repairs that: kubernetes/kubernetes#139253.
    let untyped = schema.map(|schema| schema.untyped(patch)).unwrap_or_default();
    if !untyped.is_empty() {
        let what = format!("/{name}; {}, Kind={}", LEDGERS.api_version(), text("kind"));
        let why = match untyped.as_slice() {
            [one] => one.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        };
        return Err(status::unexpected(format!("failed to create typed patch object ({what}): {why}")));
    }
    let given = |field: &str| metadata[field].as_str().filter(|text| !text.is_empty());
    match (given("uid"), before.map(|before| &before["metadata"]["uid"])) {
        (Some(uid), None) => {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(status::conflict_since(LEDGERS.qualified(), name, &why));
        }
        (Some(uid), Some(stored)) if stored != uid => {
            invalid(name, &[Flaw::invalid("metadata.uid", uid, "field is immutable")])?;
        }
        _ => {}
    }
    match given("name") {
        None if before.is_none() => {
            return Err(status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        Some(given) if given != name => {
            return Err(status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    let stored = before.and_then(|before| before["metadata"]["resourceVersion"].as_str());
    if given("resourceVersion").is_some_and(|given| Some(given) != stored) {
        return Err(status::conflict(LEDGERS.qualified(), name));
    }
    Ok(())
}

/// Takes from a patch what is not the status.
fn apply_rest(object: &mut Value, patch: &Value, manager: &str) {
    for part in ["labels", "annotations"] {
        if patch["metadata"][part].is_object() {
            merge(&mut object["metadata"][part], &patch["metadata"][part]);
        }
    }
    if let Some(owners) = patch["metadata"]["ownerReferences"].as_array() {
        let list = &mut object["metadata"]["ownerReferences"];
        let mut all = list.as_array().cloned().unwrap_or_default();
        all.retain(|owner| owners.iter().all(|new| new["uid"] != owner["uid"]));
        all.extend(owners.iter().cloned());
        *list = all.into();
    }
    if patch["spec"].is_object() {
        let before = object["spec"].clone();
        merge(&mut object["spec"], &patch["spec"]);
        if !before.is_null() && object["spec"] != before {
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_u64().unwrap_or(0) + 1).into();
        }
    }
    own(object, manager, None);
}

/// Takes the status from a patch; what the manager has applied before goes.
fn apply_status(object: &mut Value, patch: &Value, manager: &str, force: bool) -> Result<(), Refusal> {
    let is_of_status = |entry: &Value| entry["subresource"] == "status";
    let managers = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut owners = managers.filter(|entry| is_of_status(entry)).filter_map(|entry| entry["manager"].as_str());
    let Some(owner) = owners.find(|owner| *owner != manager && !force) else {
        if let Some(managers) = object["metadata"]["managedFields"].as_array_mut() {
            managers.retain(|entry| !is_of_status(entry) || entry["manager"] == manager);
        }
        own(object, manager, Some("status"));
        object["status"] = patch["status"].clone();
        if patch["status"].is_null() {
            remove_field(object, "status");
        }
        return Ok(());
    };
    // Two managers may own what they agree on.
    let fields = patch["status"].as_object().into_iter().flatten();
    let other = fields.filter(|(name, value)| object["status"].get(name).is_some_and(|stored| stored != *value));
    let other: Vec<_> = other.map(|(name, _)| format!(".status.{name}")).collect();
    if !other.is_empty() {
        return Err(status::apply_conflict(owner, &other));
    }
    if patch["status"].is_object() {
        merge(&mut object["status"], &patch["status"]);
    }
    own(object, manager, Some("status"));
    Ok(())
}

/// Notes that a manager has applied something.
fn own(object: &mut Value, manager: &str, subresource: Option<&str>) {
    let mut entry = json!({
        "manager": manager,
        "operation": "Apply",
        "apiVersion": LEDGERS.api_version(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {},
    });
    if let Some(subresource) = subresource {
        entry["subresource"] = subresource.into();
    }
    let list = &mut object["metadata"]["managedFields"];
    let mut entries = list.as_array().cloned().unwrap_or_default();
    if !entries.contains(&entry) {
        entries.push(entry);
    }
    *list = entries.into();
}
