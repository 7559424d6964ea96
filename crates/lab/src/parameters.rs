//! What a lab was started with, kept as `lab.json`.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::layout::{read_json, write_json};
use crate::place::PHYSICAL_MTU;
use crate::{Datapath, Layout, Place, Programs};

/// Encapsulation between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Geneve (RFC 8926).
    Geneve,
    /// VXLAN (RFC 7348).
    Vxlan,
}

impl Tunnel {
    /// OVN's own word, as in `ovn-encap-type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Geneve => "geneve",
            Self::Vxlan => "vxlan",
        }
    }

    /// MTU of pods in bytes: what the encapsulation leaves of the physical MTU.
    #[must_use]
    pub const fn pod_mtu(self) -> u32 {
        match self {
            Self::Geneve => PHYSICAL_MTU - 100,
            Self::Vxlan => PHYSICAL_MTU - 50,
        }
    }
}

/// How pods of the default VPC leave the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gateway {
    /// By a switch that each node has its own end of.
    #[default]
    Localnet,
    /// By each node's own port.
    Join,
    /// Not at all.
    None,
}

impl Gateway {
    /// As `--egress` of controller and agents has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Localnet => "localnet",
            Self::Join => "join",
            Self::None => "none",
        }
    }
}

/// What a lab was started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// How many nodes.
    pub nodes: u32,
    /// How many outside hosts.
    pub outside: u32,
    /// How many hosts of OVN's central services: 1, or a RAFT cluster of 3.
    pub central: u32,
    /// Whether `ferrovia central` keeps them; for comparison, they can run by themselves.
    pub supervised: bool,
    /// How many controllers, of which one leads.
    #[serde(default = "one")]
    pub controllers: u32,
    /// How pods leave the cluster.
    #[serde(default)]
    pub gateway: Gateway,
    /// Whether the subnets that a cluster starts with have both families.
    #[serde(default)]
    pub dual_stack: bool,
    /// Encapsulation between nodes.
    pub tunnel: Tunnel,
    /// Datapath of the nodes.
    pub datapath: Datapath,
    /// Nodes that have DPDK, whatever the others have.
    #[serde(default)]
    pub dpdk_nodes: Vec<Place>,
    /// Another root directory with the programs of OVS and OVN.
    pub ovn: Option<PathBuf>,
    /// Loopback port of the API server.
    pub api_port: u16,
    /// The `ferrovia` program.
    pub program: PathBuf,
    /// Folder of what virtual machines boot.
    #[serde(default)]
    pub guest: PathBuf,
}

impl Parameters {
    /// Reads them.
    ///
    /// # Errors
    /// When the lab is not up.
    pub fn load(layout: &Layout) -> anyhow::Result<Self> {
        let name = layout.name();
        read_json(&layout.parameters()).with_context(|| format!("lab {name} is not up: `ferrovia lab up --name {name}` starts it"))
    }

    /// Keeps them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, layout: &Layout) -> anyhow::Result<()> {
        write_json(&layout.parameters(), self)
    }

    /// The hosts of OVN's central services.
    pub fn central_places(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.central).map(Place::Central)
    }

    /// The nodes.
    pub fn node_places(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.nodes).map(Place::Node)
    }

    /// The outside hosts.
    pub fn outside_places(&self) -> impl Iterator<Item = Place> + use<> {
        (1..=self.outside).map(Place::Outside)
    }

    /// Everything that is plugged into the physical network.
    pub fn hosts(&self) -> impl Iterator<Item = Place> + use<> {
        self.central_places().chain(self.node_places()).chain(self.outside_places())
    }

    /// Datapath of a node.
    #[must_use]
    pub fn datapath_of(&self, node: Place) -> Datapath {
        if self.dpdk_nodes.contains(&node) { Datapath::Dpdk } else { self.datapath }
    }

    /// Which datapath the nodes have, in words.
    #[must_use]
    pub fn datapaths(&self) -> String {
        let others: Vec<_> = self.dpdk_nodes.iter().filter(|_| self.datapath != Datapath::Dpdk).map(Place::to_string).collect();
        let apart = if others.is_empty() { String::new() } else { format!(", dpdk on {}", others.join(", ")) };
        format!("{} datapath{apart}", self.datapath.as_str())
    }

    /// The programs of OVS and OVN.
    #[must_use]
    pub fn programs(&self) -> Programs {
        Programs::new(self.ovn.clone())
    }
}

const fn one() -> u32 {
    1
}
