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
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attachment::Store;
use crate::cni::{self, CniError, Code, Command};
use crate::config::Config;
use crate::health::{self, Health};
use crate::node::{Containers, Node, Proven};
use crate::settings::{self, Settings};
use crate::{chassis, cluster, conflist, deletions, gateway, hops, macs, ovs, provider, reconcile, report, tunnels, unmanaged};

/// Greatest network configuration accepted, in bytes.
const BODY_LIMIT: usize = 1 << 20;

/// Runs on the socket that [`listen`] bound until `shutdown` is cancelled; requests under way are finished first.
///
/// # Errors
/// When the node's namespace cannot be opened.
pub async fn run(client: kube::Client, config: Config, listener: UnixListener, shutdown: CancellationToken) -> anyhow::Result<()> {
    let netns = Netns::current().context("the node's network namespace")?;
    let links = Handle::open(&netns).context("netlink in the node's network namespace")?;
    let folder = config.state.join("attachments");
    let store = Store::open(&folder).with_context(|| format!("folder {}", folder.display()))?;
    let (cluster, watching) = cluster::watch_cluster(client.clone(), &config);
    let (ovs, following) = ovs::open(config.ovs.clone(), &config.bridge);
    let (reporter, reporting) = report::reporter(client.clone(), &config.node);
    let health = Health::new(&config, ovs.clone());
    tracing::info!(node = %config.node, socket = %config.socket.display(), mtu = config.mtu, "serving CNI");
    if let Some(run) = &config.host_run {
        unmanaged::write(run).with_context(|| format!("the host's network services cannot be told by {}", run.display()))?;
    }
    let (containers, proven, settings) = (Containers::default(), Proven::default(), Settings::new(netns.clone()));
    let node = Arc::new(Node { config, cluster, ovs, links, netns, store, containers, proven, health, reporter, settings });

    let mut tasks = JoinSet::new();
    tasks.spawn(watching);
    tasks.spawn(following);
    tasks.spawn(reporting);
    let spawn = |tasks: &mut JoinSet<()>, duty: Duty| {
        let (node, shutdown, client) = (Arc::clone(&node), shutdown.clone(), client.clone());
        tasks.spawn(async move { duty.run(&node, client, &shutdown).await });
    };
    for duty in [
        Duty::Reconcile,
        Duty::Tunnels,
        Duty::Health,
        Duty::Conflist,
        Duty::Deletions,
        Duty::Gateway,
        Duty::Chassis,
        Duty::Macs,
        Duty::Hops,
        Duty::Provider,
        Duty::Settings,
    ] {
        spawn(&mut tasks, duty);
    }

    let mut requests = JoinSet::new();
    let work = TaskTracker::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = requests.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (node, work) = (Arc::clone(&node), work.clone());
                    let serve = service_fn(move |request| {
                        let (node, work) = (Arc::clone(&node), work.clone());
                        async move { Ok::<_, Infallible>(answer(&node, &work, request).await) }
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
    work.close();
    work.wait().await;
    tasks.shutdown().await;
    Ok(())
}

/// What goes on besides requests.
#[derive(Clone, Copy, Debug)]
enum Duty {
    Reconcile,
    Tunnels,
    Health,
    Conflist,
    Deletions,
    Gateway,
    Chassis,
    Macs,
    Hops,
    Provider,
    Settings,
}

impl Duty {
    async fn run(self, node: &Node, client: kube::Client, shutdown: &CancellationToken) {
        match self {
            Self::Reconcile => reconcile::run(node, shutdown).await,
            Self::Tunnels => tunnels::keep(node, shutdown).await,
            Self::Health => health::tell(client, &node.config.node, &node.health, shutdown).await,
            Self::Conflist => {
                if let Some(path) = &node.config.conflist {
                    conflist::keep(path, node.config.portmap, shutdown).await;
                }
            }
            // The socket is bound by now: what comes from here on comes by it.
            Self::Deletions => deletions::run(node, shutdown).await,
            Self::Gateway => gateway::run(node, shutdown).await,
            Self::Chassis => chassis::tell(node, client, shutdown).await,
            Self::Macs => macs::keep(node, shutdown).await,
            Self::Hops => hops::watch(node, client, shutdown).await,
            Self::Provider => provider::run(node, client, shutdown).await,
            Self::Settings => settings::tell(node, client, shutdown).await,
        }
    }
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

async fn answer(node: &Arc<Node>, work: &TaskTracker, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match serve(node, work, request).await {
        // Of all but ADD and VERSION the result is empty.
        Ok(body) => (StatusCode::OK, if body.is_null() { String::new() } else { body.to_string() }),
        Err(error) => {
            tracing::warn!(code = error.code as u32, message = %error.message, "CNI request failed");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_json().to_string())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

async fn serve(node: &Arc<Node>, work: &TaskTracker, request: http::Request<Incoming>) -> Result<Value, CniError> {
    let (parts, body) = request.into_parts();
    let stdin = Limited::new(body, BODY_LIMIT).collect().await;
    let stdin = stdin.map_err(|e| CniError::new(Code::Decode, format!("network configuration: {e}")))?.to_bytes();
    let variable = |name: &str| parts.headers.get(name.replace('_', "-")).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let request = cni::parse(variable, &stdin)?;
    // What was begun is ended, although whoever asked may be gone: half of it would meet what is asked next.
    let node = Arc::clone(node);
    let ended = work.spawn(async move { execute(&node, request).await }).await;
    ended.unwrap_or_else(|error| Err(CniError::new(Code::Failed, error.to_string())))
}

async fn execute(node: &Node, request: cni::Request) -> Result<Value, CniError> {
    let version = request.version.clone();
    let outcome = match request.command {
        Command::Version => Ok(cni::versions()),
        Command::Add => node.add(&request).await,
        Command::Del => node.del(&request).await.map(|()| Value::Null),
        Command::Check => node.check(&request).await.map(|()| Value::Null),
        Command::Gc => node.gc(&request).await.map(|()| Value::Null),
        Command::Status => node.status().await.map(|()| Value::Null),
    };
    outcome.map_err(|error| CniError { version, ..error })
}
