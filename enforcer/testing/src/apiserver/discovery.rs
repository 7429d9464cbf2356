//! Discovery: which resources there are, for clients that ask before they use them.

use serde_json::{Map, Value, json};

use super::resource::Resource;

/// Answers a path of discovery, in the older form: a server need not know the newer one.
pub(super) fn answer(path: &str, is_served: impl Fn(Resource) -> bool) -> Option<Value> {
    let resources = Resource::ALL.into_iter().filter(|resource| is_served(*resource));
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ["apis"] => {
            let mut groups: Vec<_> = resources.filter(|resource| !resource.group().is_empty()).collect();
            groups.sort_by_key(|resource| resource.group());
            groups.dedup_by_key(|resource| resource.group());
            let groups = groups.iter().map(|resource| {
                let version = json!({ "groupVersion": resource.api_version(), "version": resource.version() });
                json!({ "name": resource.group(), "versions": [version], "preferredVersion": version })
            });
            let groups: Vec<_> = groups.collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["api", version] => group(resources, "", version),
        ["apis", name, version] => group(resources, name, version),
        ["openapi", "v3"] => {
            let path = |resource: Resource| {
                let root = if resource.group().is_empty() { "api" } else { "apis" };
                let path = format!("{root}/{}", resource.api_version());
                let document = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
                (path, document)
            };
            Some(json!({ "paths": resources.map(path).collect::<Map<_, _>>() }))
        }
        ["openapi", "v3", "api", version] => operations(resources, "", version),
        ["openapi", "v3", "apis", name, version] => operations(resources, name, version),
        _ => None,
    }
}

fn group(resources: impl Iterator<Item = Resource>, group: &str, version: &str) -> Option<Value> {
    let inside = resources.filter(|resource| resource.group() == group && resource.version() == version);
    let inside: Vec<_> = inside.collect();
    let api_version = inside.first()?.api_version();
    let resources = inside.iter().map(|resource| {
        let mut verbs = [resource.verbs(None), resource.verbs_of_admin()].concat();
        verbs.sort_unstable();
        verbs.dedup();
        json!({
            "name": resource.plural(),
            "singularName": resource.kind().to_lowercase(),
            "namespaced": resource.is_namespaced(),
            "kind": resource.kind(),
            "verbs": verbs,
        })
    });
    let resources: Vec<_> = resources.collect();
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources }))
}

/// Describes no more than that unknown fields can be refused (`fieldValidation`): clients that hear of that leave it to the
/// server, and need no schema.
fn operations(resources: impl Iterator<Item = Resource>, group: &str, version: &str) -> Option<Value> {
    let inside = resources.filter(|resource| resource.group() == group && resource.version() == version);
    let paths = inside.map(|resource| {
        let root = if group.is_empty() { "api" } else { "apis" };
        let scope = if resource.is_namespaced() { "/namespaces/{namespace}" } else { "" };
        let path = format!("/{root}/{}{scope}/{}/{{name}}", resource.api_version(), resource.plural());
        let parameter = json!({ "name": "fieldValidation", "in": "query", "schema": { "type": "string" } });
        let operation = json!({
            "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": resource.kind() },
            "parameters": [parameter],
            "responses": {},
        });
        (path, json!({ "patch": operation }))
    });
    let paths: Map<_, _> = paths.collect();
    let info = json!({ "title": "Kubernetes", "version": version });
    (!paths.is_empty()).then(|| json!({ "openapi": "3.0.0", "info": info, "paths": paths }))
}
