//! How a VPC reaches the outside through the node that a packet is on: one switch that every node has its own end of, one router
//! port without a chassis, one route. Nothing here grows with pods, subnets or nodes.

use api::{EGRESS_NETWORK, Transit, egress_port};
use engine::Engine;
use ovsdb_types::RowKey;
use ovsdb_types::nb::{
    logical_router as lr, logical_router_static_route as route, logical_switch as ls, logical_switch_port as lsp,
    static_mac_binding as binding,
};

use crate::fact::Fact;
use crate::northbound::{self, RowFact, external_ids, map, refer, router, switch};
use crate::world::{Egress, Router, World};

/// Key in `external_ids` of a route of ours.
pub(crate) const MARK: &str = "egress";

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Egress>("egress", |cx, vpc, egress, out| {
        if cx.get::<Router>(vpc).is_none() {
            return;
        }
        let name = format!("{EGRESS_NETWORK}_{vpc}");
        // Without a gateway chassis: the port is on every node, and what leaves by it leaves the node that it is on.
        let networks = egress.transit.router().iter().map(ToString::to_string).collect();
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

        for node in egress.transit.node() {
            let (address, all) = (node.addr(), if node.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" });
            let key = RowKey::new(route::TABLE, format!("egress/{vpc}/{all}"));
            RowFact::new(key.clone())
                .set(route::IP_PREFIX, all.to_owned())
                .set(route::NEXTHOP, address.to_string())
                .set(route::EXTERNAL_IDS, external_ids(&[(MARK, vpc)]))
                .say(out);
            refer(out, router(vpc), lr::STATIC_ROUTES, key);
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
