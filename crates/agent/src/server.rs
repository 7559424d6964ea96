//! The socket that the CNI plugin talks to.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use anyhow::Context;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use linux::{Handle, Netns};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::add::Node;
use crate::cni::{self, CniError, Code, Command};
use crate::config::Config;
use crate::{ovs, pods};

/// Greatest network configuration accepted, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// Runs on the socket that [`listen`] bound until `shutdown` is cancelled; requests under way are finished first.
///
/// # Errors
/// When the node's namespace cannot be opened.
pub async fn run(client: kube::Client, config: Config, listener: UnixListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let netns = Netns::current().context("the node's network namespace")?;
    let links = Handle::open(&netns).context("netlink in the node's network namespace")?;
    let (pods, watching) = pods::watch_pods(client, &config.node);
    let (ovs, following) = ovs::open(config.ovs.clone(), &config.bridge);
    let mut tasks = JoinSet::new();
    tasks.spawn(watching);
    tasks.spawn(following);
    tracing::info!(node = %config.node, socket = %config.socket.display(), mtu = config.mtu, "serving CNI");

    let node = Arc::new(Node { config, pods, ovs, links, netns });
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = requests.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let node = Arc::clone(&node);
                    let serve = service_fn(move |request| {
                        let node = Arc::clone(&node);
                        async move { Ok::<_, Infallible>(answer(&node, request).await) }
                    });
                    requests.spawn(async move {
                        // A peer that talks nonsense loses its connection, and nothing else happens.
                        if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await {
                            tracing::debug!(%error, "connection of a CNI plugin");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "accept"),
            }
        }
    }
    while requests.join_next().await.is_some() {}
    tasks.shutdown().await;
    Ok(())
}

/// Binds the socket in one step: a fresh one is renamed over whatever a former agent left. Plugins may connect from then on.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen(path: &std::path::Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("folder {}", parent.display()))?;
    }
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(|| format!("remove {}", fresh.display())),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).with_context(|| format!("bind {}", fresh.display()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("permissions of {}", fresh.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("rename {} to {}", fresh.display(), path.display()))?;
    Ok(listener)
}

async fn answer(node: &Node, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match serve(node, request).await {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            tracing::warn!(code = error.code as u32, message = %error.message, "CNI request failed");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_json())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
}

async fn serve(node: &Node, request: http::Request<Incoming>) -> Result<Value, CniError> {
    let (parts, body) = request.into_parts();
    let stdin = Limited::new(body, BODY_LIMIT).collect().await;
    let stdin = stdin.map_err(|e| CniError::new(Code::Decode, format!("network configuration: {e}")))?.to_bytes();
    let variable = |name: &str| parts.headers.get(name.replace('_', "-")).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let request = cni::parse(variable, &stdin)?;
    let version = request.version.clone();
    let outcome = match request.command {
        Command::Version => Ok(cni::versions()),
        Command::Add => node.add(&request).await,
        Command::Del => node.del(&request).await.map(|()| json!({})),
    };
    outcome.map_err(|error| CniError { version, ..error })
}
