//! Bodies in Kubernetes' protobuf encoding, for the kinds that `kubectl` sends in no other.
//!
//! A body is `k8s\0` and a `runtime.Unknown`: type, and the bytes of the object. The tables here repeat the field numbers of
//! `generated.proto`. A field that they do not know is an error, because dropping what a client asked for is worse than
//! refusing it.

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::Error;

const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may lie in each other: `kubectl` needs four.
const DEPTH: usize = 16;

/// How a field is read.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Bytes,
    Bool,
    Number,
    Time,
    Texts,
    /// Text by text.
    Map,
    /// Bytes by text.
    ByteMap,
    Message(&'static [Field]),
    Messages(&'static [Field]),
    /// What only the server fills in.
    Ignored,
}

/// Number and name of a field, and whether its zero value means something: Go sends the others even when they are not set.
type Field = (u64, &'static str, Type, Zero);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Absent,
    Meant,
}

use Type::{Bool, ByteMap, Bytes, Ignored, Message, Messages, Number, Text, Texts, Time};
use Zero::{Absent, Meant};

const OWNER_REFERENCE: &[Field] = &[
    (1, "kind", Text, Absent),
    (3, "name", Text, Absent),
    (4, "uid", Text, Absent),
    (5, "apiVersion", Text, Absent),
    (6, "controller", Bool, Meant),
    (7, "blockOwnerDeletion", Bool, Meant),
];

const METADATA: &[Field] = &[
    (1, "name", Text, Absent),
    (2, "generateName", Text, Absent),
    (3, "namespace", Text, Absent),
    (4, "selfLink", Text, Absent),
    (5, "uid", Text, Absent),
    (6, "resourceVersion", Text, Absent),
    (7, "generation", Number, Absent),
    (8, "creationTimestamp", Time, Absent),
    (9, "deletionTimestamp", Time, Absent),
    (10, "deletionGracePeriodSeconds", Number, Meant),
    (11, "labels", Type::Map, Absent),
    (12, "annotations", Type::Map, Absent),
    (13, "ownerReferences", Messages(OWNER_REFERENCE), Absent),
    (14, "finalizers", Texts, Absent),
    (17, "managedFields", Ignored, Absent),
];

const OBJECT_REFERENCE: &[Field] = &[
    (1, "kind", Text, Absent),
    (2, "namespace", Text, Absent),
    (3, "name", Text, Absent),
    (4, "uid", Text, Absent),
    (5, "apiVersion", Text, Absent),
    (6, "resourceVersion", Text, Absent),
    (7, "fieldPath", Text, Absent),
];

const RESOURCE_ATTRIBUTES: &[Field] = &[
    (1, "namespace", Text, Absent),
    (2, "verb", Text, Absent),
    (3, "group", Text, Absent),
    (4, "version", Text, Absent),
    (5, "resource", Text, Absent),
    (6, "subresource", Text, Absent),
    (7, "name", Text, Absent),
];

/// The objects that can be read, by `apiVersion` and kind.
const OBJECTS: &[(&str, &str, &[Field])] = &[
    (
        "v1",
        "Namespace",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (2, "spec", Message(&[(1, "finalizers", Texts, Absent)]), Absent),
            (3, "status", Ignored, Absent),
        ],
    ),
    (
        "v1",
        "ConfigMap",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (2, "data", Type::Map, Absent),
            (3, "binaryData", ByteMap, Absent),
            (4, "immutable", Bool, Meant),
        ],
    ),
    (
        "v1",
        "Secret",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (2, "data", ByteMap, Absent),
            (3, "type", Text, Absent),
            (4, "stringData", Type::Map, Absent),
            (5, "immutable", Bool, Meant),
        ],
    ),
    (
        "v1",
        "ServiceAccount",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (2, "secrets", Messages(OBJECT_REFERENCE), Absent),
            (3, "imagePullSecrets", Messages(&[(1, "name", Text, Absent)]), Absent),
            (4, "automountServiceAccountToken", Bool, Meant),
        ],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (
                2,
                "spec",
                Message(&[
                    (1, "resourceAttributes", Message(RESOURCE_ATTRIBUTES), Absent),
                    (2, "nonResourceAttributes", Message(&[(1, "path", Text, Absent), (2, "verb", Text, Absent)]), Absent),
                ]),
                Absent,
            ),
            (3, "status", Ignored, Absent),
        ],
    ),
    (
        "authorization.k8s.io/v1",
        "SelfSubjectRulesReview",
        &[
            (1, "metadata", Message(METADATA), Absent),
            (2, "spec", Message(&[(1, "namespace", Text, Absent)]), Absent),
            (3, "status", Ignored, Absent),
        ],
    ),
    ("authentication.k8s.io/v1", "SelfSubjectReview", &[(1, "metadata", Message(METADATA), Absent), (2, "status", Ignored, Absent)]),
];

