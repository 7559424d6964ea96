//! The socket by which people and tools ask how the services are, and for restarts: HTTP.
//!
//! `GET /status` yields [`State`] as JSON, `GET /healthz` 200 or 503, `POST /restart/nb|sb|northd` answers when it runs again.

use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::kept::Restart;
use crate::state::State;

/// Whom to ask for restarts.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) state: Arc<watch::Sender<State>>,
    pub(crate) nb: mpsc::Sender<Restart>,
    pub(crate) sb: mpsc::Sender<Restart>,
    pub(crate) northd: mpsc::Sender<Restart>,
}

/// Binds the socket, in place of one that an earlier run has left.
///
/// # Errors
/// When it cannot be bound.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// Serves until dropped.
pub(crate) async fn serve(listener: UnixListener, services: Services) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("cannot accept connections")?;
                let services = services.clone();
                let answers = service_fn(move |request| {
                    let services = services.clone();
                    async move { Ok::<_, Infallible>(answer(&services, &request).await) }
                });
                connections.spawn(async move {
                    if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answers).await {
                        tracing::debug!(%error, "connection");
                    }
                });
            }
        }
    }
}

async fn answer(services: &Services, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let state = services.state.borrow().clone();
    let restart = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => return text(StatusCode::OK, serde_json::to_string(&state).unwrap_or_default()),
        (&Method::GET, "/healthz") if state.is_ready() => return text(StatusCode::OK, "ok".to_owned()),
        (&Method::GET, "/healthz") => return text(StatusCode::SERVICE_UNAVAILABLE, serde_json::to_string(&state).unwrap_or_default()),
        (&Method::POST, "/restart/nb") => &services.nb,
        (&Method::POST, "/restart/sb") => &services.sb,
        (&Method::POST, "/restart/northd") => &services.northd,
        (_, path) => {
            return text(StatusCode::NOT_FOUND, format!("{path}: expected GET /status, GET /healthz or POST /restart/nb|sb|northd"));
        }
    };
    let (done, is_done) = oneshot::channel();
    match restart.send(done).await {
        Ok(()) if is_done.await.is_ok() => text(StatusCode::OK, "restarted".to_owned()),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "not restarted".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

/// Asks the program that serves on `socket`; blocks. Yields the body of its answer.
///
/// # Errors
/// When nobody answers, or with what the answer says when it is no success.
pub fn ask(socket: &Path, method: &str, path: &str) -> anyhow::Result<String> {
    let asked = || -> io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: central\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    let reply = asked().with_context(|| format!("no answer on {}", socket.display()))?;
    let (head, body) = reply.split_once("\r\n\r\n").context("an answer without an end")?;
    if head.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { bail!("{method} {path}: {body}") }
}
