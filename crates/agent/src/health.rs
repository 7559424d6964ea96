//! Whether this node can serve an ADD, told by STATUS and by the node's condition `NetworkUnavailable`.
//!
//! A probe of liveness: the switch and `ovn-controller` are asked, over their control sockets (ovs-appctl(8)), every few seconds
//! and whenever somebody wants to know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::ovs::Ovs;

/// Between two probes.
const PERIOD: Duration = Duration::from_secs(10);
/// A service that does not answer within this is taken for dead.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is shorter than this, such as a restart, is not told.
const GRACE: Duration = Duration::from_secs(15);

/// Looks at the node's services.
#[derive(Clone)]
pub(crate) struct Health {
    run: Vec<PathBuf>,
    ovs: Ovs,
}

impl Health {
    pub(crate) fn new(config: &Config, ovs: Ovs) -> Self {
        Self { run: config.run.clone(), ovs }
    }

    /// Whether an ADD can be served now.
    ///
    /// # Errors
    /// What cannot.
    pub(crate) async fn look(&self) -> Result<(), String> {
        self.ovs.look().map_err(|error| error.to_string())?;
        self.ask("ovs-vswitchd", "version").await?;
        let shown = self.ask("ovn-controller", "connection-status").await?;
        if shown.trim() == "connected" { Ok(()) } else { Err("ovn-controller is not connected to the southbound database".to_owned()) }
    }

    /// What a service answers.
    async fn ask(&self, service: &str, method: &str) -> Result<String, String> {
        let mut last = format!("{service} is not running: no control socket in {}", join(&self.run));
        for socket in self.run.iter().flat_map(|folder| sockets(folder, service)) {
            match timeout(PATIENCE, call(&socket, method)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = format!("{service} is not running: {}: {error}", socket.display()),
                Err(_) => last = format!("{service} does not answer within {PATIENCE:?}"),
            }
        }
        Err(last)
    }
}

fn join(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// `<service>.<pid>.ctl`.
fn sockets(folder: &Path, service: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_its = |name: &str| name.strip_prefix(service).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest.ends_with(".ctl"));
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_its))
        .collect()
}

/// One call of the control protocol, JSON-RPC 1.0.
async fn call(socket: &Path, method: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = json!({ "id": 0, "method": method, "params": [] });
    stream.write_all(request.to_string().as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Ok(answer) = serde_json::from_slice::<Value>(&answer) else { continue };
        return match answer.get("result").and_then(Value::as_str) {
            Some(result) => Ok(result.to_owned()),
            None => Err(std::io::Error::other(answer.get("error").map(Value::to_string).unwrap_or_default())),
        };
    }
}

/// Keeps the node's condition true until `shutdown`.
pub(crate) async fn tell(client: kube::Client, node: &str, health: &Health, shutdown: &CancellationToken) {
    let nodes: Api<Node> = Api::all(client);
    let mut told: Option<Result<(), String>> = None;
    let mut ill_since: Option<Instant> = None;
    // A switch that is about to be connected to is not told of.
    let _ = health.ovs.ready(PATIENCE).await;
    let mut switch = health.ovs.changes();
    loop {
        let found = health.look().await;
        // A restart is short, and nobody need be sent away for it. What was never well is told at once.
        ill_since = if found.is_ok() { None } else { ill_since.or(Some(Instant::now())) };
        let lasting = ill_since.is_some_and(|since| since.elapsed() >= GRACE) || !matches!(told, Some(Ok(())));
        if told.as_ref() != Some(&found) && (found.is_ok() || lasting) {
            match nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(condition(&found))).await {
                Ok(_) => {
                    match &found {
                        Ok(()) => tracing::info!("the node's network is available"),
                        Err(why) => tracing::warn!(%why, "the node's network is unavailable"),
                    }
                    told = Some(found);
                }
                Err(error) => tracing::warn!(%error, "the node's condition cannot be written; tried again"),
            }
        }
        let was = health.ovs.is_ready();
        let turned = async { while switch.changed().await.is_ok() && health.ovs.is_ready() == was {} };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = turned => {}
            () = sleep(PERIOD) => {}
        }
    }
}

fn condition(found: &Result<(), String>) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, reason, message) = match found {
        Ok(()) => ("False", "FerroviaIsUp", "pods of this node can be connected"),
        Err(why) => ("True", "FerroviaIsDown", why.as_str()),
    };
    json!({ "status": { "conditions": [{
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }] } })
}
