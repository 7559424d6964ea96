//! Get and list.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::error::{Cause, Error};
use crate::events;
use crate::kinds::Kind;
use crate::object;
use crate::request::{Query, Shape, Target};
use crate::selector::Selector;
use crate::server::Server;
use crate::shape;
use crate::table;

/// Objects read from the store at a time when a page is wanted.
const WINDOW: usize = 1024;

/// Bytes handed to the connection at a time, so that a list of any size is never in memory twice.
const CHUNK: usize = 64 << 10;

pub fn json_response(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

pub fn get(server: &Server, kind: &Kind, target: &Target, shape: Shape) -> Result<Response<Body>, Error> {
    let name = target.name.as_deref().unwrap_or_default();
    let Some(entry) = server.store().get(&kind.key(target.namespace.as_deref(), name)) else {
        return Err(Error::NotFound { resource: kind.resource(), name: name.to_owned() });
    };
    Ok(json_response(StatusCode::OK, shape::one(kind, shape, &entry.bytes)?))
}

/// What a collection's keys start with.
pub fn collection(kind: &Kind, target: &Target) -> String {
    match &target.namespace {
        Some(namespace) => format!("{}{namespace}/", kind.prefix()),
        None => kind.prefix(),
    }
}

/// The selectors of a request.
pub fn selector(kind: &Kind, target: &Target, query: &Query) -> Result<Selector, Error> {
    let mut selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"), kind)?;
    if let Some(name) = &target.name {
        selector.require_name(name);
    }
    Ok(selector)
}

/// Where a page ended: the snapshot's version (the present one in a token for what is left of an expired list) and the key.
fn parse_continue(token: &str, prefix: &str) -> Result<(Option<u64>, String), Error> {
    let bad = || Error::BadRequest("continue key is not valid".to_owned());
    let (rv, rest) = token.split_once(':').ok_or_else(bad)?;
    let rv = if rv == NOW { None } else { Some(rv.parse().map_err(|_| bad())?) };
    Ok((rv, format!("{prefix}{rest}")))
}

/// Stands for a version in a token that continues in the present.
const NOW: &str = "-1";

/// Options of a list or watch that do not go together.
pub fn refused(cause: Cause) -> Error {
    Error::Invalid { kind: "ListOptions.meta.k8s.io".to_owned(), name: String::new(), causes: vec![cause] }
}

/// The version of which a list is wanted: `None` for the present.
fn version(query: &Query, token: &str) -> Result<Option<u64>, Error> {
    let forbidden = |why: &str| Err(refused(Cause::forbidden("resourceVersionMatch", format!("resourceVersionMatch {why}"))));
    let (asked, how) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    match how {
        "" if !token.is_empty() && !matches!(asked, "" | "0") => {
            Err(Error::BadRequest("specifying resource version is not allowed when using continue".to_owned()))
        }
        "" => Ok(None),
        _ if !token.is_empty() => forbidden("is forbidden when continue is provided"),
        _ if asked.is_empty() => forbidden("is forbidden unless resourceVersion is provided"),
        "NotOlderThan" => Ok(None),
        "Exact" if asked == "0" => forbidden("\"exact\" is forbidden for resourceVersion \"0\""),
        "Exact" => query.number("resourceVersion"),
        other => Err(refused(Cause {
            field: "resourceVersionMatch".to_owned(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""),
        })),
    }
}

/// A page of a collection.
pub struct Page {
    pub items: Vec<Bytes>,
    pub metadata: Value,
}

pub fn page(server: &Server, kind: &Kind, target: &Target, query: &Query) -> Result<Page, Error> {
    let prefix = collection(kind, target);
    let selector = selector(kind, target, query)?;
    let limit =
        query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let asked: u64 = query.number("resourceVersion")?.unwrap_or(0);
    let token = query.get("continue");
    let mut at = version(query, token)?;
    let mut after = None;
    if !token.is_empty() {
        let (rv, key) = parse_continue(token, &prefix)?;
        (at, after) = (rv, Some(key));
    }
    let mut items = Vec::new();
    // All windows show the version of the first, and so do the pages that follow.
    let window = limit.saturating_add(1).max(WINDOW);
    loop {
        let expired = |oldest| match token.split_once(':') {
            Some((_, rest)) => Error::ContinueExpired { token: format!("{NOW}:{rest}") },
            None => Error::Expired { asked: at.unwrap_or(asked), oldest },
        };
        let (found, rv) = server.store().list(&prefix, after.as_deref(), window, at).map_err(expired)?;
        if asked > rv {
            return Err(Error::Expired { asked, oldest: rv });
        }
        at = Some(rv);
        let mut metadata = json!({ "resourceVersion": rv.to_string() });
        let end = found.len() < window;
        for (key, bytes) in found {
            if selector.matches(&bytes) {
                if items.len() == limit {
                    let last = after.as_deref().unwrap_or_default();
                    metadata["continue"] = json!(format!("{rv}:{}", last.get(prefix.len()..).unwrap_or_default()));
                    return Ok(Page { items, metadata });
                }
                items.push(bytes);
            }
            after = Some(key.to_string());
        }
        if end {
            return Ok(Page { items, metadata });
        }
    }
}

pub fn list(server: &Server, kind: &Kind, target: &Target, query: &Query, shape: Shape) -> Result<Response<Body>, Error> {
    let Page { items, metadata } = page(server, kind, target, query)?;
    let (api_version, list_kind) = match shape {
        Shape::Full => (kind.api_version(), format!("{}List", kind.kind)),
        Shape::NewEvents => (format!("{}/v1", events::GROUP), "EventList".to_owned()),
        Shape::MetadataOnly => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        Shape::Table(include) => {
            let objects = items.iter().map(|bytes| object::parse(bytes)).collect::<Result<Vec<_>, _>>()?;
            return Ok(json_response(StatusCode::OK, table::render(kind, &objects, metadata, include).to_string()));
        }
    };
    let head = format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[", json!(list_kind), json!(api_version));
    let items = match shape {
        Shape::Full => items,
        _ => items.iter().map(|bytes| shape::one(kind, shape, bytes)).collect::<Result<_, _>>()?,
    };
    Ok(json_response(StatusCode::OK, in_chunks(head, items)))
}

/// `head`, the items with commas between, and the end of the list, a chunk at a time.
fn in_chunks(head: String, items: Vec<Bytes>) -> Body {
    let mut items = items.into_iter();
    let mut chunk = BytesMut::from(head.as_bytes());
    let mut first = true;
    let mut done = false;
    let chunks = std::iter::from_fn(move || {
        while !done && chunk.len() < CHUNK {
            match items.next() {
                Some(item) => {
                    if !first {
                        chunk.extend_from_slice(b",");
                    }
                    first = false;
                    chunk.extend_from_slice(&item);
                }
                None => {
                    chunk.extend_from_slice(b"]}");
                    done = true;
                }
            }
        }
        if chunk.is_empty() { None } else { Some(Ok::<_, std::convert::Infallible>(chunk.split().freeze())) }
    });
    Body::from_stream(futures::stream::iter(chunks))
}
