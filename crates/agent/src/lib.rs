//! The node: CNI server, OVS ports, gateway bridge, provider networks, VM sockets.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// What an agent is told about its node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Kubernetes node.
    pub node: String,
    /// OVSDB remote of the node's Open vSwitch, such as `unix:/run/openvswitch/db.sock`.
    pub ovs: String,
    /// Unix socket on which the CNI plugin is served.
    pub socket: PathBuf,
    /// MTU of pods in bytes.
    pub mtu: u32,
}

/// Runs until `shutdown` is cancelled. Network work happens in the network namespace of the calling process.
///
/// # Errors
/// When the configuration can never work; everything else is retried and reported.
pub async fn run(_client: kube::Client, _config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}
