//! The embedded Kubernetes API: the one-machine default, and the test double.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// Where the server keeps its objects and who may talk to it.
#[derive(Debug)]
pub struct Config {
    /// Folder of the database; created if missing. `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// Bearer token that every request must carry.
    pub token: String,
    /// Sockets already bound, perhaps in other network namespaces.
    pub listeners: Vec<std::net::TcpListener>,
    /// Addresses to bind, loopback only.
    pub listen: Vec<SocketAddr>,
}

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// When the database cannot be opened or an address cannot be bound.
pub async fn run(_config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
