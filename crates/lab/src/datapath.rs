//! Which datapath Open vSwitch uses on the lab's nodes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::Programs;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathChoice {
    /// The kernel's, if this kernel has it, else the userspace one.
    Auto,
    /// OVS's userspace datapath.
    Netdev,
    /// The kernel's.
    System,
    /// The userspace one with DPDK.
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
    /// OVS's userspace datapath, with DPDK's ports besides others.
    Dpdk,
}

impl Datapath {
    /// As `--datapath` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::System => "system",
            Self::Dpdk => "dpdk",
        }
    }

    /// OVS's own word, as in `datapath_type`.
    #[must_use]
    pub const fn bridge_type(self) -> &'static str {
        if self.is_userspace() { "netdev" } else { "system" }
    }

    /// Whether `ovs-vswitchd` itself carries the packets.
    #[must_use]
    pub const fn is_userspace(self) -> bool {
        !matches!(self, Self::System)
    }

    /// The program that runs it.
    #[must_use]
    pub const fn program(self) -> &'static str {
        if matches!(self, Self::Dpdk) { "ovs-vswitchd-dpdk" } else { "ovs-vswitchd" }
    }
}

impl DatapathChoice {
    /// Settles on a datapath that works on this machine.
    ///
    /// # Errors
    /// When the one asked for does not.
    pub fn settle(self, programs: &Programs) -> anyhow::Result<Datapath> {
        self.given(kernel_has_openvswitch, || has_dpdk(programs))
    }

    fn given(self, kernel_has_openvswitch: impl Fn() -> bool, has_dpdk: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Datapath> {
        match self {
            Self::Netdev => Ok(Datapath::Netdev),
            Self::Dpdk => has_dpdk().context("--datapath dpdk").map(|()| Datapath::Dpdk),
            Self::System if kernel_has_openvswitch() => Ok(Datapath::System),
            Self::System => bail!(
                "--datapath system: this kernel has no openvswitch module; `make kernel-datapath` runs the lab on Debian's kernel in a \
                 guest; use auto or netdev"
            ),
            Self::Auto => Ok(if kernel_has_openvswitch() { Datapath::System } else { Datapath::Netdev }),
        }
    }
}

/// Whether there is an Open vSwitch with DPDK.
pub(crate) fn has_dpdk(programs: &Programs) -> anyhow::Result<()> {
    let lacks = |package: &str| format!("Open vSwitch with DPDK needs Debian's package {package}, which `make setup` installs");
    programs.argv(Datapath::Dpdk.program()).with_context(|| lacks("openvswitch-switch-dpdk"))?;
    // Without this plugin of DPDK there is no memory for packets, and ports look as if they worked.
    let plugins = programs.root().join("usr/lib/x86_64-linux-gnu/dpdk");
    let folders = || std::fs::read_dir(&plugins).into_iter().flatten().flatten();
    let files = || folders().filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().flatten();
    let there = files().any(|file| file.file_name().to_string_lossy().starts_with("librte_mempool_ring.so"));
    anyhow::ensure!(there, "{}: no librte_mempool_ring.so in {}", lacks("librte-mempool-ring23"), plugins.display());
    Ok(())
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
        let settled = |choice: DatapathChoice, kernel| choice.given(|| kernel, || Ok(())).map_err(|error| error.to_string());
        assert_eq!([true, false].map(|kernel| settled(DatapathChoice::Auto, kernel)), [Ok(Datapath::System), Ok(Datapath::Netdev)]);
        assert_eq!(settled(DatapathChoice::System, true), Ok(Datapath::System));
        let error = settled(DatapathChoice::System, false).unwrap_err();
        assert!(error.contains("no openvswitch module") && error.contains("`make kernel-datapath`"), "{error}");
    }

    #[test]
    fn a_machine_without_dpdk_is_told_the_package_that_has_it() {
        let nowhere = Programs::new(Some("/nowhere".into()));
        let error = format!("{:#}", DatapathChoice::Dpdk.settle(&nowhere).unwrap_err());
        assert!(error.contains("--datapath dpdk") && error.contains("package openvswitch-switch-dpdk, which `make setup`"), "{error}");
        assert!(error.ends_with("program ovs-vswitchd-dpdk is not under /nowhere"), "{error}");
    }
}
