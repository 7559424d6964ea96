//! What can be wrong with a request, and how Kubernetes says it on the wire (`Status`).

use serde_json::{Value, json};

/// One field that admission refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field, such as `spec.cidrBlock`.
    pub field: String,
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong with the value.
    pub message: String,
}

impl Cause {
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, message: impl std::fmt::Display) -> Self {
        let shown = match value {
            Value::Object(_) => "\"object\"".to_owned(),
            Value::Array(_) => "\"array\"".to_owned(),
            scalar => scalar.to_string(),
        };
        Self { field: field.into(), reason: "FieldValueInvalid", message: format!("Invalid value: {shown}: {message}") }
    }

    pub(crate) fn required(field: impl Into<String>) -> Self {
        Self { field: field.into(), reason: "FieldValueRequired", message: "Required value".to_owned() }
    }

    pub(crate) fn forbidden(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { field: field.into(), reason: "FieldValueForbidden", message: format!("Forbidden: {message}") }
    }
}

fn list_causes(causes: &[Cause]) -> String {
    let said: Vec<_> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    if let [one] = said.as_slice() { one.clone() } else { format!("[{}]", said.join(", ")) }
}

/// Why a request was refused. `resource` is `plural` or `plural.group`, `kind` is `Kind` or `Kind.group`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: String, name: String },
    #[error("the server could not find the requested resource")]
    NoSuchEndpoint,
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists { resource: String, name: String },
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {why}")]
    Conflict { resource: String, name: String, why: String },
    /// A configuration would change fields that others own.
    #[error("{message}")]
    ApplyConflict { message: String, causes: Vec<Cause> },
    #[error("{kind} \"{name}\" is invalid: {}", list_causes(causes))]
    Invalid { kind: String, name: String, causes: Vec<Cause> },
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
    #[error("{resource} \"{name}\" is forbidden: {why}")]
    Forbidden { resource: String, name: String, why: String },
    #[error("{0}")]
    BadRequest(String),
    #[error("Unauthorized")]
    Unauthorized,
    #[error("too old resource version: {asked} ({oldest})")]
    Expired { asked: u64, oldest: u64 },
    /// The list that a token continues is no longer remembered; `token` continues it as it is now.
    #[error("{TOO_OLD}")]
    ContinueExpired { token: String },
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("{0}")]
    NotAcceptable(String),
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("the request body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Internal(String),
}

/// Said of a page that can no longer be had.
const TOO_OLD: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new \
    list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
    Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between \
    the time the first chunk was returned and now may show up in the list.";

/// Said of every stale write, so that clients can recognise it.
pub(crate) const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

impl Error {
    /// HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::NotFound { .. } | Self::NoSuchEndpoint => 404,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict { .. } => 409,
            Self::Invalid { .. } | Self::Unprocessable(_) => 422,
            Self::Forbidden { .. } => 403,
            Self::BadRequest(_) => 400,
            Self::Unauthorized => 401,
            Self::Expired { .. } | Self::ContinueExpired { .. } => 410,
            Self::MethodNotAllowed(_) => 405,
            Self::NotAcceptable(_) => 406,
            Self::UnsupportedMediaType(_) => 415,
            Self::TooLarge(_) => 413,
            Self::Internal(_) => 500,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchEndpoint => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Invalid { .. } | Self::Unprocessable(_) => "Invalid",
            Self::Forbidden { .. } => "Forbidden",
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Expired { .. } | Self::ContinueExpired { .. } => "Expired",
            Self::MethodNotAllowed(_) => "MethodNotAllowed",
            Self::NotAcceptable(_) => "NotAcceptable",
            Self::UnsupportedMediaType(_) => "UnsupportedMediaType",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::Internal(_) => "InternalError",
        }
    }

    /// The `Status` object that carries this refusal.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "code": self.code(),
        });
        if let Self::ContinueExpired { token } = self {
            status["metadata"]["continue"] = json!(token);
        }
        let details = match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name, .. }
            | Self::Forbidden { resource, name, .. } => Some(about(resource, name)),
            Self::Invalid { kind, name, causes } => {
                let mut details = about(kind, name);
                details["causes"] = shown(causes);
                Some(details)
            }
            Self::ApplyConflict { causes, .. } => Some(json!({ "causes": shown(causes) })),
            Self::NoSuchEndpoint => Some(json!({})),
            _ => None,
        };
        if let Some(details) = details {
            status["details"] = details;
        }
        status
    }
}

fn shown(causes: &[Cause]) -> Value {
    causes.iter().map(|c| json!({ "reason": c.reason, "message": c.message, "field": c.field })).collect()
}

/// `details` of an object named by `plural.group` or `Kind.group`.
fn about(qualified: &str, name: &str) -> Value {
    let mut details = match qualified.split_once('.') {
        Some((kind, group)) => json!({ "group": group, "kind": kind }),
        None => json!({ "kind": qualified }),
    };
    if !name.is_empty() {
        details["name"] = json!(name);
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_is_named_in_message_and_causes() {
        let error = Error::Invalid {
            kind: "Subnet.kubeovn.io".into(),
            name: "s".into(),
            causes: vec![Cause::invalid("spec.cidrBlock", &json!("x"), "must be a CIDR")],
        };
        assert_eq!(error.to_string(), "Subnet.kubeovn.io \"s\" is invalid: spec.cidrBlock: Invalid value: \"x\": must be a CIDR");
        let status = error.status();
        assert_eq!(status["details"]["causes"][0]["field"], "spec.cidrBlock");
        assert_eq!(status["details"]["group"], "kubeovn.io");
        assert_eq!(status["code"], 422);
    }
}
