//! Every setting, with its default.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ovsdb::Tls;

/// Settings of OVN's central services on one host.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the databases; it must survive a reboot.
    pub data: PathBuf,
    /// Folder of sockets, process ids and logs.
    pub run: PathBuf,
    /// Folder of `ovn-nb.ovsschema` and `ovn-sb.ovsschema`.
    pub schemas: PathBuf,
    /// Address on which the databases are served over TCP (6641 and 6642), or TLS; only on sockets of this host without one.
    pub address: Option<IpAddr>,
    /// The RAFT cluster that the databases belong to; each is alone without one.
    pub cluster: Option<Cluster>,
    /// Keys and certificates: with them, everything is served and reached by TLS only.
    pub tls: Option<Tls>,
    /// Whether `ovn-northd` waits until the northbound database is complete.
    pub hold: bool,
    /// Copies of the databases, if wanted.
    pub backups: Option<Backups>,
    /// First and longest pause before a program that ended is started once more; it doubles in between.
    pub backoff: (Duration, Duration),
}

/// A RAFT cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Addresses of the other members.
    pub peers: Vec<IpAddr>,
    /// Whether a database that is neither here nor at a peer is made anew. Without it this member waits for a peer.
    pub bootstrap: bool,
    /// Silence of the leader after which another is elected; set when the cluster is made.
    pub election: Duration,
}

/// Copies of the databases.
#[derive(Clone, Debug)]
pub struct Backups {
    /// Where they are kept.
    pub folder: PathBuf,
    /// Time from one to the next.
    pub interval: Duration,
    /// How many of each database are kept.
    pub keep: usize,
}

impl Config {
    /// Alone, on sockets in `run` only, with databases in `data`, and `ovn-northd` held.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            run: run.into(),
            schemas: "/usr/share/ovn".into(),
            address: None,
            cluster: None,
            tls: None,
            hold: true,
            backups: None,
            backoff: (Duration::from_millis(50), Duration::from_secs(5)),
        }
    }
}
