//! The API over HTTP: loopback addresses, one token, and an orderly end.
//!
//! The token comes as `Bearer TOKEN`, as the password of [`USER`] with Basic authentication, or in the path. `kubectl` sends no
//! credentials of a kubeconfig without TLS, but those in the server's URL it does: `http://ferrovia:TOKEN@127.0.0.1:PORT`, with
//! which it opens no streams to pods, or `http://127.0.0.1:PORT/token/TOKEN`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use http::header;
use k8s_openapi::ByteString;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::disk::DiskError;
use crate::error::Error;
use crate::server::{Server, refusal};

/// Name under which the token is a password.
pub const USER: &str = "ferrovia";

/// Why serving could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("refusing to listen on {0}: the API has no TLS and is for this machine only; use a loopback address")]
    NotLoopback(SocketAddr),
    #[error("refusing to serve without a token")]
    NoToken,
    #[error("cannot listen on {address}: {source}")]
    Bind { address: String, source: std::io::Error },
    #[error("cannot finish an earlier deletion: {0}")]
    Resume(Error),
    #[error("cannot serve: {0}")]
    Serve(std::io::Error),
}

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// When the database cannot be opened or an address cannot be bound.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(serve(config, shutdown).await?)
}

async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    if config.token.is_empty() {
        return Err(RunError::NoToken);
    }
    let mut listeners = Vec::new();
    for address in config.listen {
        if !address.ip().is_loopback() {
            return Err(RunError::NotLoopback(address));
        }
        let failed = |source| RunError::Bind { address: address.to_string(), source };
        listeners.push(tokio::net::TcpListener::bind(address).await.map_err(failed)?);
    }
    for listener in config.listeners {
        let failed = |source| RunError::Bind { address: "a given socket".to_owned(), source };
        listener.set_nonblocking(true).map_err(failed)?;
        listeners.push(tokio::net::TcpListener::from_std(listener).map_err(failed)?);
    }
    let server = Server::open(config.data.as_deref())?;
    server.resume().await.map_err(RunError::Resume)?;
    let accepted = Arc::new(Accepted::new(&config.token));
    let router = server.router().layer(middleware::from_fn(move |mut request: Request, next: Next| {
        // Both are looked at: whoever sends the header too means the path without the token.
        let allowed = carries_in_path(&mut request, &accepted) | carries(&request, &accepted);
        async move { if allowed { next.run(request).await } else { unauthorized() } }
    }));
    let mut serving = JoinSet::new();
    for listener in listeners {
        let ended = shutdown.clone().cancelled_owned();
        serving.spawn(axum::serve(listener, router.clone()).with_graceful_shutdown(ended).into_future());
    }
    shutdown.cancelled().await;
    // Watches would keep their connections, and with them the server, open for ever.
    server.end_watches();
    while let Some(outcome) = serving.join_next().await {
        outcome.map_err(|e| RunError::Serve(e.into()))?.map_err(RunError::Serve)?;
    }
    server.end_collection().await;
    server.close();
    Ok(())
}

fn unauthorized() -> Response<Body> {
    refusal(&Error::Unauthorized)
}

/// What carries the token.
struct Accepted {
    headers: [String; 2],
    /// What a path starts with.
    path: String,
}

impl Accepted {
    fn new(token: &str) -> Self {
        // The JSON form of a ByteString is its base64 in quotes.
        let password = serde_json::to_string(&ByteString(format!("{USER}:{token}").into_bytes())).unwrap_or_default();
        let headers = [format!("Bearer {token}"), format!("Basic {}", password.trim_matches('"'))];
        Self { headers, path: format!("/token/{token}") }
    }
}

fn carries(request: &Request, accepted: &Accepted) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes).unwrap_or_default();
    // Both are compared, whatever the first says.
    same(given, accepted.headers[0].as_bytes()) | same(given, accepted.headers[1].as_bytes())
}

/// Takes the token out of the path.
fn carries_in_path(request: &mut Request, accepted: &Accepted) -> bool {
    let whole = request.uri().path_and_query().map(http::uri::PathAndQuery::as_str).unwrap_or_default();
    let Some((given, rest)) = whole.split_at_checked(accepted.path.len()) else { return false };
    if !same(given.as_bytes(), accepted.path.as_bytes()) || !rest.starts_with('/') {
        return false;
    }
    let Ok(uri) = rest.parse() else { return false };
    *request.uri_mut() = uri;
    true
}

/// Compares in a time that says nothing about where they differ.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}
