//! Watch: changes of a collection as a stream of JSON lines, from a version on.
//!
//! A watch reads the shared history at its own pace. If it falls behind the end of the history it gets 410 Gone and
//! lists again: a slow client costs itself time, and the server nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::{Cause, Error};
use crate::events;
use crate::history::Event;
use crate::kinds::Kind;
use crate::object;
use crate::read::{collection, json_response, refused, selector};
use crate::request::{Query, Shape, Target};
use crate::selector::Selector;
use crate::server::Server;
use crate::shape;

/// Events taken from the history at a time.
const STEP: usize = 256;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

struct Watch {
    server: Server,
    kind: Arc<Kind>,
    prefix: String,
    selector: Selector,
    shape: Shape,
    bookmarks: bool,
    /// Everything up to here has been sent or is in `ready`.
    seen: u64,
    ready: VecDeque<Bytes>,
    newest: tokio::sync::watch::Receiver<u64>,
    ends: Option<Instant>,
    next_bookmark: Instant,
    ended: bool,
}

/// Opens a watch.
pub fn open(server: &Server, kind: Arc<Kind>, target: &Target, query: &Query, shape: Shape) -> Result<Response<Body>, Error> {
    let selector = selector(&kind, target, query)?;
    let bookmarks = query.flag("allowWatchBookmarks")?;
    let initial = query.flag("sendInitialEvents")?;
    check_options(query)?;
    let asked: u64 = query.number("resourceVersion")?.unwrap_or(0);
    let timeout: Option<u64> = query.number("timeoutSeconds")?;
    let prefix = collection(&kind, target);
    let all = kind.prefix();
    let newest = server.store().subscribe(&all);
    let now = Instant::now();
    let mut watch = Watch {
        server: server.clone(),
        prefix,
        selector,
        shape,
        bookmarks,
        seen: asked,
        ready: VecDeque::new(),
        newest,
        // A day is as good as for ever, and cannot overflow.
        ends: timeout.map(|seconds| now + Duration::from_secs(seconds.min(86_400))),
        next_bookmark: now + BOOKMARK_EVERY,
        ended: false,
        kind,
    };
    if asked == 0 || initial {
        let (found, rv) = server.store().list(&watch.prefix, None, usize::MAX, None).map_err(|oldest| Error::Expired { asked, oldest })?;
        if asked > rv {
            watch.end_with(&Error::Expired { asked, oldest: rv });
        }
        for (_, bytes) in found.iter().filter(|(_, bytes)| watch.selector.matches(bytes)) {
            let line = watch.line("ADDED", bytes)?;
            watch.ready.push_back(line);
        }
        watch.seen = rv;
        if initial && bookmarks {
            let mark = watch.bookmark(true);
            watch.ready.push_back(mark);
        }
    } else {
        // In the stream, as the real server says it: clients list again on an ERROR event, and only there.
        if let Err(oldest) = server.store().events(&all, asked, 0) {
            watch.end_with(&Error::Expired { asked, oldest });
        }
    }
    let lines = futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watch))
    });
    Ok(json_response(StatusCode::OK, Body::from_stream(lines)))
}

fn check_options(query: &Query) -> Result<(), Error> {
    let (asked, how) = (!query.get("sendInitialEvents").is_empty(), query.get("resourceVersionMatch"));
    let why = if asked && how != "NotOlderThan" {
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    } else if !asked && !how.is_empty() {
        "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
    } else if !query.get("continue").is_empty() {
        "resourceVersionMatch is forbidden when continue is provided"
    } else {
        return Ok(());
    };
    Err(refused(Cause::forbidden("resourceVersionMatch", why)))
}

/// An object under the version of a later change.
fn at_version(object: &[u8], rv: u64) -> Result<Bytes, Error> {
    let mut object = object::parse(object)?;
    object["metadata"]["resourceVersion"] = json!(rv.to_string());
    Ok(object.to_string().into())
}

fn line_of(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

impl Watch {
    fn line(&self, kind: &str, object: &Bytes) -> Result<Bytes, Error> {
        Ok(line_of(kind, &shape::one(&self.kind, self.shape, object)?))
    }

    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let mut object: Value = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": { "resourceVersion": self.seen.to_string(), "creationTimestamp": null },
        });
        if initial_events_end {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        match self.shape {
            Shape::MetadataOnly => object = shape::metadata_only(&object),
            Shape::NewEvents => object = events::to_shown(object),
            Shape::Full | Shape::Table(_) => {}
        }
        line_of("BOOKMARK", object.to_string().as_bytes())
    }

    /// The next line; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(self.with_more(line));
            }
            if self.ended {
                return None;
            }
            self.newest.mark_unchanged();
            match self.server.store().events(&self.kind.prefix(), self.seen, STEP) {
                Ok(batch) => {
                    for event in &batch.events {
                        match self.event(event) {
                            Ok(line) => self.ready.extend(line),
                            Err(error) => self.end_with(&error),
                        }
                    }
                    self.seen = batch.seen;
                    if !batch.events.is_empty() {
                        continue;
                    }
                }
                Err(oldest) => {
                    self.end_with(&Error::Expired { asked: self.seen, oldest });
                    continue;
                }
            }
            let ends = self.ends;
            tokio::select! {
                changed = self.newest.changed() => if changed.is_err() { return None },
                () = self.server.shutdown().cancelled() => return None,
                () = async { match ends { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    return Some(self.bookmark(false));
                }
            }
        }
    }

    /// Joins lines that are ready anyway: fewer writes to the connection.
    fn with_more(&mut self, first: Bytes) -> Bytes {
        if self.ready.is_empty() {
            return first;
        }
        let mut joined = first.to_vec();
        while joined.len() < 32 << 10 {
            match self.ready.pop_front() {
                Some(line) => joined.extend_from_slice(&line),
                None => break,
            }
        }
        joined.into()
    }

    fn end_with(&mut self, error: &Error) {
        self.ready.push_back(line_of("ERROR", error.status().to_string().as_bytes()));
        self.ended = true;
    }

    /// The event as this watch sees it: an object that stops matching is gone, one that starts is new.
    fn event(&self, event: &Event) -> Result<Option<Bytes>, Error> {
        if !event.key.starts_with(&self.prefix) {
            return Ok(None);
        }
        let (was, is) = event.admitted(&self.selector);
        let kind = match (was, is) {
            (false, false) => return Ok(None),
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        // Who selects is told of what it selected: the last state of it that it knows.
        match &event.previous {
            Some(previous) if was && !is && !event.removed => self.line(kind, &at_version(previous, event.rv)?).map(Some),
            _ => self.line(kind, &event.bytes).map(Some),
        }
    }
}
