//! The server: its store and kinds, and the way from a request to the verb that answers it.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::collector::{self, Collector};
use crate::disk::DiskError;
use crate::error::Error;
use crate::kinds::{Kind, Kinds};
use crate::lifecycle::{self, Deletion};
use crate::patch::Patch;
use crate::read::{self, json_response};
use crate::request::{self, BODY_LIMIT, Query, Shape, Target};
use crate::store::{Expect, Store, Write};
use crate::write::{self, Options, Written};
use crate::{apply, discovery, events, object, openapi, openapi_v2, owners, redirect, reviews, shape, watch};

/// Events kept per resource for watches.
const HISTORY: usize = 16_384;

/// Namespaces that exist from the beginning.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// An embedded Kubernetes API. Clones share one store.
#[derive(Clone, Debug)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    kinds: Kinds,
    collector: Collector,
    shutdown: CancellationToken,
}

impl Server {
    /// Opens the database in `data`, or keeps everything in memory.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub fn open(data: Option<&Path>) -> Result<Self, DiskError> {
        Self::open_with_history(data, HISTORY)
    }

    /// As [`Server::open`], keeping `events` changes per resource for watches that reconnect.
    ///
    /// # Errors
    /// When the database cannot be opened or read.
    pub fn open_with_history(data: Option<&Path>, events: usize) -> Result<Self, DiskError> {
        let store = Store::open(data, events.max(1), owners::references_in)?;
        let (collector, shutdown) = (Collector::default(), CancellationToken::new());
        let server = Self(Arc::new(Inner { store, kinds: Kinds::new(), collector, shutdown }));
        server.create_first_namespaces();
        Ok(server)
    }

    /// The API without a token, for use in this process.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    /// A client that talks to this server without a socket.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.router(), "default")
    }

    /// Ends all watches. Everything else goes on being answered.
    pub fn end_watches(&self) {
        self.0.shutdown.cancel();
    }

    /// Ends all watches and closes the database, whoever still holds a clone or a client. Blocks for the last commit.
    pub fn close(&self) {
        self.end_watches();
        self.0.collector.stop();
        self.0.store.close();
    }

    /// Takes up what an earlier life did not finish: deletions of namespaces and definitions, which are complete when this
    /// resolves, and garbage collection, which goes on meanwhile.
    ///
    /// # Errors
    /// When the database refuses a write.
    pub async fn resume(&self) -> Result<(), Error> {
        collector::resume(self);
        lifecycle::resume(self).await
    }

    /// Lets garbage collection end where it is.
    pub(crate) async fn end_collection(&self) {
        self.0.collector.stop();
        self.0.collector.stopped().await;
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    pub(crate) fn kinds(&self) -> Vec<Arc<Kind>> {
        self.0.kinds.all(&self.0.store)
    }

    /// The kind that a key belongs to.
    pub(crate) fn kind_at(&self, key: &str) -> Option<Arc<Kind>> {
        self.0.kinds.at(&self.0.store, key)
    }

    /// The kind that a reference names.
    pub(crate) fn kind_named(&self, group: &str, version: &str, name: &str) -> Option<Arc<Kind>> {
        self.0.kinds.named(&self.0.store, group, version, name)
    }

    /// The kind that a target names.
    pub(crate) fn kind(&self, target: &Target) -> Result<Arc<Kind>, Error> {
        self.0.kinds.find(&self.0.store, &target.group, &target.version, &target.plural).ok_or(Error::NoSuchEndpoint)
    }

    pub(crate) fn built_in(&self, group: &str, plural: &str) -> Result<Arc<Kind>, Error> {
        self.0.kinds.find(&self.0.store, group, "v1", plural).ok_or(Error::NoSuchEndpoint)
    }

    /// Returns when they are durable and can be seen.
    fn create_first_namespaces(&self) {
        for name in NAMESPACES {
            let key = format!("namespaces/{name}");
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {
                    "name": name, "uid": uuid::Uuid::new_v4(), "creationTimestamp": object::now(),
                    "labels": { "kubernetes.io/metadata.name": name },
                },
                "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
            });
            if let Some(object) = namespace.as_object().and_then(|object| object::encode(object).ok()) {
                // Refused when the namespace exists already, which is as good.
                let write = Write { key: &key, expect: Expect::Absent, guards: &[], empty: &[], remove: false, object };
                if let Ok(done) = self.0.store.submit(&write) {
                    let _ = futures::executor::block_on(done);
                }
            }
        }
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response<Body> {
    let outcome = if request.method() == Method::GET {
        respond(&server, request).await
    } else {
        // A write has consequences, and a client that hangs up must not leave them undone.
        let working = server.clone();
        server.collector().run(async move { respond(&working, request).await }).await
    };
    outcome.unwrap_or_else(|error| refusal(&error))
}

