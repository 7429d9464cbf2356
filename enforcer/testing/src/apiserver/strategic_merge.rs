//! Strategic merge patches (`k8s.io/apimachinery/pkg/util/strategicpatch`), for the lists of what is installed.

use serde_json::{Map, Value};

/// Lists that are merged by a key of their elements, as the types of the API say (`patchMergeKey`). All others are replaced.
const MERGE_KEYS: [(&str, &str); 8] = [
    ("containers", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("ownerReferences", "uid"),
    ("ports", "containerPort"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

const ORDER: &str = "$setElementOrder/";
const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";

/// Merges a patch.
///
/// # Errors
///
/// If the patch has a directive that is not known here.
pub(super) fn merge(target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    if patch.get(PATCH).is_some_and(|directive| directive == "replace") {
        *target =
            patch.iter().filter(|(key, _)| *key != PATCH).map(|(key, value)| (key.clone(), value.clone())).collect();
        return Ok(());
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let fields = target.as_object_mut().expect("it was made one");
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|key, _| kept.iter().any(|one| one == key));
    }
    for (key, value) in patch {
        if key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if key.starts_with('$') {
            return Err(format!("the test server does not know the directive {key}"));
        }
        let merge_key = MERGE_KEYS.iter().find(|(list, _)| list == key).map(|(_, merge_key)| *merge_key);
        match (value, merge_key) {
            (Value::Null, _) => {
                fields.remove(key);
            }
            (Value::Array(items), Some(merge_key)) => {
                let list = fields.entry(key.as_str()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(list, items, merge_key)?;
            }
            _ => merge(fields.entry(key.as_str()).or_insert(Value::Null), value)?,
        }
    }
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(ORDER) else { continue };
        let merge_key = MERGE_KEYS.iter().find(|(name, _)| *name == list).map(|(_, merge_key)| *merge_key);
        if let (Some(merge_key), Some(Value::Array(items)), Value::Array(order)) =
            (merge_key, fields.get_mut(list), order)
        {
            let place = |item: &Value| order.iter().position(|one| one[merge_key] == item[merge_key]);
            items.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
        }
    }
    Ok(())
}

fn merge_list(list: &mut Value, patch: &[Value], merge_key: &str) -> Result<(), String> {
    let Value::Array(items) = list else { return Err("what is patched is no list".to_owned()) };
    for change in patch {
        let place = items.iter().position(|item| item[merge_key] == change[merge_key]);
        match (change.get(PATCH).and_then(Value::as_str), place) {
            (Some("delete"), Some(place)) => {
                items.remove(place);
            }
            (Some("delete"), None) => {}
            (Some(other), _) => return Err(format!("the test server does not know the directive {other}")),
            (None, Some(place)) => merge(&mut items[place], change)?,
            (None, None) => {
                let mut item = Value::Null;
                merge(&mut item, change)?;
                items.push(item);
            }
        }
    }
    Ok(())
}
