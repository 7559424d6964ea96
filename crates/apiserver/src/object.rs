//! A Kubernetes object as JSON: reading and setting its metadata, and its stored form.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::owners;
use crate::store::{Encoded, Entry};

pub type Object = Map<String, Value>;

/// Now, as metadata carries times: RFC 3339 in whole seconds.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub fn decode(entry: &Entry) -> Result<Object, Error> {
    serde_json::from_slice(&entry.bytes).map_err(|e| Error::Internal(format!("a stored object is damaged: {e}")))
}

pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Internal(format!("a stored object is damaged: {e}")))
}

/// Splits the object's JSON where the resource version goes: the first field of `metadata`.
pub fn encode(object: &Object) -> Result<Encoded, Error> {
    let broken = |e: serde_json::Error| Error::Internal(format!("cannot encode an object: {e}"));
    let mut head = b"{".to_vec();
    for field in ["apiVersion", "kind"] {
        if let Some(value) = object.get(field) {
            head.extend_from_slice(format!("\"{field}\":").as_bytes());
            serde_json::to_writer(&mut head, value).map_err(broken)?;
            head.push(b',');
        }
    }
    head.extend_from_slice(b"\"metadata\":{\"resourceVersion\":\"");
    let mut tail = b"\"".to_vec();
    let fields = |tail: &mut Vec<u8>, (name, value): (&String, &Value)| {
        tail.push(b',');
        serde_json::to_writer(&mut *tail, name).map_err(broken)?;
        tail.push(b':');
        serde_json::to_writer(&mut *tail, value).map_err(broken)
    };
    if let Some(Value::Object(metadata)) = object.get("metadata") {
        metadata.iter().filter(|(name, _)| *name != "resourceVersion").try_for_each(|field| fields(&mut tail, field))?;
    }
    tail.push(b'}');
    let rest = object.iter().filter(|(name, _)| !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
    rest.into_iter().try_for_each(|field| fields(&mut tail, field))?;
    tail.push(b'}');
    Ok(Encoded { head, tail, references: owners::references(object.get("metadata").unwrap_or(&Value::Null)) })
}

/// A field of metadata, if it is a string.
pub fn meta<'a>(object: &'a Object, field: &str) -> Option<&'a str> {
    object.get("metadata")?.get(field)?.as_str().filter(|value| !value.is_empty())
}

/// Sets a field of metadata, or removes it.
pub fn set_meta(object: &mut Object, field: &str, value: Option<Value>) {
    // Metadata that is not an object was refused when the request was read.
    if let Some(metadata) = object.entry("metadata").or_insert_with(|| json!({})).as_object_mut() {
        set(metadata, field, value);
    }
}

/// Sets a top-level field, or removes it.
pub fn set(object: &mut Object, field: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(field.to_owned(), value),
        None => object.remove(field),
    };
}

pub fn finalizers(object: &Object) -> Vec<&str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

pub fn is_terminating(object: &Object) -> bool {
    meta(object, "deletionTimestamp").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_spliced_into_metadata_and_nowhere_else() {
        let object = json!({ "kind": "Pod", "metadata": { "name": "a", "resourceVersion": "7" }, "spec": { "resourceVersion": "x" } });
        let Value::Object(object) = object else { panic!("not an object") };
        let bytes = encode(&object).unwrap().with_rv(42);
        let read: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            read,
            json!({ "kind": "Pod", "metadata": { "name": "a", "resourceVersion": "42" }, "spec": { "resourceVersion": "x" } })
        );
    }
}
