//! Every setting of the controller, with its default.

use std::net::SocketAddr;
use std::time::Duration;

use ovsdb::{Remotes, Tls};

/// Settings of the election of a leader.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Name of this controller, which no other has that may run at the same time.
    pub identity: String,
    /// How long a term lasts that is not renewed, in whole seconds.
    pub duration: Duration,
    /// How often it is renewed.
    pub renew: Duration,
    /// How long the API server may take to answer; with a renewal that fails before it, less than the duration.
    pub timeout: Duration,
    /// Pause after an attempt that failed.
    pub retry: Duration,
}

impl Election {
    /// The defaults: the lease `kube-system/ferrovia-controller`, 4 s long.
    #[must_use]
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: "ferrovia-controller".to_owned(),
            identity: identity.into(),
            duration: Duration::from_secs(4),
            renew: Duration::from_secs(1),
            timeout: Duration::from_millis(900),
            retry: Duration::from_millis(200),
        }
    }
}

/// Settings of the controller.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the servers of the northbound database listen; the one that leads is followed.
    pub northbound: Remotes,
    /// Where those of the southbound one listen, which says by what node a gateway's port is; `None`: that is told nowhere.
    pub southbound: Option<Remotes>,
    /// Keys and certificates for `ssl` remotes.
    pub tls: Option<Tls>,
    /// How pods of the default VPC reach hosts outside the cluster; `None`: they do not.
    pub egress: Option<api::Egress>,
    /// Ranges of the subnet in which each node has an address, which is created if it is missing; `None`: it is not created.
    pub join_cidr: Option<String>,
    /// Ranges of the default subnet, which is created if it is missing.
    pub default_cidr: String,
    /// How it is decided which of several controllers writes; `None` for one that is alone.
    pub election: Option<Election>,
    /// Changed objects taken into one batch.
    pub batch: usize,
    /// A list that leaves out more known objects than this, and more than `removal_percent` of them, is not believed; nor is a
    /// first comparison with the database that would remove so many rows. All objects of a kind are held however few, and so is any row while there is no pod at all.
    pub removal_rows: usize,
    /// See `removal_rows`.
    pub removal_percent: usize,
    /// Whether removals go ahead that would be held.
    pub confirm_removal: bool,
    /// Pods that one subnet may hold; OVN's VXLAN leaves 11 bits for a switch's ports, and the router takes one.
    pub ports_per_subnet: Option<usize>,
    /// Whether virtual machines of KubeVirt keep their addresses while they are stopped, and from pod to pod.
    pub keep_vm_ip: bool,
    /// How often all is computed from scratch in the background and compared; `None`: never. It takes the memory once more.
    pub audit: Option<Duration>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// API writes under way at once.
    pub writes: usize,
    /// First and longest pause before a failed commit or write is tried again; it doubles in between.
    pub backoff: (Duration, Duration),
}

impl Config {
    /// Ports of one logical switch under VXLAN, the router's excluded: ovn-architecture(7), "Tunnel Encapsulations".
    pub const VXLAN_PORTS: usize = 2046;

    /// The defaults, with the northbound database at `northbound`.
    #[must_use]
    pub fn new(northbound: impl Into<Remotes>) -> Self {
        Self {
            northbound: northbound.into(),
            southbound: None,
            tls: None,
            egress: None,
            join_cidr: None,
            default_cidr: "10.16.0.0/16".to_owned(),
            election: None,
            batch: 1000,
            removal_rows: 100,
            removal_percent: 20,
            confirm_removal: false,
            ports_per_subnet: None,
            keep_vm_ip: true,
            audit: None,
            metrics: None,
            writes: 64,
            backoff: (Duration::from_millis(100), Duration::from_secs(10)),
        }
    }
}
