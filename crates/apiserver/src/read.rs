//! Get and list.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::error::Error;
use crate::kinds::Kind;
use crate::object;
use crate::request::{Query, Shape, Target};
use crate::selector::Selector;
use crate::server::Server;
use crate::shape;
use crate::store::Entry;
use crate::table;

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
    let mut selector = Selector::parse(query.get("labelSelector"), query.get("fieldSelector"), &kind.group, &kind.kind)?;
    if let Some(name) = &target.name {
        selector.require_name(name);
    }
    Ok(selector)
}

/// Where a page ended: the snapshot's version and the last key.
fn parse_continue(token: &str, prefix: &str) -> Result<(u64, String), Error> {
    let bad = || Error::BadRequest("continue key is not valid".to_owned());
    let (rv, rest) = token.split_once(':').ok_or_else(bad)?;
    Ok((rv.parse().map_err(|_| bad())?, format!("{prefix}{rest}")))
}

/// A page of a collection.
pub struct Page {
    pub items: Vec<Bytes>,
    pub metadata: Value,
}

pub fn page(server: &Server, kind: &Kind, target: &Target, query: &Query) -> Result<Page, Error> {
    let prefix = collection(kind, target);
    let selector = selector(kind, target, query)?;
    let limit: usize = query.number("limit")?.unwrap_or(0);
    let asked: u64 = query.number("resourceVersion")?.unwrap_or(0);
    let (first_rv, after) = match query.get("continue") {
        "" => (None, None),
        token => parse_continue(token, &prefix).map(|(rv, key)| (Some(rv), Some(key)))?,
    };
    let (found, rv) = server.store().list(&prefix, after.as_deref());
    match query.get("resourceVersionMatch") {
        "" | "NotOlderThan" => {}
        // Only the present can be listed.
        "Exact" if asked == rv => {}
        "Exact" => return Err(Error::Expired { asked, oldest: rv }),
        other => return Err(Error::BadRequest(format!("invalid resourceVersionMatch={other:?}: want Exact or NotOlderThan"))),
    }
    if asked > rv {
        return Err(Error::Expired { asked, oldest: rv });
    }
    // A later page shows the present, and says the version of the first: a watch from there misses nothing.
    let rv = first_rv.unwrap_or(rv);
    let matching = |(_, entry): &&(std::sync::Arc<str>, Entry)| selector.matches(&entry.bytes);
    let mut items = Vec::new();
    let mut metadata = json!({ "resourceVersion": rv.to_string() });
    let mut last = "";
    for (key, entry) in found.iter().filter(matching) {
        if limit > 0 && items.len() == limit {
            metadata["continue"] = json!(format!("{rv}:{}", &last[prefix.len()..]));
            break;
        }
        last = key;
        items.push(entry.bytes.clone());
    }
    Ok(Page { items, metadata })
}

pub fn list(server: &Server, kind: &Kind, target: &Target, query: &Query, shape: Shape) -> Result<Response<Body>, Error> {
    let Page { items, metadata } = page(server, kind, target, query)?;
    let (api_version, list_kind) = match shape {
        Shape::Full => (kind.api_version(), format!("{}List", kind.kind)),
        Shape::MetadataOnly => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        Shape::Table => {
            let objects = items.iter().map(|bytes| object::parse(bytes)).collect::<Result<Vec<_>, _>>()?;
            return Ok(json_response(StatusCode::OK, table::render(kind, &objects, metadata).to_string()));
        }
    };
    let head = format!("{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[", json!(list_kind), json!(api_version));
    let items = match shape {
        Shape::MetadataOnly => items
            .iter()
            .map(|bytes| object::parse(bytes).map(|object| Bytes::from(shape::metadata_only(&object).to_string())))
            .collect::<Result<Vec<_>, _>>()?,
        _ => items,
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
