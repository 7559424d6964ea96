//! `lab check`: what every pod should reach, from what the cluster's objects say, against what it does reach.

mod expect;
mod print;
mod run;

use std::net::IpAddr;

use serde::Serialize;

pub use expect::{Intent, Leaves, PodIntent};
pub use print::table;

use crate::{Datapath, Tunnel};

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A TCP connection with a short exchange.
    Tcp,
    /// A UDP exchange.
    Udp,
    /// An ICMP echo.
    Icmp,
    /// An unfragmented ICMP echo of the pods' full MTU.
    Mtu,
    /// 10 MB over TCP.
    Transfer,
}

/// One check: where from, where to, what should come of it, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Source: `namespace/name` of a pod, or the name of a node.
    pub from: String,
    /// Target: `namespace/name` of a pod, `gateway`, or the name of a node or of an outside host.
    pub to: String,
    /// Address that the target is reached at.
    pub address: IpAddr,
    /// What is done.
    pub kind: Kind,
    /// Whether it should succeed.
    pub expected: bool,
    /// Whether it did.
    pub observed: bool,
    /// How far it got when it did not; empty otherwise.
    pub detail: String,
    /// How long it took, in microseconds.
    pub microseconds: u64,
}

/// Everything that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// Name of the lab.
    pub lab: String,
    /// Encapsulation between nodes.
    pub tunnel: Tunnel,
    /// Datapath of the nodes.
    pub datapath: Datapath,
    /// How many checks were made.
    pub checks: usize,
    /// How many of them came out other than expected.
    pub differing: usize,
    /// Pods that could not be checked, with the reason.
    pub skipped: Vec<Skipped>,
    /// What is checked differently from how the network will work one day.
    pub notes: Vec<String>,
    /// The pods, in the order of rows and columns.
    pub pods: Vec<PodIntent>,
    /// The checks.
    pub pairs: Vec<Check>,
}

impl Checked {
    /// Whether every pod was checked, and everything came out as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.differing == 0 && self.skipped.is_empty()
    }
}

/// A pod that could not be checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// `namespace/name`.
    pub pod: String,
    /// Why.
    pub reason: String,
}
