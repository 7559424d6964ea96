//! Which datapath Open vSwitch uses on the lab's nodes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;
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
        self.given(kernel_has_openvswitch)
    }

    fn given(self, kernel_has_openvswitch: impl Fn() -> bool) -> anyhow::Result<Datapath> {
        match self {
            Self::Netdev => Ok(Datapath::Netdev),
            Self::Dpdk => Err(NotYet("--datapath dpdk".to_owned()).into()),
            Self::System if kernel_has_openvswitch() => Ok(Datapath::System),
            Self::System => bail!(
                "--datapath system: this kernel has no openvswitch module; `make kernel-datapath` runs the lab on Debian's kernel in a \
                 guest; use auto or netdev"
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_openvswitch_is_told_with_the_way_out() {
        let settled = |choice: DatapathChoice, kernel| choice.given(|| kernel).map_err(|error| error.to_string());
        assert_eq!([true, false].map(|kernel| settled(DatapathChoice::Auto, kernel)), [Ok(Datapath::System), Ok(Datapath::Netdev)]);
        assert_eq!(settled(DatapathChoice::System, true), Ok(Datapath::System));
        let error = settled(DatapathChoice::System, false).unwrap_err();
        assert!(error.contains("no openvswitch module") && error.contains("`make kernel-datapath`"), "{error}");
    }
}
