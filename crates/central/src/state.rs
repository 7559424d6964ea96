//! What is known of the services, for whoever asks.

use ovsdb::Status;
use serde::{Deserialize, Serialize};

/// The state of all services on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The northbound database.
    pub nb: Member,
    /// The southbound database.
    pub sb: Member,
    /// `ovn-northd`.
    pub northd: NorthdState,
}

/// A database server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it serves: alone, or connected to a majority of its cluster.
    pub connected: bool,
    /// Whether it belongs to a cluster.
    pub clustered: bool,
    /// Whether it leads its cluster; true outside of clusters.
    pub leader: bool,
    /// What is wrong, if something is.
    pub problem: Option<String>,
}

/// `ovn-northd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NorthdState {
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether it may work; held otherwise, because the northbound database is not complete.
    pub released: bool,
    /// What is wrong, if something is.
    pub problem: Option<String>,
}

impl State {
    /// Whether both databases serve and `ovn-northd` runs, working or held.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.nb.connected && self.sb.connected && self.northd.pid.is_some()
    }
}

impl Member {
    pub(crate) fn take(&mut self, status: Option<&Status>) {
        self.connected = status.is_some_and(|s| s.connected);
        self.clustered = status.is_some_and(|s| s.clustered);
        self.leader = status.is_some_and(|s| s.connected && s.leader);
    }
}
