//! Deletion: finalizers, graceful pods, and objects that hold others (namespaces, definitions) and go when empty.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::collector;
use crate::error::{Cause, Error};
use crate::kinds::{DEFINITIONS, Kind, resource_prefix};
use crate::object::{self, Object};
use crate::owners::Policy;
use crate::request::Target;
use crate::server::Server;
use crate::store::{Expect, Write, WriteError};
use crate::write::{Written, failed};

/// Deletions in flight while a namespace is emptied: enough to fill a batch of the disk.
const IN_FLIGHT: usize = 256;

/// Namespaces that everybody relies on.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// How a deletion is to be taken.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub rv: Option<String>,
    pub dry_run: bool,
    /// What becomes of dependents; as the object's finalizers say if `None`.
    pub policy: Option<Policy>,
}

impl Deletion {
    /// Reads `DeleteOptions`.
    pub fn parse(body: &Value) -> Result<Self, Error> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if !body.is_null() && !body.is_object() {
            return Err(Error::BadRequest("the body is not DeleteOptions".to_owned()));
        }
        let grace = &body["gracePeriodSeconds"];
        if !grace.is_null() && grace.as_i64().is_none_or(|seconds| seconds < 0) {
            return Err(Error::BadRequest(format!("invalid gracePeriodSeconds {grace}: want a number of seconds")));
        }
        let preconditions = &body["preconditions"];
        Ok(Self {
            grace: grace.as_i64(),
            uid: text(&preconditions["uid"]),
            rv: text(&preconditions["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
            policy: policy(&body["propagationPolicy"], &body["orphanDependents"])?,
        })
    }
}

/// The policy that `DeleteOptions` ask for, in the present or in the older way.
pub fn policy(wanted: &Value, orphan: &Value) -> Result<Option<Policy>, Error> {
    const FIELD: &str = "propagationPolicy";
    let refused = |cause: Cause| Error::Invalid { kind: "DeleteOptions.meta.k8s.io".to_owned(), name: String::new(), causes: vec![cause] };
    match (wanted, orphan) {
        (Value::Null, Value::Null) => Ok(None),
        (Value::Null, Value::Bool(orphan)) => Ok(Some(if *orphan { Policy::Orphan } else { Policy::Background })),
        (Value::Null, other) => Err(Error::BadRequest(format!("invalid orphanDependents {other}: want true or false"))),
        (_, Value::Bool(_)) => Err(refused(Cause::invalid(FIELD, wanted, "orphanDependents and deletionPropagation cannot be both set"))),
        (wanted, _) => match wanted.as_str() {
            Some("Background") => Ok(Some(Policy::Background)),
            Some("Foreground") => Ok(Some(Policy::Foreground)),
            Some("Orphan") => Ok(Some(Policy::Orphan)),
            _ => Err(refused(Cause {
                field: FIELD.to_owned(),
                reason: "FieldValueNotSupported",
                message: format!(r#"Unsupported value: {wanted}: supported values: "Background", "Foreground", "Orphan""#),
            })),
        },
    }
}

/// Whether an object marked for deletion waits for nothing any more.
pub fn is_done(kind: &Kind, object: &Object) -> bool {
    let grace = object.get("metadata").and_then(|m| m["deletionGracePeriodSeconds"].as_i64()).unwrap_or(0);
    object::is_terminating(object) && object::finalizers(object).is_empty() && grace == 0 && !holds_others(kind)
}

/// Whether objects of this kind contain others, and stay until these are gone.
pub fn holds_others(kind: &Kind) -> bool {
    kind.is_namespace() || kind.is_definition()
}

/// Seconds that the object stays for its kubelet, 0 if it goes at once.
fn grace(kind: &Kind, object: &Object, asked: Option<i64>) -> i64 {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let bound = spec["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let finished = matches!(object.get("status").unwrap_or(&Value::Null)["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !kind.is_pod() || !bound || finished {
        return 0;
    }
    let wanted = asked.or_else(|| spec["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // A second deletion may shorten the wait, not lengthen it.
    match object.get("metadata").and_then(|m| m["deletionGracePeriodSeconds"].as_i64()) {
        Some(running) => running.min(wanted),
        None => wanted,
    }
}

/// Deletes an object, or marks it for deletion. `true` when it is gone.
pub async fn delete(server: &Server, target: &Target, options: &Deletion) -> Result<(bool, Written), Error> {
    let kind = server.kind(target)?;
    let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    if kind.is_namespace() && IMMORTAL.contains(&name) {
        let why = "this namespace may not be deleted".to_owned();
        return Err(Error::Forbidden { resource: kind.resource(), name: name.to_owned(), why });
    }
    let (gone, written) = delete_one(server, &kind, namespace, name, options).await?;
    if options.dry_run {
        return Ok((gone, written));
    }
    if holds_others(&kind) {
        let key = kind.key(namespace, name);
        empty(server, &kind, name).await?;
        close(server, &kind, name).await?;
        return Ok((server.store().latest(&key).is_none(), written));
    }
    if gone {
        after_removal(server, &kind, namespace).await?;
    }
    Ok((gone, written))
}

async fn delete_one(
    server: &Server,
    kind: &Kind,
    namespace: Option<&str>,
    name: &str,
    options: &Deletion,
) -> Result<(bool, Written), Error> {
    let key = kind.key(namespace, name);
    loop {
        let Some(entry) = server.store().latest(&key) else {
            return Err(Error::NotFound { resource: kind.resource(), name: name.to_owned() });
        };
        let old = object::decode(&entry)?;
        check_preconditions(kind, name, &old, entry.rv, options)?;
        let grace = grace(kind, &old, options.grace);
        let mut marked = old.clone();
        options.policy.unwrap_or_else(|| Policy::of(&old)).set(&mut marked);
        if !object::is_terminating(&old) {
            object::set_meta(&mut marked, "deletionTimestamp", Some(json!(object::now())));
            if kind.counts_generations() {
                let generation = old.get("metadata").and_then(|m| m["generation"].as_i64()).unwrap_or(1);
                object::set_meta(&mut marked, "generation", Some(json!(generation + 1)));
            }
        }
        object::set_meta(&mut marked, "deletionGracePeriodSeconds", Some(json!(grace)));
        if kind.is_namespace() {
            marked.insert("status".to_owned(), json!({ "phase": "Terminating" }));
        }
        let remove = is_done(kind, &marked);
        // What is removed at once was never seen terminating.
        let object = object::encode(if remove && !object::is_terminating(&old) { &old } else { &marked })?;
        if options.dry_run {
            return Ok((remove, Written::plain(object.with_rv(entry.rv))));
        }
        if !remove && marked == old {
            return Ok((false, Written::plain(entry.bytes)));
        }
        let write = Write { key: &key, expect: Expect::At(entry.rv), guards: &[], empty: &[], remove, object };
        match server.store().write(write).await {
            Ok(bytes) => {
                collector::notice(server, kind, Some(&old), (!remove).then_some(&marked));
                return Ok((remove, Written::plain(bytes)));
            }
            Err(WriteError::Changed) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The object must be the one, and in the state, that is meant.
fn check_preconditions(kind: &Kind, name: &str, old: &Object, rv: u64, options: &Deletion) -> Result<(), Error> {
    let why = match (&options.uid, &options.rv, object::meta(old, "uid").unwrap_or_default()) {
        (Some(uid), _, now) if uid != now => {
            format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({now}). The object might have been deleted and then recreated"
            )
        }
        (_, Some(asked), _) if *asked != rv.to_string() => {
            format!(
                "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({rv}). The object might have been modified"
            )
        }
        _ => return Ok(()),
    };
    Err(Error::Conflict { resource: kind.qualified(), name: name.to_owned(), why })
}

/// What the keys of everything inside a namespace or of a definition start with.
fn insides(server: &Server, kind: &Kind, name: &str) -> Vec<String> {
    if kind.is_definition() {
        return vec![format!("{name}/")];
    }
    let mut prefixes: Vec<_> = server.kinds().iter().filter(|k| k.namespaced).map(|k| format!("{}{name}/", k.prefix())).collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// Deletes everything inside.
async fn empty(server: &Server, kind: &Kind, name: &str) -> Result<(), Error> {
    let kinds = server.kinds();
    let mut insides = futures::stream::iter(server.store().latest_keys(&insides(server, kind, name)))
        .filter_map(|key| {
            let found = kinds.iter().find(|kind| key.starts_with(&kind.prefix())).cloned();
            std::future::ready(found.map(|kind| (key, kind)))
        })
        .map(|(key, kind)| async move {
            let path = &key[kind.prefix().len()..];
            let (namespace, name) = path.split_once('/').map_or((None, path), |(namespace, name)| (Some(namespace), name));
            match delete_one(server, &kind, namespace, name, &Deletion::default()).await {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(IN_FLIGHT);
    while let Some(outcome) = insides.next().await {
        outcome?;
    }
    Ok(())
}

/// Removes a namespace or definition that is marked for deletion and holds nothing.
pub async fn close(server: &Server, kind: &Kind, name: &str) -> Result<(), Error> {
    let key = kind.key(None, name);
    loop {
        let Some(entry) = server.store().latest(&key) else {
            return Ok(());
        };
        let object = object::decode(&entry)?;
        if !object::is_terminating(&object) || !object::finalizers(&object).is_empty() {
            return Ok(());
        }
        let insides = insides(server, kind, name);
        let encoded = object::encode(&object)?;
        let write = Write { key: &key, expect: Expect::At(entry.rv), guards: &[], empty: &insides, remove: true, object: encoded };
        match server.store().write(write).await {
            Ok(_) => {
                collector::notice(server, kind, Some(&object), None);
                return Ok(());
            }
            Err(WriteError::NotEmpty) => return Ok(()),
            Err(WriteError::Changed) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// What held the removed object may have waited for that.
pub async fn after_removal(server: &Server, kind: &Kind, namespace: Option<&str>) -> Result<(), Error> {
    let holders = [
        namespace.map(|name| (resource_prefix("namespaces", ""), "", "namespaces", name.to_owned())),
        kind.definition.as_ref().map(|_| {
            (resource_prefix("customresourcedefinitions", DEFINITIONS), DEFINITIONS, "customresourcedefinitions", kind.resource())
        }),
    ];
    for (prefix, group, plural, name) in holders.into_iter().flatten() {
        let Some(entry) = server.store().latest(&format!("{prefix}{name}")) else {
            continue;
        };
        if object::is_terminating(&object::decode(&entry)?) {
            close(server, &*server.built_in(group, plural)?, &name).await?;
        }
    }
    Ok(())
}

/// Takes up deletions that a crash interrupted.
pub async fn resume(server: &Server) -> Result<(), Error> {
    for (group, plural) in [("", "namespaces"), (DEFINITIONS, "customresourcedefinitions")] {
        let kind = server.built_in(group, plural)?;
        let prefix = kind.prefix();
        for key in server.store().keys(&prefix) {
            let Some(entry) = server.store().latest(&key) else { continue };
            if object::is_terminating(&object::decode(&entry)?) {
                let name = &key[prefix.len()..];
                empty(server, &kind, name).await?;
                close(server, &kind, name).await?;
            }
        }
    }
    Ok(())
}
