//! A Kubernetes object as JSON: reading and setting its metadata, and its stored form.

use k8s_openapi::jiff::Timestamp;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
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

/// An object without `metadata.managedFields`, and these as they are stored: most writes need not look into them.
#[derive(Debug, Default)]
pub struct Stored {
    pub object: Object,
    pub owners: Option<Box<RawValue>>,
}

impl Stored {
    pub fn read(entry: &Entry) -> Result<Self, Error> {
        serde_json::from_slice(&entry.bytes).map_err(|e| Error::Internal(format!("a stored object is damaged: {e}")))
    }

    /// The object with its owners.
    pub fn whole(&self) -> Result<Object, Error> {
        let mut whole = self.object.clone();
        if let Some(owners) = &self.owners {
            set_meta(&mut whole, "managedFields", Some(parse(owners.get().as_bytes())?));
        }
        Ok(whole)
    }
}

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Reads an object, and in it metadata or else what is kept apart from these.
        struct Level<'a> {
            metadata: bool,
            owners: &'a mut Option<Box<RawValue>>,
        }
        impl<'de> Visitor<'de> for Level<'_> {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
                let mut object = Object::new();
                while let Some(field) = map.next_key::<String>()? {
                    match field.as_str() {
                        "managedFields" if self.metadata => *self.owners = Some(map.next_value()?),
                        "metadata" if !self.metadata => {
                            let metadata = map.next_value_seed(Level { metadata: true, owners: self.owners })?;
                            object.insert(field, Value::Object(metadata));
                        }
                        _ => drop(object.insert(field, map.next_value()?)),
                    }
                }
                Ok(object)
            }
        }
        impl<'de> DeserializeSeed<'de> for Level<'_> {
            type Value = Object;

            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
                deserializer.deserialize_map(self)
            }
        }
        let mut owners = None;
        let object = Level { metadata: false, owners: &mut owners }.deserialize(deserializer)?;
        Ok(Self { object, owners })
    }
}

pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Internal(format!("a stored object is damaged: {e}")))
}

/// Splits the object's JSON where the resource version goes: the first field of `metadata`.
pub fn encode(object: &Object) -> Result<Encoded, Error> {
    encode_owned(object, None)
}

/// As [`encode`], with the JSON of `metadata.managedFields`.
pub fn encode_owned(object: &Object, owners: Option<&str>) -> Result<Encoded, Error> {
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
    if let Some(owners) = owners {
        tail.extend_from_slice(b",\"managedFields\":");
        tail.extend_from_slice(owners.as_bytes());
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
