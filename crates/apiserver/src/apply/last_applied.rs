//! Objects that `kubectl apply` once wrote without server-side apply: their annotation says what it wanted, so that `kubectl`
//! may go on with its own fields.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#upgrading-from-client-side-apply-to-server-side-apply>

use serde_json::{Value, json};

use super::compare;
use super::managed::{Conflict, Writer};
use super::schema::Schema;
use crate::kinds::Kind;
use crate::object::Object;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The one manager that this is for.
const KUBECTL: &str = "kubectl";

fn annotation(object: &Object) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// Whether all conflicts are about fields that `kubectl` wanted before.
pub fn allows(kind: &Kind, live: &Object, writer: Writer<'_>, conflicts: &[Conflict]) -> bool {
    let Some(text) = annotation(live).filter(|_| writer.manager == KUBECTL) else { return false };
    let Ok(config) = serde_json::from_str::<Value>(text) else { return false };
    let Ok(wanted) = compare::fields(&config, Schema::of(kind)) else { return false };
    conflicts.iter().all(|conflict| {
        let mut fields = conflict.fields.clone();
        fields.subtract(&wanted);
        fields.is_empty()
    })
}

/// Keeps the annotation true, where there is one.
pub fn renew(live: &Object, merged: &mut Object, config: &Object, writer: Writer<'_>) {
    if writer.manager != KUBECTL || !writer.subresource.is_empty() || annotation(live).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    if let Some(annotations) = merged.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut) {
        annotations.insert(ANNOTATION.to_owned(), json!(format!("{}\n", Value::Object(config))));
    }
}
