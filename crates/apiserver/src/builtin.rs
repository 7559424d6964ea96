//! What the server itself fills in and checks on built-in kinds, and the rules for names.

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::error::Cause;
use crate::kinds::Kind;
use crate::object::{self, Object};
use crate::{owners, pod};

/// Whether `name` is an RFC 1123 label of at most 63 letters.
pub fn is_label(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|&c| edge(c))
        && bytes.last().is_some_and(|&c| edge(c))
        && bytes.iter().all(|&c| edge(c) || c == b'-')
}

/// Whether `name` is an RFC 1123 subdomain of at most 253 letters.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

fn is_label_of_any_length(label: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.first().is_some_and(|&c| edge(c)) && bytes.last().is_some_and(|&c| edge(c)) && bytes.iter().all(|&c| edge(c) || c == b'-')
}

/// The rules for names, in the words that every client of Kubernetes knows.
pub const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
    with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
    start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with a name of this kind.
pub fn check_name(kind: &Kind, name: &str) -> Option<Cause> {
    let label = kind.is_namespace() || kind.is("", "Service");
    let (good, rule) = if label { (is_label(name), LABEL) } else { (is_subdomain(name), SUBDOMAIN) };
    (!good).then(|| Cause::invalid("metadata.name", &json!(name), rule))
}

/// Labels, annotations, finalizers and owners must have the form that every reader assumes.
pub fn check_metadata(kind: &Kind, object: &Object) -> Vec<Cause> {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let mut causes = owners::check(metadata);
    for field in ["labels", "annotations"] {
        for (name, value) in metadata[field].as_object().into_iter().flatten() {
            let path = format!("metadata.{field}");
            let (prefix, part) = name.split_once('/').map_or((None, name.as_str()), |(prefix, part)| (Some(prefix), part));
            if !prefix.is_none_or(is_subdomain) {
                causes.push(Cause::invalid(&path, &json!(name), format!("prefix part {SUBDOMAIN}")));
            }
            if !is_qualified_part(part) {
                causes.push(Cause::invalid(&path, &json!(name), NAME_PART));
            }
            let text = value.as_str();
            if text.is_none() || (field == "labels" && text.is_some_and(|t| !t.is_empty() && !is_qualified_part(t))) {
                causes.push(Cause::invalid(&path, value, LABEL_VALUE));
            }
        }
    }
    for (at, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        if !is_qualified_part(name.rsplit_once('/').map_or(name, |(_, part)| part)) {
            causes.push(Cause::invalid("metadata.finalizers", finalizer, NAME_PART));
        }
        if kind.admission.is_none() && !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(format!("metadata.finalizers[{at}]"), finalizer, why));
        }
    }
    causes
}

fn is_qualified_part(part: &str) -> bool {
    let edge = |c: u8| c.is_ascii_alphanumeric();
    let bytes = part.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|&c| edge(c))
        && bytes.last().is_some_and(|&c| edge(c))
        && bytes.iter().all(|&c| edge(c) || matches!(c, b'-' | b'_' | b'.'))
}

/// Puts what clients may say in two ways, or leave out, into the one form that is stored.
pub fn normalize(kind: &Kind, object: &mut Object) {
    if kind.is_pod() {
        pod::default(object);
    }
    if !kind.is("", "Secret") {
        return;
    }
    object.entry("type").or_insert_with(|| json!("Opaque"));
    // Text that is not a string stays, and is refused with the type.
    let Some(Value::Object(texts)) = object.get("stringData") else { return };
    if !texts.values().all(Value::is_string) {
        return;
    }
    let Some(Value::Object(texts)) = object.remove("stringData") else { return };
    if let Some(data) = object.entry("data").or_insert_with(|| json!({})).as_object_mut() {
        for (name, text) in texts {
            data.insert(name, json!(ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec())));
        }
    }
}

/// Fills in what the server decides when an object is created.
pub fn default_new(kind: &Kind, object: &mut Object) {
    // Kubelets create nodes together with their status.
    if kind.status && !kind.is("", "Node") {
        object.remove("status");
    }
    if kind.is_pod() {
        object.insert("status".to_owned(), json!({ "phase": "Pending" }));
    } else if kind.is_namespace() {
        object.insert("status".to_owned(), json!({ "phase": "Active" }));
        object.insert("spec".to_owned(), json!({ "finalizers": ["kubernetes"] }));
        if let (Some(name), Some(metadata)) =
            (object::meta(object, "name").map(str::to_owned), object.get_mut("metadata").and_then(Value::as_object_mut))
            && let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut()
        {
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
        }
    }
}

/// What is wrong with a built-in object beyond its metadata.
pub fn check(kind: &Kind, object: &Object, old: Option<&Object>) -> Vec<Cause> {
    match old {
        _ if kind.is_pod() => pod::check(object, old),
        Some(old) if old.get("immutable") == Some(&Value::Bool(true)) => check_immutable(object, old),
        _ => Vec::new(),
    }
}

/// A `ConfigMap` or `Secret` that says so stays as it is.
fn check_immutable(object: &Object, old: &Object) -> Vec<Cause> {
    let changed = ["immutable", "data", "binaryData"].into_iter().filter(|field| object.get(*field) != old.get(*field));
    changed.map(|field| Cause::forbidden(field, "field is immutable when `immutable` is set")).collect()
}
