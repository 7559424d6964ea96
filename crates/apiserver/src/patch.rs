//! The patch formats: JSON patch (RFC 6902), merge patch (RFC 7386) and strategic merge patch.

use json_patch::PatchOperation;
use serde_json::Value;

use crate::error::Error;
use crate::kinds::Kind;
use crate::request::decode_body;
use crate::strategic;

#[derive(Debug)]
pub enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub fn parse(media: &str, body: &[u8], kind: &Kind) -> Result<Self, Error> {
        match media {
            "application/json-patch+json" => {
                serde_json::from_slice(body).map(Self::Json).map_err(|e| Error::BadRequest(format!("the body is not a JSON patch: {e}")))
            }
            "application/merge-patch+json" => decode_body("", body).map(Self::Merge),
            "application/strategic-merge-patch+json" if kind.admission.is_none() => decode_body("", body).map(Self::Strategic),
            other => Err(Error::UnsupportedMediaType(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml; got {other:?}"
            ))),
        }
    }

    /// Whether it may be about `metadata.managedFields`, which the object must have then.
    pub fn names_owners(&self) -> bool {
        match self {
            Self::Json(patch) => patch.iter().any(|operation| {
                let (path, from) = match operation {
                    PatchOperation::Move(operation) => (&operation.path, Some(&operation.from)),
                    PatchOperation::Copy(operation) => (&operation.path, Some(&operation.from)),
                    PatchOperation::Add(operation) => (&operation.path, None),
                    PatchOperation::Remove(operation) => (&operation.path, None),
                    PatchOperation::Replace(operation) => (&operation.path, None),
                    PatchOperation::Test(operation) => (&operation.path, None),
                };
                std::iter::once(path).chain(from).any(|path| {
                    let path = path.as_str();
                    path.is_empty() || path == "/metadata" || path.starts_with("/metadata/managedFields")
                })
            }),
            Self::Merge(patch) | Self::Strategic(patch) => patch.get("metadata").is_some_and(|m| m.get("managedFields").is_some()),
        }
    }

    /// The object with the patch applied.
    pub fn apply(&self, mut object: Value) -> Result<Value, Error> {
        match self {
            Self::Json(patch) => match json_patch::patch(&mut object, patch) {
                Ok(()) => {}
                Err(why) => return leniently(object, patch).ok_or_else(|| Error::Unprocessable(why.to_string())),
            },
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => strategic::merge(&mut object, patch)?,
        }
        Ok(object)
    }
}

/// The real server takes the replacement of a field that is not there for its addition, against RFC 6902, and users rely on it.
fn leniently(mut object: Value, patch: &json_patch::Patch) -> Option<Value> {
    for operation in &patch.0 {
        let operation = match operation {
            PatchOperation::Replace(replace) if is_new_field(&object, replace.path.as_str()) => {
                PatchOperation::Add(json_patch::AddOperation { path: replace.path.clone(), value: replace.value.clone() })
            }
            other => other.clone(),
        };
        json_patch::patch(&mut object, &[operation]).ok()?;
    }
    Some(object)
}

/// Whether a path names a field that its object does not have.
fn is_new_field(object: &Value, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| object.pointer(parent));
    parent.is_some_and(Value::is_object) && object.pointer(path).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_not_there_is_replaced_by_a_json_patch() {
        let patch = |operations: Value| Patch::Json(serde_json::from_value(operations).unwrap());
        let object = || json!({ "spec": { "list": [1] } });
        let replaced = patch(json!([{ "op": "replace", "path": "/spec/a", "value": 1 }])).apply(object()).unwrap();
        assert_eq!(replaced, json!({ "spec": { "a": 1, "list": [1] } }));
        for path in ["/status/a", "/spec/list/7"] {
            patch(json!([{ "op": "replace", "path": path, "value": 1 }])).apply(object()).unwrap_err();
        }
    }
}
