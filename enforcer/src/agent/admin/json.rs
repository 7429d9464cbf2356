//! JSON for clients.

use axum::body::Bytes;
use serde::Serialize;

/// Encodes a value.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    // Only a map whose keys are no text could fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
