//! Create, update and patch: one decision against the latest version of an object, taken again if it changed meanwhile.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::apply::{self, Change, Managed, Writer};
use crate::error::{Cause, Error, MODIFIED};
use crate::kinds::{Kind, resource_prefix};
use crate::lifecycle;
use crate::object::{self, Object, Stored};
use crate::request::{FieldValidation, Target};
use crate::server::Server;
use crate::store::{Entry, Expect, Write, WriteError};
use crate::{builtin, collector, definition};

/// How a write is to be taken.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub validation: FieldValidation,
    pub dry_run: bool,
    /// Only status is written.
    pub status: bool,
    /// The object is replaced, not patched.
    pub replace: bool,
    /// Who owns what is written; nobody if `None`.
    pub manager: Option<&'a str>,
}

impl<'a> Options<'a> {
    fn writer(self, api_version: &'a str) -> Writer<'a> {
        let subresource = if self.status { "status" } else { "" };
        Writer { manager: self.manager.unwrap_or_default(), api_version, subresource }
    }
}

/// What was written, and what the client should be warned of.
#[derive(Debug)]
pub struct Written {
    pub bytes: Bytes,
    pub warnings: Vec<String>,
}

impl Written {
    pub fn plain(bytes: Bytes) -> Self {
        Self { bytes, warnings: Vec::new() }
    }
}

pub fn failed(error: WriteError) -> Error {
    Error::Internal(error.to_string())
}

fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Result<(), Error> {
    if causes.is_empty() { Ok(()) } else { Err(Error::Invalid { kind: kind.qualified(), name: name.to_owned(), causes }) }
}

/// Fills in what the path says of an object's type. Only an object of a custom kind must say itself what it is.
fn check_type(kind: &Kind, object: &mut Object) -> Result<(), Error> {
    let given = |field: &str| object.get(field).filter(|value| !value.is_null()).map(|value| value.as_str().unwrap_or_default().to_owned());
    let (found, version, wanted) = (given("kind"), given("apiVersion"), kind.api_version());
    let custom = kind.admission.is_some();
    if found.is_none() && custom {
        let body = Value::Object(object.clone());
        let why = format!("Object 'Kind' is missing in '{body}' ({body})");
        return Err(Error::BadRequest(format!("the object provided is unrecognized (must be of type {}): {why}", kind.kind)));
    }
    if version.as_ref().map_or(custom, |version| *version != wanted) {
        let version = version.unwrap_or_default();
        return Err(Error::BadRequest(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if let Some(found) = found.filter(|found| *found != kind.kind) {
        if custom {
            let qualified = format!("{found}.{}", kind.group);
            let cause = Cause::invalid("kind", &json!(found), format!("must be {}", kind.kind));
            let name = object::meta(object, "name").unwrap_or_default().to_owned();
            return Err(Error::Invalid { kind: qualified, name, causes: vec![cause] });
        }
        return Err(Error::BadRequest(format!("the kind in the data (\"{found}\") does not match the expected kind ({})", kind.kind)));
    }
    object.insert("apiVersion".to_owned(), json!(wanted));
    object.insert("kind".to_owned(), json!(kind.kind));
    Ok(())
}

/// The object must be what the path says it is.
fn check_identity(kind: &Kind, namespace: Option<&str>, name: Option<&str>, value: Value) -> Result<Object, Error> {
    let Value::Object(mut object) = value else {
        return Err(Error::BadRequest("the body is not an object".to_owned()));
    };
    check_type(kind, &mut object)?;
    if !object.get("metadata").is_none_or(Value::is_object) {
        return Err(Error::BadRequest("metadata is not an object".to_owned()));
    }
    for field in ["name", "namespace", "generateName", "uid", "resourceVersion"] {
        let found = object.get("metadata").and_then(|m| m.get(field));
        if !found.is_none_or(|v| v.is_string() || v.is_null()) {
            return Err(Error::BadRequest(format!("metadata.{field} is not a string")));
        }
    }
    let finalizers = object.get("metadata").and_then(|m| m.get("finalizers")).unwrap_or(&Value::Null);
    if !finalizers.is_null() && !finalizers.as_array().is_some_and(|list| list.iter().all(Value::is_string)) {
        return Err(Error::BadRequest("metadata.finalizers is not a list of strings".to_owned()));
    }
    if let (Some(wanted), Some(found)) = (name, object::meta(&object, "name"))
        && wanted != found
    {
        return Err(Error::BadRequest(format!("the name of the object ({found}) does not match the name on the URL ({wanted})")));
    }
    // One that a cluster-wide object names is dropped.
    if namespace.is_some_and(|wanted| object::meta(&object, "namespace").is_some_and(|found| wanted != found)) {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Error::BadRequest(why.to_owned()));
    }
    object::set_meta(&mut object, "namespace", namespace.map(|n| json!(n)));
    if let Some(name) = name {
        object::set_meta(&mut object, "name", Some(json!(name)));
    }
    object::set_meta(&mut object, "selfLink", None);
    Ok(object)
}

/// Removes fields that a custom kind does not know, and refuses what a built-in type cannot hold, as `fieldValidation` asks.
fn conform(kind: &Kind, object: &mut Object, validation: FieldValidation) -> Result<Vec<String>, Error> {
    let refused = |why: String| {
        let (kind, version) = (&kind.kind, &kind.version);
        Error::BadRequest(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
    };
    let unknown = match (&kind.admission, kind.typed) {
        (Some(admission), _) => admission.prune_and_default(object),
        (None, Some(typed)) => (typed.check)(object).map_err(refused)?,
        (None, None) => Vec::new(),
    };
    let unknown: Vec<_> = unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect();
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => Err(refused(format!("strict decoding error: {}", unknown.join(", ")))),
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(unknown),
    }
}

fn check(kind: &Kind, object: &Object, old: Option<&Object>) -> Result<(), Error> {
    let name = object::meta(object, "name").unwrap_or_default();
    let mut causes = builtin::check_metadata(kind, object);
    match &kind.admission {
        Some(admission) => causes.extend(admission.check(object, old)),
        None if kind.is_definition() => causes.extend(definition::check(object)),
        None => causes.extend(builtin::check(kind, object, old)),
    }
    invalid(kind, name, causes)
}

/// The namespace must exist and not be on its way out; the write is bound to what was seen of it.
fn guards(server: &Server, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Vec<(String, u64)>, Error> {
    let forbidden = |why: String| Error::Forbidden { resource: kind.resource(), name: name.to_owned(), why };
    if kind.terminating {
        return Err(forbidden("create not allowed while custom resource definition is terminating".to_owned()));
    }
    let mut guards: Vec<_> = kind.definition.iter().cloned().collect();
    if let Some(namespace) = namespace {
        let key = format!("{}{namespace}", resource_prefix("namespaces", ""));
        let Some(entry) = server.store().latest(&key) else {
            return Err(Error::NotFound { resource: "namespaces".to_owned(), name: namespace.to_owned() });
        };
        if object::is_terminating(&object::decode(&entry)?) {
            return Err(forbidden(format!("unable to create new content in namespace {namespace} because it is being terminated")));
        }
        guards.push((key, entry.rv));
    }
    Ok(guards)
}

/// Five letters that cannot spell a word, as in generated names.
fn suffix() -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = uuid::Uuid::new_v4().into_bytes();
    bytes[..5].iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect()
}

/// Creates an object from a body.
pub async fn create(server: &Server, target: &Target, body: Value, options: Options<'_>) -> Result<Written, Error> {
    create_owned(server, target, body, options, None).await
}

/// Creates an object of which it is known who owns what, or else the writer owns all.
async fn create_owned(
    server: &Server,
    target: &Target,
    body: Value,
    options: Options<'_>,
    owners: Option<Managed>,
) -> Result<Written, Error> {
    loop {
        let kind = server.kind(target)?;
        let namespace = target.namespace.as_deref();
        let mut object = check_identity(&kind, namespace, target.name.as_deref(), body.clone())?;
        let given = apply::take(&mut object);
        if object::meta(&object, "resourceVersion").is_some() {
            return Err(Error::BadRequest("resourceVersion should not be set on objects to be created".to_owned()));
        }
        if object::meta(&object, "name").is_none() {
            let Some(stem) = object::meta(&object, "generateName").map(str::to_owned) else {
                return Err(Error::Invalid {
                    kind: kind.qualified(),
                    name: String::new(),
                    causes: vec![Cause {
                        message: "Required value: name or generateName is required".to_owned(),
                        ..Cause::required("metadata.name")
                    }],
                });
            };
            object::set_meta(&mut object, "name", Some(json!(format!("{}{}", &stem[..stem.floor_char_boundary(58)], suffix()))));
        }
        let name = object::meta(&object, "name").unwrap_or_default().to_owned();
        invalid(&kind, &name, builtin::check_name(&kind, &name).into_iter().collect())?;
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            object::set_meta(&mut object, field, None);
        }
        object::set_meta(&mut object, "uid", Some(json!(uuid::Uuid::new_v4())));
        object::set_meta(&mut object, "creationTimestamp", Some(json!(object::now())));
        if kind.counts_generations() {
            object::set_meta(&mut object, "generation", Some(json!(1)));
        }
        builtin::normalize(&kind, &mut object);
        let warnings = conform(&kind, &mut object, options.validation)?;
        builtin::default_new(&kind, &mut object);
        if kind.is_definition() {
            definition::default(&mut object);
        }
        check(&kind, &object, None)?;
        let managed = owners.clone().unwrap_or_else(|| {
            let mut managed = Managed::default();
            managed.take_over(given);
            apply::update(&mut managed, &kind, &Object::new(), &object, options.writer(&kind.api_version()), &object::now());
            managed
        });
        if kind.is_definition() {
            definition::establish(&mut object);
        }
        let guards = guards(server, &kind, namespace, &name)?;
        let key = kind.key(namespace, &name);
        let exists = || Error::AlreadyExists { resource: kind.resource(), name: name.clone() };
        if server.store().latest(&key).is_some() {
            return Err(exists());
        }
        let encoded = object::encode_owned(&object, managed.written().as_deref())?;
        if options.dry_run {
            return Ok(Written { bytes: encoded.with_rv(0), warnings });
        }
        let write = Write { key: &key, expect: Expect::Absent, guards: &guards, empty: &[], remove: false, object: encoded };
        match server.store().write(write).await {
            Ok(bytes) => {
                collector::notice(server, &kind, None, Some(&object));
                return Ok(Written { bytes, warnings });
            }
            // Somebody took the name, or the namespace changed: look again.
            Err(WriteError::Changed) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

pub fn conflict(kind: &Kind, name: &str, why: impl Into<String>) -> Error {
    Error::Conflict { resource: kind.resource(), name: name.to_owned(), why: why.into() }
}

/// Refuses a change that was made from another version or another object.
fn check_preconditions(kind: &Kind, name: &str, entry: &Entry, old: &Object, rv: Option<&str>, uid: Option<&str>) -> Result<(), Error> {
    let now = object::meta(old, "uid");
    if uid.is_some() && uid != now {
        let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", uid.unwrap_or(""), now.unwrap_or(""));
        return Err(conflict(kind, name, why));
    }
    if rv.is_some_and(|rv| rv != "0" && rv != entry.rv.to_string()) {
        return Err(conflict(kind, name, MODIFIED));
    }
    Ok(())
}

/// Changes an existing object; `change` is called again when the object changed before the write was accepted.
pub async fn modify(
    server: &Server,
    target: &Target,
    options: Options<'_>,
    change: impl Fn(&Kind, &Stored) -> Result<Change, Error>,
) -> Result<Written, Error> {
    let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    loop {
        let kind = server.kind(target)?;
        let key = kind.key(namespace, name);
        let Some(entry) = server.store().latest(&key) else {
            return Err(Error::NotFound { resource: kind.resource(), name: name.to_owned() });
        };
        let stored = Stored::read(&entry)?;
        let Change { object, owners } = change(&kind, &stored)?;
        let Stored { object: old, owners: owned } = stored;
        let mut new = check_identity(&kind, namespace, Some(name), object)?;
        let given = apply::take(&mut new).filter(|_| !options.status);
        let (rv, uid) = (object::meta(&new, "resourceVersion"), object::meta(&new, "uid"));
        if options.replace && rv.is_none() && kind.admission.is_some() {
            let missing = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(Error::Invalid { kind: kind.resource(), name: name.to_owned(), causes: vec![missing] });
        }
        if !options.replace && uid.is_some_and(|uid| Some(uid) != object::meta(&old, "uid")) {
            let cause = Cause::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(Error::Invalid { kind: kind.qualified(), name: name.to_owned(), causes: vec![cause] });
        }
        check_preconditions(&kind, name, &entry, &old, rv, uid)?;
        builtin::normalize(&kind, &mut new);
        let warnings = conform(&kind, &mut new, options.validation)?;
        let new = settle(&kind, &old, new, options.status, entry.rv);
        check_finalizers(&kind, name, &old, &new)?;
        let changed = new != old;
        let applied = owners.is_some();
        if !changed && !applied && given.is_none() {
            return Ok(Written { bytes: entry.bytes, warnings });
        }
        let mut managed = Managed::stored(owned.as_deref());
        let others = match owners {
            Some(owners) => !std::mem::replace(&mut managed, owners).is_same(&managed),
            None => managed.take_over(given),
        };
        if !changed && !others {
            return Ok(Written { bytes: entry.bytes, warnings });
        }
        check(&kind, &new, Some(&old))?;
        let (version, now) = (kind.api_version(), object::now());
        if applied {
            managed.stamp(options.writer(&version), &now);
        } else if changed && options.manager.is_some() {
            apply::update(&mut managed, &kind, &old, &new, options.writer(&version), &now);
        }
        let encoded = object::encode_owned(&new, managed.written().as_deref())?;
        if options.dry_run {
            return Ok(Written { bytes: encoded.with_rv(entry.rv), warnings });
        }
        let remove = lifecycle::is_done(&kind, &new);
        let write = Write { key: &key, expect: Expect::At(entry.rv), guards: &[], empty: &[], remove, object: encoded };
        match server.store().write(write).await {
            Ok(bytes) => {
                collector::notice(server, &kind, Some(&old), (!remove).then_some(&new));
                if remove {
                    lifecycle::after_removal(server, &kind, namespace).await?;
                } else if object::is_terminating(&new) && lifecycle::holds_others(&kind) {
                    lifecycle::close(server, &kind, name).await?;
                }
                return Ok(Written { bytes, warnings });
            }
            Err(WriteError::Changed) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Lays a configuration over an object, or creates it. `true` if it was created.
pub async fn apply(server: &Server, target: &Target, body: &Value, options: Options<'_>, force: bool) -> Result<(bool, Written), Error> {
    let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    loop {
        let kind = server.kind(target)?;
        let version = kind.api_version();
        let exists = server.store().latest(&kind.key(namespace, name)).is_some();
        if !exists && !options.status {
            let owners = apply::created(&kind, name, body, options.writer(&version), &object::now())?;
            let mut fresh = body.clone();
            // A version asks for what is there not to have changed, not for it to be there.
            if let Some(metadata) = fresh.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
            }
            match create_owned(server, target, fresh, options, Some(owners)).await {
                Err(Error::AlreadyExists { .. }) => continue,
                outcome => return outcome.map(|written| (true, written)),
            }
        }
        let change = |kind: &Kind, live: &Stored| apply::onto(kind, live, body, options.writer(&version), force, &object::now());
        match modify(server, target, options, change).await {
            // It went meanwhile.
            Err(Error::NotFound { .. }) if exists && !options.status => {}
            outcome => return outcome.map(|written| (false, written)),
        }
    }
}

/// Keeps what a client may not change, and counts the generation.
fn settle(kind: &Kind, old: &Object, mut new: Object, status_only: bool, rv: u64) -> Object {
    if status_only {
        let (status, metadata) = (new.remove("status"), new.remove("metadata"));
        new = old.clone();
        object::set(&mut new, "status", status);
        // Kubelets annotate pods and label nodes with the status that they write; of other kinds the status is all.
        if kind.is_pod() || kind.is_namespace() || kind.is("", "Node") {
            object::set(&mut new, "metadata", metadata);
        }
    } else if kind.status {
        object::set(&mut new, "status", old.get("status").cloned());
    }
    let kept = |field: &str| old.get("metadata").and_then(|m| m.get(field)).cloned();
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"] {
        object::set_meta(&mut new, field, kept(field));
    }
    object::set_meta(&mut new, "resourceVersion", Some(json!(rv.to_string())));
    // An empty list of finalizers is the absence of finalizers.
    if object::finalizers(&new).is_empty() {
        object::set_meta(&mut new, "finalizers", None);
    }
    if kind.is_definition() && !status_only {
        definition::default(&mut new);
        if old.get("spec") != new.get("spec") {
            definition::establish(&mut new);
        }
    }
    if kind.counts_generations() && wants_other(kind, old, &new) {
        let generation = old.get("metadata").and_then(|m| m["generation"].as_i64()).unwrap_or(1);
        object::set_meta(&mut new, "generation", Some(json!(generation + 1)));
    }
    new
}

/// Whether anything but metadata differs, and status where that is written apart.
fn wants_other(kind: &Kind, old: &Object, new: &Object) -> bool {
    let wanted = |object: &Object| -> Vec<(String, Value)> {
        let mut fields: Vec<_> = object
            .iter()
            .filter(|(field, _)| *field != "metadata" && !(kind.status && *field == "status"))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        // A pod that is bound is still the pod that was wanted.
        if kind.is_pod() {
            fields.iter_mut().filter_map(|(_, value)| value.as_object_mut()).for_each(|spec| drop(spec.remove("nodeName")));
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    wanted(old) != wanted(new)
}

fn check_finalizers(kind: &Kind, name: &str, old: &Object, new: &Object) -> Result<(), Error> {
    if !object::is_terminating(old) {
        return Ok(());
    }
    let known = object::finalizers(old);
    let added: Vec<_> = object::finalizers(new).into_iter().filter(|f| !known.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let added = added.iter().map(|finalizer| format!("{finalizer:?}")).collect::<Vec<_>>().join(", ");
    let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{added}}}");
    invalid(kind, name, vec![Cause::forbidden("metadata.finalizers", why)])
}