pub(crate) fn refusal(error: &Error) -> Response<Body> {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_response(code, error.status().to_string())
}

async fn respond(server: &Server, request: Request) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    if request.method() == Method::GET {
        let known = discovery::answer(server, path).or_else(|| openapi::answer(server, path));
        if let Some(body) = known {
            return Ok(json_response(StatusCode::OK, body.to_string()));
        }
        if path == "/openapi/v2" {
            let mut response = Response::new(Body::from(openapi_v2::document()));
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(openapi_v2::MEDIA));
            return Ok(response);
        }
        if matches!(path, "/healthz" | "/livez" | "/readyz") {
            return Ok(Response::new(Body::from("ok")));
        }
    }
    let path = percent_decoded(path)?;
    if request.method() == Method::POST
        && let Some(kind) = reviews::at(&path)
    {
        let media = request::media_type(request.headers());
        let review = request::decode_body(&media, &whole_body(request).await?)?;
        return Ok(json_response(StatusCode::CREATED, reviews::answer(kind, review)?.to_string()));
    }
    let mut target = Target::parse(&path).ok_or(Error::NoSuchEndpoint)?;
    let query = Query::parse(request.uri())?;
    let mut shape = request::shape(request.headers(), &query)?;
    // The newer face of events is put on at the edge; inside there is one kind.
    let new_events = target.group == events::GROUP && server.kind(&target).is_ok();
    if new_events {
        target.group.clear();
        if shape == Shape::Full {
            shape = Shape::NewEvents;
        }
    }
    let target = target;
    let inward = |body: Value| if new_events { events::to_stored(body) } else { body };
    let kind = server.kind(&target)?;
    if target.name.is_some() && kind.namespaced != target.namespace.is_some() {
        return Err(Error::NoSuchEndpoint);
    }
    if !kind.namespaced && target.namespace.is_some() {
        return Err(Error::NoSuchEndpoint);
    }
    let media = request::media_type(request.headers());
    let manager = apply::manager(&query, request.headers());
    let method = request.method().clone();
    if let Some(refusal) = redirect::refusal(server, &kind, &target, &query) {
        return Err(refusal);
    }
    let status = match target.subresource.as_deref() {
        None => false,
        Some("status") if kind.status => true,
        Some("binding") if kind.is_pod() && method == Method::POST => false,
        Some(_) => return Err(Error::NoSuchEndpoint),
    };
    if method == Method::GET {
        let watching = query.flag("watch")?;
        return match (&target.name, watching) {
            (_, true) if !status => watch::open(server, kind, &target, &query, shape),
            (Some(_), _) => read::get(server, &kind, &target, shape),
            (None, _) => read::list(server, &kind, &target, &query, shape),
        };
    }
    let body = whole_body(request).await?;
    apply::check_options(&method, &media, &query)?;
    let options = Options {
        validation: query.field_validation()?,
        dry_run: query.dry_run()?,
        status,
        replace: method == Method::PUT,
        manager: Some(&manager),
    };
    match (&method, &target.name, target.subresource.as_deref()) {
        (&Method::POST, None, None) => {
            if kind.namespaced && target.namespace.is_none() {
                return Err(Error::BadRequest("an empty namespace may not be set during creation".to_owned()));
            }
            let body = inward(request::decode_body(&media, &body)?);
            written(&kind, shape, StatusCode::CREATED, &write::create(server, &target, body, options).await?)
        }
        (&Method::POST, Some(_), Some("binding")) => bind(server, &target, &request::decode_body(&media, &body)?, options).await,
        (&Method::PUT, Some(_), _) => {
            let body = inward(request::decode_body(&media, &body)?);
            let outcome = write::modify(server, &target, options, |_, _| Ok(body.clone().into())).await?;
            written(&kind, shape, StatusCode::OK, &outcome)
        }
        (&Method::PATCH, Some(_), _) if media == apply::MEDIA => {
            let body = inward(apply::decode(&body)?);
            let (created, outcome) = write::apply(server, &target, &body, options, query.flag("force")?).await?;
            written(&kind, shape, if created { StatusCode::CREATED } else { StatusCode::OK }, &outcome)
        }
        (&Method::PATCH, Some(_), _) => {
            let patch = Patch::parse(&media, &body, &kind)?;
            let change = |_: &Kind, old: &object::Stored| {
                let old = Value::Object(if patch.names_owners() { old.whole()? } else { old.object.clone() });
                patch.apply(if new_events { events::to_shown(old) } else { old }).map(|new| inward(new).into())
            };
            let outcome = write::modify(server, &target, options, change).await?;
            written(&kind, shape, StatusCode::OK, &outcome)
        }
        (&Method::DELETE, Some(name), None) => {
            let options = deletion(&media, &body, &query)?;
            let (gone, outcome) = lifecycle::delete(server, &target, &options).await?;
            // Of a pod, the real server answers the last that was seen of it.
            if !gone || kind.is_pod() {
                return written(&kind, shape, StatusCode::OK, &outcome);
            }
            let object = object::parse(&outcome.bytes)?;
            let mut details = json!({ "name": name, "kind": kind.plural, "uid": object["metadata"]["uid"] });
            if !kind.group.is_empty() {
                details["group"] = json!(kind.group);
            }
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
            Ok(json_response(StatusCode::OK, status.to_string()))
        }
        (&Method::DELETE, None, None) => delete_collection(server, &kind, &target, &query, &deletion(&media, &body, &query)?).await,
        _ => Err(Error::MethodNotAllowed("the server does not allow this method on the requested resource".to_owned())),
    }
}

