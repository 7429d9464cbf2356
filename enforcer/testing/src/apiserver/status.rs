//! The `Status` objects that an API server answers with when it refuses, in its own words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use serde_json::Value;

/// Refusal as the client gets it.
pub(super) type Refusal = Box<Status>;

/// Fault of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    reason: &'static str,
    field: String,
    /// Message as in the cause: without the field.
    message: String,
}

impl Flaw {
    pub(super) fn required(field: &str) -> Self {
        Self { reason: "FieldValueRequired", field: field.to_owned(), message: "Required value".to_owned() }
    }

    pub(super) fn required_since(field: &str, why: &str) -> Self {
        Self { message: format!("Required value: {why}"), ..Self::required(field) }
    }

    pub(super) fn invalid(field: &str, value: &str, why: &str) -> Self {
        let message = format!("Invalid value: {value:?}: {why}");
        Self { reason: "FieldValueInvalid", field: field.to_owned(), message }
    }

    /// Names a value that a schema does not allow.
    pub(super) fn out_of_schema(field: &str, value: &Value, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {field} in body {why}");
        Self { reason: "FieldValueInvalid", field: field.to_owned(), message }
    }

    pub(super) fn wrong_type(field: &str, given: &str, wanted: &str) -> Self {
        let message = format!("Invalid value: {given:?}: {field} in body must be of type {wanted}: {given:?}");
        Self { reason: "FieldValueTypeInvalid", field: field.to_owned(), message }
    }

    pub(super) fn too_long(field: &str, longest: u64) -> Self {
        let message = format!("Too long: may not be more than {longest} bytes");
        Self { reason: "FieldValueTooLong", field: field.to_owned(), message }
    }

    pub(super) fn too_many(field: &str, given: usize, most: u64) -> Self {
        let message = format!("Too many: {given}: must have at most {most} items");
        Self { reason: "FieldValueTooMany", field: field.to_owned(), message }
    }

    pub(super) fn duplicate(field: &str, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.to_owned(), message: format!("Duplicate value: {value}") }
    }

    pub(super) fn forbidden(field: &str, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.to_owned(), message: format!("Forbidden: {why}") }
    }

    pub(super) fn unsupported(field: &str, value: &str, supported: &str) -> Self {
        let message = format!("Unsupported value: {value:?}: supported values: {supported}");
        Self { reason: "FieldValueNotSupported", field: field.to_owned(), message }
    }
}

fn failure(code: i32, reason: &str, message: String, details: Option<StatusDetails>) -> Refusal {
    Box::new(Status {
        status: Some("Failure".to_owned()),
        code: Some(code),
        reason: Some(reason.to_owned()),
        message: Some(message),
        details,
        ..Status::default()
    })
}

/// Returns what a refusal is about. The kind or resource may have its group behind it, as in `events.events.k8s.io`.
fn named(kind: &str, name: &str) -> StatusDetails {
    let (kind, group) = kind.split_once('.').unwrap_or((kind, ""));
    let set = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
    StatusDetails { kind: Some(kind.to_owned()), name: set(name), group: set(group), ..StatusDetails::default() }
}

pub(super) fn bad_request(message: impl Into<String>) -> Refusal {
    failure(400, "BadRequest", message.into(), None)
}

pub(super) fn unauthorized() -> Refusal {
    failure(401, "Unauthorized", "Unauthorized".to_owned(), None)
}

/// Refuses what access control denies. `what` is the resource with its group, `name` may be empty.
pub(super) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Refusal {
    let dot = if group.is_empty() { "" } else { "." };
    let quoted = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let group_name = Some(group).filter(|group| !group.is_empty()).map(str::to_owned);
    let details = StatusDetails { group: group_name, ..named(resource, name) };
    failure(403, "Forbidden", format!("{resource}{dot}{group}{quoted} is forbidden: {why}"), Some(details))
}

pub(super) fn not_found(resource: &str, name: &str) -> Refusal {
    failure(404, "NotFound", format!("{resource} {name:?} not found"), Some(named(resource, name)))
}

/// Refuses a path that no resource has.
pub(super) fn no_such_resource() -> Refusal {
    let message = "the server could not find the requested resource".to_owned();
    failure(404, "NotFound", message, Some(StatusDetails::default()))
}

