//! The controller: Kubernetes watches → requests → allocator → engine → northbound database.

use tokio_util::sync::CancellationToken;

/// Where the controller finds its databases, and what it is told about the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// OVSDB remote of the northbound database, such as `unix:/run/ovn/ovnnb_db.sock` or `tcp:10.0.0.1:6641`.
    pub northbound: String,
}

/// Runs until `shutdown` is cancelled.
///
/// # Errors
/// When the configuration can never work; everything else is retried and reported.
pub async fn run(_client: kube::Client, _config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
