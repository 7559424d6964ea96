//! Garbage collection: dependents go with their owners, as `metadata.ownerReferences` and the finalizers
//! `foregroundDeletion` and `orphan` say.
//!
//! Every write tells the collector which objects may now be garbage; a task works through them and ends. What it decides
//! follows from the stored objects alone, so that after a crash it is enough to look once at every object with an owner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::kinds::Kind;
use crate::lifecycle::{self, Deletion};
use crate::object::{self, Object, Stored};
use crate::owners::{self, FOREGROUND, ORPHAN, Owner, Policy};
use crate::request::{FieldValidation, Target};
use crate::server::Server;
use crate::write::{self, Options};

/// Objects looked at at once: enough to fill a batch of the disk.
const IN_FLIGHT: usize = 256;

/// A write that the collector makes of its own accord.
const PLAIN: Options<'_> = Options {
    validation: FieldValidation::Ignore,
    dry_run: false,
    status: false,
    replace: false,
    manager: Some("kube-controller-manager"),
};

#[derive(Debug, Default)]
pub struct Collector {
    queue: Mutex<Queue>,
    /// Its own, and those of requests that write.
    tasks: TaskTracker,
    stopped: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    /// Objects to look at, with owners that are known to be gone.
    waiting: BTreeMap<Arc<str>, Vec<String>>,
    /// Whether a task takes from `waiting`.
    working: bool,
}

impl Collector {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops taking up objects; what is left is found again after the next start.
    pub fn stop(&self) {
        self.stopped.cancel();
        self.tasks.close();
    }

    /// Sees work through, whether or not its caller still waits for it.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
        self.tasks.spawn(work).await.map_err(|error| Error::Internal(format!("a request ended early: {error}")))?
    }

    /// Resolves when all tasks have ended.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// Takes note of a written object: `old` is `None` if it was created, `new` if it was removed.
pub fn notice(server: &Server, kind: &Kind, old: Option<&Object>, new: Option<&Object>) {
    let Some(object) = new.or(old) else { return };
    let key: Arc<str> = kind.key(object::meta(object, "namespace"), object::meta(object, "name").unwrap_or_default()).into();
    let (before, after) = (old.map(owners::owners).unwrap_or_default(), new.map(owners::owners).unwrap_or_default());
    let mut due: Vec<(Arc<str>, Option<String>)> = Vec::new();
    // An owner may have waited for this object.
    let released = before.iter().filter(|owner| owner.blocks && !after.contains(owner));
    due.extend(released.filter_map(|owner| owner_key(server, object, owner)).map(|key| (key.into(), None)));
    let uid = object::meta(object, "uid").unwrap_or_default();
    let dependents = || server.store().referring_to(uid).into_iter();
    match new {
        None => due.extend(dependents().map(|key| (key, Some(uid.to_owned())))),
        Some(new) => {
            let awaits = owners::awaits_collector(new);
            if awaits || (!after.is_empty() && before != after) {
                due.push((key, None));
            }
            if awaits && !old.is_some_and(owners::awaits_collector) {
                due.extend(dependents().map(|key| (key, None)));
            }
        }
    }
    enqueue(server, due);
}

/// Takes up what an earlier life did not finish.
pub fn resume(server: &Server) {
    enqueue(server, server.store().referring().into_iter().map(|key| (key, None)).collect());
}

fn enqueue(server: &Server, due: Vec<(Arc<str>, Option<String>)>) {
    if due.is_empty() {
        return;
    }
    let collector = server.collector();
    let mut queue = collector.queue();
    for (key, gone) in due {
        queue.waiting.entry(key).or_default().extend(gone);
    }
    if !queue.working && !collector.stopped.is_cancelled() {
        // Requests are answered inside a runtime; without one there is nobody to work, and the next write tries again.
        if let Ok(runtime) = Handle::try_current() {
            queue.working = true;
            collector.tasks.spawn_on(work(server.clone()), &runtime);
        }
    }
}