pub(super) fn not_acceptable(media: &str) -> Refusal {
    let message = format!("only the following media types are accepted: {media}");
    failure(406, "NotAcceptable", message, None)
}

pub(super) fn already_exists(resource: &str, name: &str) -> Refusal {
    failure(409, "AlreadyExists", format!("{resource} {name:?} already exists"), Some(named(resource, name)))
}

pub(super) fn conflict(resource: &str, name: &str) -> Refusal {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    conflict_since(resource, name, why)
}

pub(super) fn conflict_since(resource: &str, name: &str, why: &str) -> Refusal {
    let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
    failure(409, "Conflict", message, Some(named(resource, name)))
}

/// Refuses to apply fields of a status that another manager has applied.
pub(super) fn apply_conflict(manager: &str, fields: &[String]) -> Refusal {
    let owner = format!("{manager:?} with subresource \"status\"");
    let causes = fields.iter().map(|field| StatusCause {
        field: Some(field.clone()),
        message: Some(format!("conflict with {owner}")),
        reason: Some("FieldManagerConflict".to_owned()),
    });
    let details = StatusDetails { causes: Some(causes.collect()), ..StatusDetails::default() };
    let message = match fields {
        [field] => format!("Apply failed with 1 conflict: conflict with {owner}: {field}"),
        several => {
            let fields = several.join("\n- ");
            format!("Apply failed with {} conflicts: conflicts with {owner}:\n- {fields}", several.len())
        }
    };
    failure(409, "Conflict", message, Some(details))
}

/// Refuses what is no longer remembered.
pub(super) fn expired(message: impl Into<String>) -> Refusal {
    failure(410, "Expired", message.into(), None)
}

pub(super) fn too_large() -> Refusal {
    let message = "Request entity too large: limit is 3145728".to_owned();
    failure(413, "RequestEntityTooLarge", message, None)
}

pub(super) fn unsupported_media(accepted: &str) -> Refusal {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    failure(415, "UnsupportedMediaType", message, None)
}

pub(super) fn invalid(kind: &str, name: &str, flaws: &[Flaw]) -> Refusal {
    let told: Vec<_> = flaws.iter().map(|flaw| format!("{}: {}", flaw.field, flaw.message)).collect();
    let told = match told.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let causes = flaws.iter().map(|flaw| StatusCause {
        field: Some(flaw.field.clone()),
        message: Some(flaw.message.clone()),
        reason: Some(flaw.reason.to_owned()),
    });
    let details = StatusDetails { causes: Some(causes.collect()), ..named(kind, name) };
    failure(422, "Invalid", format!("{kind} {name:?} is invalid: {told}"), Some(details))
}

pub(super) fn too_many_requests(seconds: u16) -> Refusal {
    let message = "the server has received too many requests and has asked us to try again later".to_owned();
    let details = StatusDetails { retry_after_seconds: Some(seconds.into()), ..StatusDetails::default() };
    failure(429, "TooManyRequests", message, Some(details))
}

/// Refuses a patch that cannot be applied.
pub(super) fn unprocessable() -> Refusal {
    let message = "the server rejected our request due to an error in our request".to_owned();
    failure(422, "Invalid", message, Some(StatusDetails::default()))
}

/// Refuses with an error that a server has no word for.
pub(super) fn unexpected(error: String) -> Refusal {
    failure(500, "", error, None)
}

pub(super) fn internal(error: &str) -> Refusal {
    let cause = StatusCause { message: Some(error.to_owned()), ..StatusCause::default() };
    let details = StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() };
    failure(500, "InternalError", format!("Internal error occurred: {error}"), Some(details))
}

pub(super) fn unavailable() -> Refusal {
    let message = "the server is currently unable to handle the request".to_owned();
    failure(503, "ServiceUnavailable", message, None)
}

/// Refuses a resource version from the future.
pub(super) fn too_new(asked: u64, current: u64) -> Refusal {
    let cause = StatusCause {
        reason: Some("ResourceVersionTooLarge".to_owned()),
        message: Some("Too large resource version".to_owned()),
        field: None,
    };
    let details = StatusDetails { causes: Some(vec![cause]), retry_after_seconds: Some(1), ..StatusDetails::default() };
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    failure(504, "Timeout", message, Some(details))
}