async fn whole_body(request: Request) -> Result<Bytes, Error> {
    axum::body::to_bytes(request.into_body(), BODY_LIMIT).await.map_err(|error| {
        let too_large = std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
        if too_large { Error::TooLarge(BODY_LIMIT) } else { Error::BadRequest(format!("cannot read the body: {error}")) }
    })
}

fn percent_decoded(path: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|&b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        if first == b'%' {
            let (Some(high), Some(low)) = (hex(0), hex(1)) else {
                return Err(Error::BadRequest(format!("invalid escape in path {path:?}")));
            };
            bytes.push(high << 4 | low);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::BadRequest(format!("path {path:?} is not UTF-8")))
}

fn written(kind: &Kind, shape: Shape, code: StatusCode, outcome: &Written) -> Result<Response<Body>, Error> {
    let mut response = json_response(code, shape::one(kind, shape, &outcome.bytes)?);
    for warning in &outcome.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        // A warning that cannot travel in a header is not worth failing the write.
        if let Ok(value) = header::HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// Options of a deletion: the body's, then the query's.
fn deletion(media: &str, body: &[u8], query: &Query) -> Result<Deletion, Error> {
    let options = if body.is_empty() { Value::Null } else { request::decode_body(media, body)? };
    let mut deletion = Deletion::parse(&options)?;
    deletion.grace = deletion.grace.or(query.number::<u32>("gracePeriodSeconds")?.map(i64::from));
    if deletion.policy.is_none() {
        let asked = |name: &str| match query.get(name) {
            "" => Value::Null,
            text => json!(text),
        };
        let orphan = if query.get("orphanDependents").is_empty() { Value::Null } else { json!(query.flag("orphanDependents")?) };
        deletion.policy = lifecycle::policy(&asked("propagationPolicy"), &orphan)?;
    }
    deletion.dry_run |= query.dry_run()?;
    Ok(deletion)
}

async fn delete_collection(
    server: &Server,
    kind: &Kind,
    target: &Target,
    query: &Query,
    options: &Deletion,
) -> Result<Response<Body>, Error> {
    let page = read::page(server, kind, target, query)?;
    let mut items = Vec::new();
    for bytes in page.items {
        let Value::Object(object) = object::parse(&bytes)? else { continue };
        let part = |field: &str| object::meta(&object, field).map(str::to_owned);
        let one = Target {
            group: target.group.clone(),
            version: target.version.clone(),
            plural: target.plural.clone(),
            namespace: part("namespace"),
            name: part("name"),
            subresource: None,
        };
        match lifecycle::delete(server, &one, options).await {
            Ok((_, outcome)) => items.push(object::parse(&outcome.bytes)?),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({ "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": page.metadata, "items": items });
    Ok(json_response(StatusCode::OK, list.to_string()))
}

/// Puts a pod on a node, as schedulers do. A pod is bound once.
async fn bind(server: &Server, target: &Target, binding: &Value, options: Options<'_>) -> Result<Response<Body>, Error> {
    let Some(node) = binding["target"]["name"].as_str().filter(|name| !name.is_empty()) else {
        return Err(Error::BadRequest("a binding needs target.name".to_owned()));
    };
    let name = target.name.as_deref().unwrap_or_default();
    let change = |kind: &Kind, old: &object::Stored| {
        let old = &old.object;
        let mut pod = Value::Object(old.clone());
        if object::is_terminating(old) {
            return Err(write::conflict(kind, name, format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        match pod["spec"]["nodeName"].as_str() {
            Some(bound) if !bound.is_empty() => {
                return Err(write::conflict(kind, name, format!("pod {name} is already assigned to node {bound:?}")));
            }
            _ => {}
        }
        if let Some(uid) = binding["metadata"]["uid"].as_str() {
            pod["metadata"]["uid"] = json!(uid);
        }
        pod["spec"]["nodeName"] = json!(node);
        Ok(pod.into())
    };
    // Nobody owns the node of a pod, so that no applier removes it.
    write::modify(server, target, Options { manager: None, ..options }, change).await?;
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok(json_response(StatusCode::CREATED, status.to_string()))
}