const UNKNOWN: &[Field] = &[
    (1, "type", Message(&[(1, "apiVersion", Text, Absent), (2, "kind", Text, Absent)]), Absent),
    (2, "raw", Bytes, Absent),
    (3, "contentEncoding", Text, Absent),
    (4, "contentType", Text, Absent),
];

/// The object in a body, as JSON.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    let bad = |why: String| Error::BadRequest(format!("the body is not a Kubernetes protobuf object: {why}"));
    let body = body.strip_prefix(MAGIC).ok_or_else(|| bad("it does not begin with k8s\\0".to_owned()))?;
    let envelope = read(UNKNOWN, body, "", 0).map_err(bad)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&envelope["type"]["apiVersion"]), text(&envelope["type"]["kind"]));
    let Some((.., fields)) = OBJECTS.iter().find(|(version, name, _)| *version == api_version && *name == kind) else {
        return Err(Error::UnsupportedMediaType(format!(
            "protobuf is not served for {api_version} {kind}; with kubectl, use --dry-run=client -o yaml | kubectl create -f -"
        )));
    };
    // Read as a field, so that its bytes came out as JSON carries bytes.
    let raw: ByteString = serde_json::from_value(envelope.get("raw").cloned().unwrap_or(json!(""))).map_err(|e| bad(e.to_string()))?;
    let mut object = read(fields, &raw.0, &kind, 0).map_err(bad)?;
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Ok(object)
}

/// A field's bytes on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or("it ends within a number")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long".to_owned())
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u64, Wire<'a>), String> {
    let tag = varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Number(varint(rest)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|e| e.to_string())?;
            let (bytes, after) = rest.split_at_checked(length).ok_or("it ends within a field")?;
            *rest = after;
            Wire::Bytes(bytes)
        }
        other => return Err(format!("wire type {other}")),
    };
    Ok((tag >> 3, wire))
}

