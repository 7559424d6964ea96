//! Virtual machines of a lab: real guests of QEMU in the place of a pod's processes.
//!
//! A machine's process on the node (`monitor`) runs QEMU in the pod's network namespace and speaks to the guest's first program
//! (`guest`) through a virtio serial port: frames of several sessions, each of which is a command in the guest. Others on this
//! machine (`client`) reach it by an abstract socket of the namespace, so that whoever knows the pod's network knows the way.

mod addressing;
mod binding;
mod client;
mod devices;
mod frame;
mod guest;
mod handover;
mod image;
mod line;
mod migration;
mod monitor;
mod qmp;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use binding::{bind, read};
pub(crate) use client::{Client, execute, input, listen};
pub(crate) use devices::nics;
pub(crate) use frame::{Frame, Message};
pub use guest::run as guest;
pub(crate) use image::{Image, last_line};
pub use monitor::run as monitor;

/// Environment variable of a QEMU process: the pod that it is the machine of. It has no other mark of the pod, since what ends a
/// pod asks its processes first, and QEMU would take the guest with it.
pub(crate) const MACHINE_MARK: &str = "FERROVIA_MACHINE";

/// Name of the virtio serial port, which `scripts/guest-image` knows, too.
pub(crate) const PORT: &str = "ferrovia";

/// Program of the guest's image.
pub(crate) const PROGRAM: &str = "/bin/ferrovia";

/// A machine, as its process on the node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// What it boots.
    pub(crate) image: Image,
    /// Where the guest's console goes.
    pub(crate) console: PathBuf,
    /// What marks its QEMU process.
    pub(crate) marks: BTreeMap<String, String>,
    /// What the guest is told.
    pub(crate) settings: Settings,
    /// What runs in it; without, it is there until it is ended.
    pub(crate) command: Option<Command>,
    /// Where its memory comes from, if it does not boot but moves here.
    #[serde(default)]
    pub(crate) memory: Option<PathBuf>,
}

/// Where a machine is to move to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Socket that its memory goes to.
    pub(crate) memory: PathBuf,
    /// Network namespace of the pod that it moves to.
    pub(crate) netns: String,
    /// Bytes a second, if not as fast as it goes.
    pub(crate) bandwidth: Option<u64>,
}

/// What QEMU says of a machine that has moved, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// How long it stood still.
    pub downtime: u64,
    /// From the first byte of its memory to the last.
    pub total: u64,
}

/// What a guest is told before it is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) hostname: String,
    pub(crate) nics: Vec<Nic>,
}

/// A NIC of a machine: what the CNI plugin made of the pod's link, which is the guest's now, or the socket that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// Name of the link, in the pod, where it is one, and in the guest.
    pub name: String,
    /// Its MAC, which the guest speaks under.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: Vec<IpNet>,
    /// Destinations, and the next hop unless they are on the link.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
    /// What the guest is to ask for, and is not told.
    #[serde(default)]
    pub dhcp: Dhcp,
    /// Whether a router advertises itself to it.
    #[serde(default)]
    pub advertised: bool,
    /// The socket of vhost-user that it is, and no link of the pod.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

/// Of which families a guest asks for a NIC's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// A command in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
}

impl Command {
    /// A command in the guest's root folder; `None` without a word.
    pub(crate) fn of(argv: Vec<String>, env: BTreeMap<String, String>, folder: Option<&Path>) -> Option<Self> {
        (!argv.is_empty()).then(|| Self { argv, env, folder: folder.unwrap_or(Path::new("/")).to_owned() })
    }
}

impl Settings {
    /// The NIC by which the guest leaves: that of its pod's default route, or the first.
    fn leading(&self) -> usize {
        let is_default = |(to, _): &(IpNet, _)| to.prefix_len() == 0;
        self.nics.iter().position(|nic| nic.routes.iter().any(is_default)).unwrap_or_default()
    }
}

impl Nic {
    fn mac(&self) -> Option<linux::Mac> {
        self.mac.parse().ok().map(api::MacAddr::octets)
    }
}

/// Names of the bridge and the tap of a machine's n-th NIC.
fn names(index: usize) -> (String, String) {
    (format!("vmbr{index}"), format!("vmtap{index}"))
}
