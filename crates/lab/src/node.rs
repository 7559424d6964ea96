//! A node: its own Open vSwitch, plugged into the physical network, ready for `ovn-controller`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use central::Database;
use linux::nft::schema::{Chain, NfListObject};
use linux::nft::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use linux::{Handle, LinkChange, display_mac, nft};

use crate::{Component, Datapath, Lab, Place};

/// DPDK without hugepages and physical NICs (ovs-vswitchd.conf.db(5)). Each socket has
/// memory of its own, some 60 MiB of these: what all would share is as much as there is, and cannot be had a second time. A thread that
/// polls ports and finds nothing sleeps for up to 0.5 ms: under the first name in Open vSwitch 3.1, under the second from 3.2.
const DPDK: [&str; 5] = [
    "other-config:dpdk-init=true",
    "other-config:dpdk-extra=\"--no-huge --legacy-mem -m 1024 --no-pci\"",
    "other-config:per-port-memory=true",
    "other-config:pmd-maxsleep=500",
    "other-config:pmd-sleep-max=500",
];

/// The nft table that keeps the kernel's copy of uplink frames from being answered a second time.
const UPLINK_TABLE: &str = "uplink";

impl Lab {
    /// Starts a node's Open vSwitch with its bridges; blocks.
    pub(crate) fn start_switch(&self, node: Place) -> anyhow::Result<()> {
        let folder = self.layout.place(node);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        self.create_switch_database(node)?;
        self.configure_switch(node, false)?;
        if self.parameters.datapath_of(node) == Datapath::Dpdk {
            let link = self.dpdk_program(node);
            let target = self.parameters.programs().path(Datapath::Dpdk.program())?;
            std::os::unix::fs::symlink(target, &link).with_context(|| format!("cannot create {}", link.display()))?;
        }
        // It detaches when it has built what the database describes.
        self.vswitchd(node)?.start(&self.layout)
    }

    /// Takes a node's Open vSwitch database away and puts in place what the node was started with, as after the loss of a
    /// disk: no port of a pod is in it. Everything else on the node goes on running.
    ///
    /// # Errors
    /// When there is no such node, or a program fails.
    pub async fn lose_switch_database(&self, node: Place) -> anyhow::Result<()> {
        self.blocking(move |lab| {
            Component::find(&lab.layout, &format!("ovsdb@{node}"))?.kill(&lab.layout)?;
            let file = lab.switch_database(node);
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
            lab.create_switch_database(node)?;
            // Its bridges are there when this has been answered.
            lab.configure_switch(node, true)
        })
        .await?;
        self.connect_uplink(node).await
    }

    /// The program of a node with DPDK, under the name that others have: by it control sockets are found.
    pub(crate) fn dpdk_program(&self, node: Place) -> PathBuf {
        self.layout.place(node).join("ovs-vswitchd")
    }

    fn switch_database(&self, node: Place) -> PathBuf {
        self.layout.place(node).join("conf.db")
    }

    pub(crate) fn create_switch_database(&self, node: Place) -> anyhow::Result<()> {
        let (programs, file) = (self.parameters.programs(), self.switch_database(node).display().to_string());
        programs.run(None, "ovsdb-tool", &["create", &file, &programs.schema("openvswitch/vswitch.ovsschema")])?;
        self.node_database(node)?.start(&self.layout)
    }

    /// Writes down the node's bridges, and waits until they are there if `vswitchd` runs.
    fn configure_switch(&self, node: Place, vswitchd: bool) -> anyhow::Result<()> {
        let mut words = self.switch_configuration(node);
        words.insert(0, if vswitchd { "--timeout=30" } else { "--no-wait" }.to_owned());
        self.parameters.programs().run(None, "ovs-vsctl", &words).map(drop)
    }

    fn switch_configuration(&self, node: Place) -> Vec<String> {
        let address = |place: Place| place.address().map(|address| address.to_string()).unwrap_or_default();
        let own = self.parameters.datapath_of(node);
        let datapath = format!("datapath_type={}", own.bridge_type());
        let mut words: Vec<String> = vec![format!("--db={}", self.layout.remote(node, "db"))];
        let mut say = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
        say("-- init -- set open .");
        say(&format!("external-ids:system-id={node} external-ids:hostname={node} external-ids:ovn-encap-ip={}", address(node)));
        say(&format!("external-ids:ovn-encap-type={}", self.parameters.tunnel.as_str()));
        // Quoted, since a list has commas.
        words.push(format!("external-ids:ovn-remote=\"{}\"", self.remotes(Database::Southbound, true)));
        if own == Datapath::Dpdk {
            words.extend(DPDK.map(str::to_owned));
        }
        let mut say = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
        say(&format!("-- add-br br-int -- set bridge br-int {datapath} fail-mode=secure"));
        if self.owns_uplink(node) {
            // The tunnel's address lives on a bridge that holds the NIC, so that the userspace datapath can encapsulate.
            let mac = node.mac().map(display_mac).unwrap_or_default();
            say(&format!("-- add-br br-phy -- set bridge br-phy {datapath}"));
            words.push(format!("other-config:hwaddr=\"{mac}\""));
            words.extend("-- add-port br-phy eth0".split_whitespace().map(str::to_owned));
        }
        words
    }

    /// Gives `br-phy` the node's address. To be done again whenever `ovs-vswitchd` was restarted: the bridge's link
    /// lives and dies with it.
    pub(crate) async fn connect_uplink(&self, node: Place) -> anyhow::Result<()> {
        if !self.owns_uplink(node) {
            return Ok(());
        }
        let netns = self.layout.netns(node)?;
        let ingress = Chain {
            family: NfFamily::NetDev,
            table: UPLINK_TABLE.into(),
            name: "in".into(),
            _type: Some(NfChainType::Filter),
            hook: Some(NfHook::Ingress),
            prio: Some(0),
            dev: Some("eth0".into()),
            policy: Some(NfChainPolicy::Drop),
            ..Chain::default()
        };
        // OVS reads eth0 through a packet socket, so the kernel's own stack sees each frame too.
        nft::replace_table(&netns, NfFamily::NetDev, UPLINK_TABLE, vec![NfListObject::Chain(ingress)])?;
        let handle = Handle::open(&netns)?;
        let bridge = handle.index("br-phy").await?;
        handle.change(bridge, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await?;
        for address in node.addresses() {
            handle.add_address(bridge, address).await?;
        }
        Ok(())
    }
}
