//! Server-side apply: a configuration is laid over the live object, and its fields belong to whoever applied it.
//!
//! The algorithm is that of structured-merge-diff, which the real server uses: what an applier named before, names no more
//! and nobody else owns is removed; a field that another owns is changed by force only. All other writes are compared with
//! what they found, so that what they changed is theirs.
//!
//! That costs a write one walk over two objects that it has at hand, which allocates for differences only. Entries stay text
//! until a write changes the object, never become a tree of values, and those of many updates are folded into one.
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/>

mod compare;
mod field_set;
mod last_applied;
mod managed;
mod manager;
mod merge;
mod schema;

use serde_json::{Map, Value, json};

pub use managed::{Managed, Writer};
pub use manager::{MEDIA, check_options, manager};

use crate::error::{Cause, Error};
use crate::kinds::Kind;
use crate::object::{self, Object, Stored};
use field_set::FieldSet;
use managed::Conflict;
use schema::Schema;

/// Owner of all that an object has when it is applied to and nobody is known to own anything.
const BEFORE: &str = "before-first-apply";

/// What a write makes of an object.
#[derive(Debug)]
pub struct Change {
    pub object: Value,
    /// Who owns what afterwards, if the write has decided that.
    pub owners: Option<Managed>,
}

impl From<Value> for Change {
    fn from(object: Value) -> Self {
        Self { object, owners: None }
    }
}

/// Takes `managedFields` out of an object.
pub fn take(object: &mut Object) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Owners after a write that is not an apply; on creation `old` is empty. Objects whose owners are unknown are left so.
pub fn update(managed: &mut Managed, kind: &Kind, old: &Object, new: &Object, writer: Writer<'_>, now: &str) {
    if managed.is_empty() && !old.is_empty() {
        return;
    }
    record(managed, kind, old, new, writer, now);
}

fn record(managed: &mut Managed, kind: &Kind, old: &Object, new: &Object, writer: Writer<'_>, now: &str) {
    let mut changes = compare::changes(old, new, Schema::of(kind));
    for set in [&mut changes.set, &mut changes.removed] {
        limit(set, kind, writer);
    }
    managed.update(writer, changes, now);
}

/// Leaves the fields that a write can reach, which it owns then.
fn limit(set: &mut FieldSet, kind: &Kind, writer: Writer<'_>) {
    if !writer.subresource.is_empty() && kind.admission.is_none() {
        set.remove(&["f:spec"]);
    } else if !writer.subresource.is_empty() {
        set.keep(&format!("f:{}", writer.subresource));
    } else if kind.status {
        set.remove(&["f:status"]);
    }
    if kind.is_namespace() {
        set.remove(&["f:spec"]);
    }
}

/// Reads a configuration: YAML, and so JSON.
pub fn decode(body: &[u8]) -> Result<Value, Error> {
    serde_norway::from_slice(body).map_err(|why| Error::BadRequest(format!("error decoding YAML: {why}")))
}

fn version_and_kind(object: &Object) -> String {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text("apiVersion");
    let group = if version.contains('/') { "" } else { "/" };
    format!("{group}{version}, Kind={}", text("kind"))
}

/// A configuration as it was sent, the part of it that the write reaches, and the fields of that.
struct Config<'a> {
    whole: &'a Object,
    reached: Object,
    fields: FieldSet,
}

