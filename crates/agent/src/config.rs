//! Every setting of the agent, with its default.

use std::path::PathBuf;
use std::time::Duration;

use ovsdb::Remote;

/// Settings of the agent. Links are made in the network namespace that the agent is started in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Kubernetes node.
    pub node: String,
    /// Where the node's Open vSwitch database listens.
    pub ovs: Remote,
    /// Unix socket on which the CNI plugin is served.
    pub socket: PathBuf,
    /// MTU of pods in bytes.
    pub mtu: u32,
    /// Bridge that ports are added to.
    pub bridge: String,
    /// How long an ADD waits for its address.
    pub address_patience: Duration,
    /// How long an ADD waits for its port to be programmed.
    pub port_patience: Duration,
}

impl Config {
    /// The defaults: bridge `br-int`, 60 s for the address, 30 s for the port.
    #[must_use]
    pub fn new(node: String, ovs: Remote, socket: PathBuf, mtu: u32) -> Self {
        let (address_patience, port_patience) = (Duration::from_secs(60), Duration::from_secs(30));
        Self { node, ovs, socket, mtu, bridge: "br-int".to_owned(), address_patience, port_patience }
    }
}
