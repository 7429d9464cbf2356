//! Secrets as Protocol Buffers: client-go sends objects of known types so, and takes JSON back.
//!
//! Field numbers are those of `generated.proto` in `k8s.io/api/core/v1` and `k8s.io/apimachinery`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// Type of a body.
pub(super) const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// Bytes that every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Length-delimited fields of a message, each with its number. Numbers that are stored as such are left out.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => {
                varint(&mut bytes)?;
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (content, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                found.push((key >> 3, content));
            }
            _ => return None,
        }
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Reads the entries of a map with this number.
fn map(fields: &[(u64, &[u8])], number: u64, value: impl Fn(&[u8]) -> Option<String>) -> Option<Map<String, Value>> {
    let entries = fields.iter().filter(|(found, _)| *found == number).map(|(_, entry)| {
        let entry = self::fields(entry)?;
        let part = |number| entry.iter().find(|(found, _)| *found == number).map_or(&[][..], |(_, part)| *part);
        Some((text(part(1))?, value(part(2))?.into()))
    });
    entries.collect()
}

/// Reads a Secret; `None` if it is none, or is damaged.
pub(super) fn secret(body: &[u8]) -> Option<Value> {
    let first = |fields: &[(u64, &[u8])], number| {
        fields.iter().find(|(found, _)| *found == number).and_then(|(_, content)| text(content))
    };
    let unknown = fields(body.strip_prefix(MAGIC)?)?;
    let [type_meta, raw] =
        [1, 2].map(|number| unknown.iter().find(|(found, _)| *found == number).map(|(_, part)| *part));
    let type_meta = fields(type_meta?)?;
    let (api_version, kind) = (first(&type_meta, 1)?, first(&type_meta, 2)?);
    if (api_version.as_str(), kind.as_str()) != ("v1", "Secret") {
        return None;
    }
    let object = fields(raw?)?;
    let metadata = fields(object.iter().find(|(found, _)| *found == 1)?.1)?;
    let optional = |number| first(&metadata, number).filter(|text| !text.is_empty());
    Some(json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": optional(1),
            "namespace": optional(3),
            "resourceVersion": optional(6),
            "labels": map(&metadata, 11, text)?,
            "annotations": map(&metadata, 12, text)?,
        },
        "data": map(&object, 2, |bytes| Some(STANDARD.encode(bytes)))?,
        "type": first(&object, 3),
    }))
}