async fn work(server: Server) {
    loop {
        let due = {
            let mut queue = server.collector().queue();
            if queue.waiting.is_empty() || server.collector().stopped.is_cancelled() {
                queue.working = false;
                return;
            }
            std::mem::take(&mut queue.waiting)
        };
        let looks = futures::stream::iter(due).map(|(key, gone)| {
            let server = &server;
            async move {
                if !server.collector().stopped.is_cancelled()
                    && let Err(error) = look(server, &key, &gone).await
                {
                    tracing::warn!(object = %key, %error, "cannot collect a dependent");
                }
            }
        });
        looks.buffer_unordered(IN_FLIGHT).collect::<()>().await;
    }
}

/// What is to be done about an object.
enum Step {
    Nothing,
    /// Its own deletion waited for nothing but this finalizer.
    Release(&'static str),
    /// Its dependents lose their reference to it, and it the finalizer.
    Orphan,
    /// It loses the references to these owners, and stays.
    Disown(Vec<String>),
    /// Owners that wait for it and it wait for each other: these owners wait no more.
    Unblock(Vec<String>),
    Delete(Policy),
}

async fn look(server: &Server, key: &str, gone: &[String]) -> Result<(), Error> {
    loop {
        let Some(entry) = server.store().latest(key) else { return Ok(()) };
        let Some(kind) = server.kind_at(key) else { return Ok(()) };
        let object = object::decode(&entry)?;
        let target = target(&kind, &object);
        let uid = object::meta(&object, "uid").unwrap_or_default();
        let outcome = match decide(server, &object, gone)? {
            Step::Nothing => return Ok(()),
            Step::Release(finalizer) => change(server, &target, uid, |object| release(object, finalizer)).await,
            Step::Orphan => {
                orphan_dependents(server, uid).await?;
                change(server, &target, uid, |object| release(object, ORPHAN)).await
            }
            Step::Disown(owners) => {
                let among = |uid: &str| owners.iter().any(|owner| owner == uid);
                change(server, &target, uid, |object| owners::change_owners(object, among, |_| false)).await
            }
            Step::Unblock(owners) => {
                let among = |uid: &str| owners.iter().any(|owner| owner == uid);
                let unblock = |reference: &mut Value| {
                    reference["blockOwnerDeletion"] = json!(false);
                    true
                };
                change(server, &target, uid, |object| owners::change_owners(object, among, unblock)).await?;
                // Now that nothing waits for it, it is deleted like any other.
                continue;
            }
            Step::Delete(policy) => {
                let (uid, rv) = (Some(uid.to_owned()), Some(entry.rv.to_string()));
                let deletion = Deletion { uid, rv, policy: Some(policy), ..Deletion::default() };
                lifecycle::delete(server, &target, &deletion).await.map(drop)
            }
        };
        match outcome {
            // It changed meanwhile: look again.
            Err(Error::Conflict { .. }) => {}
            Err(Error::NotFound { .. }) => return Ok(()),
            other => return other,
        }
    }
}

fn target(kind: &Kind, object: &Object) -> Target {
    let part = |field: &str| object::meta(object, field).map(str::to_owned);
    Target {
        group: kind.group.clone(),
        version: kind.version.clone(),
        plural: kind.plural.clone(),
        namespace: part("namespace"),
        name: part("name"),
        subresource: None,
    }
}

fn decide(server: &Server, object: &Object, gone: &[String]) -> Result<Step, Error> {
    let uid = object::meta(object, "uid").unwrap_or_default();
    if object::is_terminating(object) {
        return Ok(match Policy::of(object) {
            Policy::Background => Step::Nothing,
            Policy::Orphan => Step::Orphan,
            Policy::Foreground if has_blocking_dependents(server, uid)? => Step::Nothing,
            Policy::Foreground => Step::Release(FOREGROUND),
        });
    }
    let (mut solid, mut absent, mut waiting) = (false, Vec::new(), Vec::new());
    for owner in owners::owners(object) {
        let state = if gone.contains(&owner.uid) { State::Absent } else { state_of(server, object, &owner)? };
        match state {
            State::Solid => solid = true,
            State::Absent => absent.push(owner.uid),
            State::Waiting => waiting.push(owner.uid),
            // Nothing is decided about an object of whose owners too little is known.
            State::Unknown => return Ok(Step::Nothing),
        }
    }
    if absent.is_empty() && waiting.is_empty() {
        return Ok(Step::Nothing);
    }
    if solid {
        absent.append(&mut waiting);
        return Ok(Step::Disown(absent));
    }
    if waiting.is_empty() {
        return Ok(Step::Delete(Policy::of(object)));
    }
    let mut policy = Policy::of(object);
    for key in server.store().referring_to(uid) {
        let Some(entry) = server.store().latest(&key) else { continue };
        policy = Policy::Foreground;
        let dependent = object::decode(&entry)?;
        let blocks = owners::owners(object).iter().any(|owner| owner.blocks && waiting.contains(&owner.uid));
        if blocks && object::is_terminating(&dependent) && Policy::of(&dependent) == Policy::Foreground {
            return Ok(Step::Unblock(waiting));
        }
    }
    Ok(Step::Delete(policy))
}

fn has_blocking_dependents(server: &Server, uid: &str) -> Result<bool, Error> {
    for key in server.store().referring_to(uid) {
        let Some(entry) = server.store().latest(&key) else { continue };
        if owners::owners(&object::decode(&entry)?).iter().any(|owner| owner.uid == uid && owner.blocks) {
            return Ok(true);
        }
    }
    Ok(false)
}

enum State {
    Solid,
    Absent,
    /// Being deleted, and waiting for its dependents.
    Waiting,
    /// Of a kind that is not served, or where it cannot be.
    Unknown,
}

fn state_of(server: &Server, dependent: &Object, owner: &Owner) -> Result<State, Error> {
    let Some(key) = owner_key(server, dependent, owner) else { return Ok(State::Unknown) };
    let Some(entry) = server.store().latest(&key) else { return Ok(State::Absent) };
    let found = object::decode(&entry)?;
    Ok(match object::meta(&found, "uid") {
        Some(uid) if uid == owner.uid => {
            let waits = object::is_terminating(&found) && Policy::of(&found) == Policy::Foreground;
            if waits { State::Waiting } else { State::Solid }
        }
        // A namesake is not the owner.
        _ => State::Absent,
    })
}

/// Where the owner is, if it is: in the namespace of the dependent, or in none.
fn owner_key(server: &Server, dependent: &Object, owner: &Owner) -> Option<String> {
    let kind = server.kind_named(&owner.group, &owner.version, &owner.kind)?;
    match (kind.namespaced, object::meta(dependent, "namespace")) {
        (true, None) => None,
        (true, namespace) => Some(kind.key(namespace, &owner.name)),
        (false, _) => Some(kind.key(None, &owner.name)),
    }
}

fn release(object: &mut Object, finalizer: &str) {
    let left: Vec<_> = object::finalizers(object).into_iter().filter(|f| *f != finalizer).map(str::to_owned).collect();
    object::set_meta(object, "finalizers", Some(json!(left)));
}

/// Changes the metadata of the object, if it is still the one with this uid.
async fn change(server: &Server, target: &Target, uid: &str, change: impl Fn(&mut Object)) -> Result<(), Error> {
    let changed = |_: &Kind, old: &Stored| {
        let mut new = old.object.clone();
        // Of a namesake, the precondition fails.
        object::set_meta(&mut new, "uid", Some(json!(uid)));
        change(&mut new);
        Ok(Value::Object(new).into())
    };
    write::modify(server, target, PLAIN, changed).await.map(drop)
}

async fn orphan_dependents(server: &Server, uid: &str) -> Result<(), Error> {
    for key in server.store().referring_to(uid) {
        let (Some(entry), Some(kind)) = (server.store().latest(&key), server.kind_at(&key)) else { continue };
        let dependent = object::decode(&entry)?;
        let of = object::meta(&dependent, "uid").unwrap_or_default();
        let target = target(&kind, &dependent);
        let disown = |object: &mut Object| owners::change_owners(object, |owner| owner == uid, |_| false);
        match change(server, &target, of, disown).await {
            Ok(()) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
