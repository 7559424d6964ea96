//! The flows of the gateway bridge.

use api::{MacAddr, Transit};
use openflow::{Action, EtherType, FlowMod, Match, Network, Port, Priority, Table};

/// What the flows depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// MACs of the routers that leave by the bridge, each with the patch port by which the integration bridge has it.
    pub(super) routers: Vec<(MacAddr, Port)>,
    /// MAC of the bridge's own link.
    pub(super) mac: [u8; 6],
}

/// All flows, in the place of whatever there is. What none of them is for is dropped: neither side asks for the other by ARP or
/// neighbour discovery, since the router knows the node by a static binding, and the node the router by a permanent neighbour.
pub(super) fn render(ports: &Ports) -> Vec<FlowMod> {
    let mut all = FlowMod::add(Priority(0), Match::default(), Vec::new()).in_table(Table::ALL);
    all.command = openflow::Command::Delete;
    let mut flows = vec![all];
    for family in [EtherType::IPV4, EtherType::IPV6] {
        let matching = |in_port, eth_dst: MacAddr| Match {
            in_port,
            eth_dst: Some(eth_dst.octets()),
            network: Network::Type(family),
            ..Match::default()
        };
        // Whichever switch of a way out it comes from: nodes that are gateways of subnets have some more.
        let to_host = vec![Action::SetEthDst(ports.mac), Action::Output(Port::LOCAL)];
        flows.push(FlowMod::add(Priority(200), matching(None, Transit::NODE_MAC), to_host));
        for (router, patch) in &ports.routers {
            let to_router = vec![Action::Output(*patch)];
            flows.push(FlowMod::add(Priority(200), matching(Some(Port::LOCAL), *router), to_router));
        }
    }
    flows
}