fn read(fields: &[Field], mut rest: &[u8], path: &str, depth: usize) -> Result<Value, String> {
    if depth > DEPTH {
        return Err(format!("{path} lies too deep"));
    }
    let mut object = Map::new();
    while !rest.is_empty() {
        let (number, wire) = next(&mut rest)?;
        let Some((_, name, kind, zero)) = fields.iter().find(|(known, ..)| *known == number) else {
            return Err(format!("field {number} of {path} is not known"));
        };
        let path = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        let misfit = || format!("{path} has another type");
        match (kind, wire) {
            (Ignored, _) => {}
            (Bool, Wire::Number(value)) => insert(&mut object, name, json!(value != 0), *zero),
            (Number, Wire::Number(value)) => insert(&mut object, name, json!(value.cast_signed()), *zero),
            (Text, Wire::Bytes(bytes)) => insert(&mut object, name, json!(text(bytes, &path)?), *zero),
            (Bytes, Wire::Bytes(bytes)) => insert(&mut object, name, json!(ByteString(bytes.to_vec())), *zero),
            (Time, Wire::Bytes(bytes)) => insert(&mut object, name, time(bytes, &path)?, *zero),
            (Message(fields), Wire::Bytes(bytes)) => insert(&mut object, name, read(fields, bytes, &path, depth + 1)?, *zero),
            (Texts, Wire::Bytes(bytes)) => push(&mut object, name, json!(text(bytes, &path)?)),
            (Messages(fields), Wire::Bytes(bytes)) => push(&mut object, name, read(fields, bytes, &path, depth + 1)?),
            (Type::Map | ByteMap, Wire::Bytes(bytes)) => {
                let value = if matches!(kind, ByteMap) { Bytes } else { Text };
                let entry = read(&[(1, "key", Text, Meant), (2, "value", value, Meant)], bytes, &path, depth + 1)?;
                let key = entry["key"].as_str().unwrap_or_default().to_owned();
                if let Some(map) = object.entry(*name).or_insert_with(|| json!({})).as_object_mut() {
                    map.insert(key, entry.get("value").cloned().unwrap_or_else(|| json!("")));
                }
            }
            _ => return Err(misfit()),
        }
    }
    Ok(Value::Object(object))
}

fn insert(object: &mut Map<String, Value>, name: &str, value: Value, zero: Zero) {
    let empty = match &value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    if zero == Meant || !empty {
        object.insert(name.to_owned(), value);
    }
}

fn push(object: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(list) = object.entry(name).or_insert_with(|| json!([])).as_array_mut() {
        list.push(value);
    }
}

fn text(bytes: &[u8], path: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("{path} is not UTF-8"))
}

/// A `Time` as JSON carries it; without a field it is no time.
fn time(bytes: &[u8], path: &str) -> Result<Value, String> {
    let time = read(&[(1, "seconds", Number, Meant), (2, "nanos", Number, Meant)], bytes, path, DEPTH)?;
    let Some(seconds) = time["seconds"].as_i64() else { return Ok(Value::Null) };
    let then = Timestamp::from_second(seconds).map_err(|e| format!("{path}: {e}"))?;
    Ok(json!(then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `kubectl create namespace blue` sends.
    const NAMESPACE: &[u8] =
        b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x1c\n\x14\n\x04blue\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\0\x1a\x02\n\0\x1a\0\"\0";
    /// What `kubectl create configmap m --from-literal=a=b` sends.
    const CONFIG_MAP: &[u8] =
        b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x1b\n\x11\n\x01m\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x06\n\x01a\x12\x01b\x1a\0\"\0";

    #[test]
    fn what_kubectl_sends_is_read_without_what_it_left_unset() {
        assert_eq!(decode(NAMESPACE).unwrap(), json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "blue" } }));
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": { "a": "b" } });
        assert_eq!(decode(CONFIG_MAP).unwrap(), map);
    }

    #[test]
    fn other_kinds_and_unknown_fields_are_refused() {
        let of = |kind: &[u8], raw: &[u8]| {
            let mut body = MAGIC.to_vec();
            body.extend(
                [b"\n", &[u8::try_from(kind.len()).unwrap() + 6][..], b"\n\x02v1\x12", &[u8::try_from(kind.len()).unwrap()], kind].concat(),
            );
            body.extend([b"\x12", &[u8::try_from(raw.len()).unwrap()][..], raw].concat());
            decode(&body).unwrap_err().to_string()
        };
        assert!(of(b"Service", b"").starts_with("protobuf is not served for v1 Service"));
        assert!(of(b"Namespace", b"\x7a\x01x").ends_with("field 15 of Namespace is not known"));
        assert!(of(b"Namespace", b"\x0a\x09x").ends_with("it ends within a field"));
        assert!(decode(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(tail in proptest::collection::vec(any::<u8>(), 0..64), at in 0..NAMESPACE.len()) {
            let mut body = NAMESPACE[..at].to_vec();
            body.extend(tail);
            let _ = decode(&body);
        }
    }
}
