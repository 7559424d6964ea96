//! The physical network: a switch that joins central, the nodes and the outside hosts.

use futures::future::try_join_all;
use linux::nft::schema::NfListObject;
use linux::nft::types::NfFamily;
use linux::{Handle, LinkChange, Netns, VethEnd, ethtool, nft, sysctl};
use serde_json::json;

use crate::place::PHYSICAL_MTU;
use crate::{Lab, Place};

impl Lab {
    /// Makes the namespaces of all places, and plugs every host into the switch.
    pub(crate) async fn build_fabric(&self) -> anyhow::Result<()> {
        let make = |place: Place| self.layout.name().netns(place).map(|name| Netns::create(&name)).transpose();
        let Some(fabric) = make(Place::Fabric)? else { return Ok(()) };
        let switch = Handle::open(&fabric)?;
        let bridge = switch.create_bridge("br0").await?;
        try_join_all(self.parameters.hosts().map(|place| self.plug_in(&switch, bridge, place))).await.map(|_| ())
    }

    async fn plug_in(&self, switch: &Handle, bridge: u32, place: Place) -> anyhow::Result<()> {
        let Some(name) = self.layout.name().netns(place) else { return Ok(()) };
        let netns = Netns::create(&name)?;
        let port = place.to_string();
        let near = VethEnd { name: &port, mtu: Some(PHYSICAL_MTU), ..VethEnd::default() };
        let far = VethEnd { name: "eth0", netns: Some(&netns), mac: place.mac(), mtu: Some(PHYSICAL_MTU) };
        switch.create_veth(&near, &far).await?;
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        switch.change(switch.index(&port).await?, LinkChange { master: Some(bridge), ..up }).await?;
        if matches!(place, Place::Node(_)) {
            harden(&netns)?;
        }
        if self.parameters.node_places().any(|node| self.parameters.datapath_of(node).is_userspace()) {
            // A userspace datapath anywhere on the network would see checksums that nobody filled in.
            ethtool::disable_tx_checksums(&netns, "eth0")?;
        }
        let host = Handle::open(&netns)?;
        host.set_up(host.index("lo").await?).await?;
        let eth0 = host.index("eth0").await?;
        host.change(eth0, up).await?;
        if !self.owns_uplink(place) {
            for address in place.addresses() {
                host.add_address(eth0, address).await?;
            }
        }
        Ok(())
    }

    /// Whether Open vSwitch owns the place's `eth0`, so that its address lives on `br-phy`.
    pub(crate) fn owns_uplink(&self, place: Place) -> bool {
        matches!(place, Place::Node(_)) && self.parameters.datapath_of(place).is_userspace()
    }
}

/// The nft table of a node's own firewall.
const FIREWALL: &str = "host";

/// Sets a node up as real ones are: packets must come by the link that leads back to their source (RFC 3704), and what
/// belongs to no connection is not passed on, as kube-proxy and firewalld have it.
fn harden(netns: &Netns) -> anyhow::Result<()> {
    for scope in ["all", "default"] {
        sysctl::write(netns, &format!("net/ipv4/conf/{scope}/rp_filter"), "1")?;
    }
    let invalid = json!({ "match": { "op": "==", "left": { "ct": { "key": "state" } }, "right": "invalid" } });
    let content: Vec<NfListObject<'static>> = serde_json::from_value(json!([
        { "chain": { "family": "inet", "table": FIREWALL, "name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept" } },
        { "rule": { "family": "inet", "table": FIREWALL, "chain": "forward", "expr": [invalid, { "drop": null }] } },
    ]))?;
    Ok(nft::replace_table(netns, NfFamily::INet, FIREWALL, content)?)
}
