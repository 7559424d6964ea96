//! Which datapath Open vSwitch uses on the lab's nodes.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::NotYet;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathChoice {
    /// The kernel's, if this kernel has it, else the userspace one.
    Auto,
    /// OVS's userspace datapath.
    Netdev,
    /// The kernel's.
    System,
    /// DPDK.
    Dpdk,
}

/// A datapath that works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// OVS's userspace datapath.
    Netdev,
    /// The kernel's.
    System,
}

impl Datapath {
    /// OVS's own word, as in `datapath_type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::System => "system",
        }
    }
}

impl DatapathChoice {
    /// Settles on a datapath that works on this machine.
    ///
    /// # Errors
    /// When the one asked for does not.
    pub fn settle(self) -> anyhow::Result<Datapath> {
        match self {
            Self::Netdev => Ok(Datapath::Netdev),
            Self::Dpdk => Err(NotYet("--datapath dpdk".to_owned()).into()),
            Self::System if kernel_has_openvswitch() => Ok(Datapath::System),
            Self::System => {
                Err(NotYet("--datapath system: this kernel lacks the openvswitch module; use auto or netdev".to_owned()).into())
            }
            Self::Auto => Ok(if kernel_has_openvswitch() { Datapath::System } else { Datapath::Netdev }),
        }
    }
}

fn kernel_has_openvswitch() -> bool {
    let there = || Path::new("/sys/module/openvswitch").exists();
    // A failure to load shows in the module's absence, whatever modprobe says.
    there() || {
        let _ = Command::new("modprobe").arg("openvswitch").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        there()
    }
}
