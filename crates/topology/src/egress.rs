//! How a VPC reaches the outside through the node that a packet is on. `localnet`: one switch that every node has its own end of, one
//! router port without a chassis, one route; nothing of it grows with pods, subnets or nodes. `join`: by the nodes' own ports, whose
//! policies the rule `node` says; here is what makes the router look at them, and what keeps them from what stays inside.

use std::net::IpAddr;

use api::{EGRESS_NETWORK, JOIN_SUBNET, MacAddr, Transit, egress_port};
use engine::{Engine, Out};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_router as lr, logical_router_static_route as route, static_mac_binding as binding};

use crate::centralized::CentralByVpc;
use crate::fact::Fact;
use crate::interconnection::InterconnectedByVpc;
use crate::node;
use crate::northbound::{self, Policy, RowFact, external_ids, refer, router};
use crate::world::{Egress, Name, Network, Router, World};

/// Key in `external_ids` of a route of ours.
pub(crate) const MARK: &str = "egress";

/// Key in `external_ids` of a policy for a subnet.
pub(crate) const INSIDE_MARK: &str = "subnet";

/// Priority of policies that keep inside what is for a subnet, which Kube-OVN gives them.
pub(crate) const INSIDE: i64 = 31_000;

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Network>("egress-inside", |cx, subnet, network, out| {
        let by_policy = node::leaves_by_node(cx, &network.vpc)
            || cx.keys::<CentralByVpc>(&network.vpc).next().is_some()
            || cx.keys::<InterconnectedByVpc>(&network.vpc).next().is_some();
        if !network.router || !by_policy {
            return;
        }
        for range in network.cidrs.iter() {
            let family = northbound::family(range.addr());
            let policy = Policy {
                key: format!("inside/{subnet}/{family}"),
                priority: INSIDE,
                matching: format!("{family}.dst == {range}"),
                action: "allow",
                via: &[],
                marks: &[(MARK, &network.vpc), (INSIDE_MARK, subnet)],
            };
            policy.say(&network.vpc, out);
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
        exit(vpc, &name, egress_port(vpc), Transit::ROUTER_MAC, transit, out);
        for node in transit.node() {
            default_route(vpc, node.addr(), out);
        }
    });
}

/// A switch on the router that leads over a link to the host stacks of nodes, and the port by which each node has its own end of it.
pub(crate) fn exit<DK, D>(vpc: &Name, name: &str, localnet: String, mac: MacAddr, link: &Transit, out: &mut Out<Fact, DK, D>) {
    let networks = link.router().iter().map(ToString::to_string).collect();
    northbound::switch_on_router(name, vpc, format!("{name}-{vpc}"), mac, networks, out);
    northbound::localnet_port(name, localnet, EGRESS_NETWORK, 0, out);
    for node in link.node() {
        let address = node.addr();
        // The southbound database could remember but one node's answer for all of them.
        RowFact::new(RowKey::new(binding::TABLE, format!("{vpc}/{address}")))
            .set(binding::LOGICAL_PORT, northbound::router_port_name(vpc, name))
            .set(binding::IP, address.to_string())
            .set(binding::MAC, Transit::NODE_MAC.to_string())
            .set(binding::OVERRIDE_DYNAMIC_MAC, true)
            .say(out);
    }
}

/// What is for nobody in the VPC goes to `gateway`.
pub(crate) fn default_route<DK, D>(vpc: &Name, gateway: IpAddr, out: &mut Out<Fact, DK, D>) {
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