fn config<'a>(kind: &Kind, name: &str, body: &'a Value, writer: Writer<'_>) -> Result<Config<'a>, Error> {
    let Value::Object(whole) = body else {
        return Err(Error::BadRequest("error decoding YAML: the body is not an object".to_owned()));
    };
    let expected = format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind);
    let found = version_and_kind(whole);
    if found != expected {
        return Err(Error::BadRequest(format!("invalid object type: {found}; expected {expected}")));
    }
    let metadata = whole.get("metadata").unwrap_or(&Value::Null);
    if !metadata["managedFields"].is_null() {
        return Err(Error::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let misfit = |why: String| {
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        Error::BadRequest(format!("failed to create typed patch object ({namespace}/{name}; {expected}): {why}"))
    };
    check_declared(kind, whole).map_err(misfit)?;
    let mut reached = whole.clone();
    if !writer.subresource.is_empty() {
        reached.retain(|field, _| field == writer.subresource);
    } else if kind.status {
        reached.remove("status");
    }
    let schema = Schema::of(kind);
    let fields = compare::fields(&Value::Object(reached.clone()), schema).map_err(misfit)?;
    // What belongs to the object rather than the part still says which object is meant.
    for field in ["uid", "resourceVersion"] {
        if let Some(value) = metadata.get(field).filter(|value| !value.is_null()) {
            reached.entry("metadata").or_insert_with(|| json!({}))[field] = value.clone();
        }
    }
    Ok(Config { whole, reached, fields })
}

/// A configuration must not name a field that its kind does not have, whatever `fieldValidation` says.
fn check_declared(kind: &Kind, config: &Object) -> Result<(), String> {
    let mut config = config.clone();
    let unknown = match (&kind.admission, kind.typed) {
        (Some(admission), _) => admission.prune_and_default(&mut config),
        (None, Some(typed)) => (typed.check)(&mut config).map_err(|why| format!(".{why}"))?,
        (None, None) => Vec::new(),
    };
    let said: Vec<_> = unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
    match said.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("errors:\n  {}", several.join("\n  "))),
    }
}

/// Owners of an object that a configuration creates.
pub fn created(kind: &Kind, name: &str, body: &Value, writer: Writer<'_>, now: &str) -> Result<Managed, Error> {
    let config = config(kind, name, body, writer)?;
    let metadata = config.whole.get("metadata").unwrap_or(&Value::Null);
    if metadata["name"].as_str().is_none_or(str::is_empty) {
        let why = format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
        return Err(Error::BadRequest(why));
    }
    if let Some(uid) = metadata["uid"].as_str().filter(|uid| !uid.is_empty()) {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Error::Conflict { resource: kind.resource(), name: name.to_owned(), why });
    }
    let mut managed = Managed::default();
    if !config.fields.is_empty() {
        managed.claim(writer, config.fields, now);
    }
    Ok(managed)
}

/// Lays a configuration over the live object.
pub fn onto(kind: &Kind, live: &Stored, body: &Value, writer: Writer<'_>, force: bool, now: &str) -> Result<Change, Error> {
    let (live, mut managed) = (&live.object, Managed::stored(live.owners.as_deref()));
    let name = object::meta(live, "name").unwrap_or_default();
    let config = config(kind, name, body, writer)?;
    let schema = Schema::of(kind);
    // Whoever names nothing takes nothing from anybody.
    if managed.is_empty() && !config.fields.is_empty() {
        let before = Writer { manager: BEFORE, ..writer };
        record(&mut managed, kind, &Map::new(), live, before, now);
    }
    let merged = merge::merge(Some(&Value::Object(live.clone())), &Value::Object(config.reached.clone()), schema);
    let Value::Object(mut merged) = merged else {
        return Err(Error::Internal("two merged objects are no object".to_owned()));
    };
    let mut abandoned = managed.claim(writer, config.fields.clone(), now).with_named_fields(schema);
    abandoned.subtract(&managed.owned().with_named_fields(schema));
    merge::remove(&mut merged, &abandoned, schema);
    let changes = compare::changes(live, &merged, schema);
    let conflicts = managed.conflicts(writer, &changes.set);
    if !force && !conflicts.is_empty() && !last_applied::allows(kind, live, writer, &conflicts) {
        return Err(refused(&conflicts));
    }
    managed.release(writer, &changes);
    last_applied::renew(live, &mut merged, config.whole, writer);
    Ok(Change { object: Value::Object(merged), owners: Some(managed) })
}

/// The refusal in the words of the real server, by which clients tell what to do.
fn refused(conflicts: &[Conflict]) -> Error {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for Conflict { manager, fields } in conflicts {
        let paths = fields.paths();
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
        let cause = |field: String| Cause { field, reason: "FieldManagerConflict", message: format!("conflict with {manager}") };
        causes.extend(paths.into_iter().map(cause));
    }
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        several => format!("Apply failed with {} conflicts: {}", several.len(), lines.join("\n")),
    };
    Error::ApplyConflict { message, causes }
}
