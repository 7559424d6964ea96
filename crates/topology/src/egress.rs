//! How a VPC reaches the outside through the node that a packet is on. `localnet`: one switch that every node has its own end of, one
//! router port without a chassis, one route; nothing of it grows with pods, subnets or nodes. `join`: by the nodes' own ports, whose
//! policies the rule `node` says; here is what makes the router look at them, and what keeps them from what stays inside.

use std::net::IpAddr;

use api::{EGRESS_NETWORK, JOIN_SUBNET, Transit, egress_port};
use engine::{Engine, Out};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{
    logical_router as lr, logical_router_policy as policy, logical_router_static_route as route, logical_switch as ls,
    logical_switch_port as lsp, static_mac_binding as binding,
};

use crate::centralized::CentralByVpc;
use crate::fact::Fact;
use crate::node;
use crate::northbound::{self, RowFact, external_ids, map, refer, router, switch};
use crate::world::{Egress, Name, Network, Router, World};

/// Key in `external_ids` of a route of ours.
pub(crate) const MARK: &str = "egress";

/// Key in `external_ids` of a policy for a subnet.
pub(crate) const INSIDE_MARK: &str = "subnet";

/// Priority of policies that keep inside what is for a subnet, which Kube-OVN gives them.
pub(crate) const INSIDE: i64 = 31_000;

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Network>("egress-inside", |cx, subnet, network, out| {
        let by_policy = node::leaves_by_node(cx, &network.vpc) || cx.keys::<CentralByVpc>(&network.vpc).next().is_some();
        if !network.router || !by_policy {
            return;
        }
        for range in network.cidrs.iter() {
            let family = if range.addr().is_ipv4() { "ip4" } else { "ip6" };
            let key = RowKey::new(policy::TABLE, format!("inside/{subnet}/{family}"));
            RowFact::new(key.clone())
                .set(policy::PRIORITY, INSIDE)
                .set(policy::MATCH, format!("{family}.dst == {range}"))
                .set(policy::ACTION, "allow".to_owned())
                .set(policy::EXTERNAL_IDS, external_ids(&[(MARK, &network.vpc), (INSIDE_MARK, subnet)]))
                .say(out);
            refer(out, router(&network.vpc), lr::POLICIES, key);
        }
    });
    engine.leaf::<Egress>("egress", |cx, vpc, egress, out| {
        if cx.get::<Router>(vpc).is_none() {
            return;
        }
        let transit = match egress {
            Egress::Localnet(transit) => transit,
            Egress::Join => {
                // Policies are looked at only for what has a route. Where none matches, the router sends it to itself, and drops it.
                let join = cx.get::<Network>(&JOIN_SUBNET.into()).filter(|network| network.vpc == *vpc);
                for gateway in join.iter().flat_map(|network| &network.gateways) {
                    default_route(vpc, *gateway, out);
                }
                return;
            }
        };
        let name = format!("{EGRESS_NETWORK}_{vpc}");
        // Without a gateway chassis: the port is on every node, and what leaves by it leaves the node that it is on.
        let networks = transit.router().iter().map(ToString::to_string).collect();
        northbound::switch_on_router(&name, vpc, format!("{name}-{vpc}"), Transit::ROUTER_MAC, networks, out);

        let key = RowKey::new(lsp::TABLE, format!("localnet/{name}"));
        RowFact::new(key.clone())
            .set(lsp::NAME, egress_port(vpc))
            .set(lsp::TYPE, "localnet".to_owned())
            .set(lsp::ADDRESSES, ["unknown".to_owned()].into())
            .set(lsp::OPTIONS, map(&[("network_name", EGRESS_NETWORK)]))
            .set(lsp::EXTERNAL_IDS, external_ids(&[]))
            .say(out);
        refer(out, switch(&name), ls::PORTS, key);

        for node in transit.node() {
            let address = node.addr();
            default_route(vpc, address, out);
            // The southbound database could remember but one node's answer for all of them.
            RowFact::new(RowKey::new(binding::TABLE, format!("{vpc}/{address}")))
                .set(binding::LOGICAL_PORT, northbound::router_port_name(vpc, &name))
                .set(binding::IP, address.to_string())
                .set(binding::MAC, Transit::NODE_MAC.to_string())
                .set(binding::OVERRIDE_DYNAMIC_MAC, true)
                .say(out);
        }
    });
}

/// What is for nobody in the VPC goes to `gateway`.
fn default_route<DK, D>(vpc: &Name, gateway: IpAddr, out: &mut Out<Fact, DK, D>) {
    lead(vpc, if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, gateway, out);
}

/// Whether there is a default route for the family of an address.
pub(crate) fn leads(egress: &Egress, family_of: IpAddr) -> bool {
    match egress {
        Egress::Localnet(transit) => transit.of_family(family_of).is_some(),
        Egress::Join => true,
    }
}

/// What is for `prefix` goes to `via`.
pub(crate) fn lead<DK, D>(vpc: &Name, prefix: &str, via: IpAddr, out: &mut Out<Fact, DK, D>) {
    let key = RowKey::new(route::TABLE, format!("egress/{vpc}/{prefix}"));
    RowFact::new(key.clone())
        .set(route::IP_PREFIX, prefix.to_owned())
        .set(route::NEXTHOP, via.to_string())
        .set(route::EXTERNAL_IDS, external_ids(&[(MARK, vpc)]))
        .say(out);
    refer(out, router(vpc), lr::STATIC_ROUTES, key);
}
