//! A `Subnet` whose pods leave by chosen nodes (`gatewayType: centralized`): a second port of the router, bound to those nodes in an
//! order, which is on the first of them that the others reach. They tell by BFD in their tunnels, so that another one takes over
//! without anybody being asked (ovn-architecture(7), "Distributed Gateway Ports").

use std::net::IpAddr;
use std::sync::Arc;

use api::{DEFAULT_VPC, EGRESS_NETWORK, Transit};
use engine::{Engine, Index, Out};
use ipnet::IpNet;
use ovsdb_types::nb::{
    gateway_chassis as chassis, logical_router as lr, logical_router_policy as policy, logical_router_port as lrp, logical_switch as ls,
    logical_switch_port as lsp, nb_global, static_mac_binding as binding,
};
use ovsdb_types::{Fact as NbFact, FactValue as NbValue, RowKey, nb};

use crate::egress::{INSIDE_MARK, MARK};
use crate::fact::{Fact, FactValue, Problem};
use crate::mac;
use crate::node::LEAVE;
use crate::northbound::{self, RowFact, external_ids, map, refer, router, switch};
use crate::world::{Egress, Name, Network, Node, World};

/// The nodes that pods of a subnet leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Central {
    /// By name, the first one first.
    pub nodes: Vec<Name>,
    /// Whether all of them are used at once, each connection by one of them, and not the first alone.
    pub ecmp: bool,
}

/// The subnets of a VPC that are centralized.
pub(crate) struct CentralByVpc;
impl Index<World> for CentralByVpc {
    type Of = Network;
    type Key = Name;
    fn keys(_: &Name, network: &Network, out: &mut Vec<Name>) {
        out.extend(network.central.is_some().then(|| Arc::clone(&network.vpc)));
    }
}

/// Links between such ports and nodes are numbered by what their nodes are, within these prefixes.
const LINKS: u64 = 8192;

/// How often nodes ask each other, in milliseconds, and how many answers may be missing (ovn-nb(5), `NB_Global:options`).
const BFD: [(&str, &str); 3] = [("bfd-min-rx", "100"), ("bfd-min-tx", "100"), ("bfd-mult", "3")];

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Network>("centralized", |cx, subnet, network, out| {
        let Some(central) = network.central.as_deref().filter(|_| network.router) else { return };
        let problem = |message: String| (Fact::GatewayProblem(Arc::clone(subnet)), Problem { reason: "NoGateway", message });
        let tell = |(fact, problem): (Fact, Problem), out: &mut Out<Fact>| out.say(fact, FactValue::Problem(problem));
        let leaves = cx.get::<Egress>(&network.vpc);
        if !matches!(leaves, Some(Egress::Localnet(_))) || *network.vpc != *DEFAULT_VPC {
            let only = "only subnets of the default VPC leave by chosen nodes, and only with --egress localnet";
            return tell(problem(format!("spec.gatewayType: centralized: {only}")), out);
        }
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for node in &central.nodes {
            match cx.get::<Node>(node).and_then(|node| node.chassis.clone()) {
                Some(chassis) => there.push(chassis),
                None => missing.push(node.as_ref()),
            }
        }
        if !missing.is_empty() || central.nodes.is_empty() {
            let which = if missing.is_empty() { "no node is named".to_owned() } else { format!("no chassis on {}", missing.join(", ")) };
            tell(problem(format!("spec.gatewayNode: {which}")), out);
        }
        let count = if central.ecmp { there.len() } else { there.len().min(1) };
        let groups: Vec<Vec<Name>> = (0..count).map(|first| [&there[first..], &there[..first]].concat()).collect();
        for group in &groups {
            port(&network.vpc, group, out);
        }
        for range in network.cidrs.iter() {
            let vias = groups.iter().flat_map(|group| link(number(group))).filter(|link| link.addr().is_ipv4() == range.addr().is_ipv4());
            policies(subnet, network, range, &vias.map(|link| node_end(&link)).collect::<Vec<_>>(), out);
        }
    });
}

/// What of a range leaves, does so by these next hops; nobody else's way is taken where there is none.
fn policies<DK, D>(subnet: &Name, network: &Network, range: IpNet, vias: &[IpAddr], out: &mut Out<Fact, DK, D>) {
    let family = if range.addr().is_ipv4() { "ip4" } else { "ip6" };
    let key = RowKey::new(policy::TABLE, format!("centralized/{subnet}/{family}"));
    RowFact::new(key.clone())
        .set(policy::PRIORITY, LEAVE)
        .set(policy::MATCH, format!("{family}.src == {range}"))
        .set(policy::ACTION, if vias.is_empty() { "drop" } else { "reroute" }.to_owned())
        .set(policy::NEXTHOPS, vias.iter().map(ToString::to_string).collect())
        .set(policy::EXTERNAL_IDS, external_ids(&[(MARK, &network.vpc), (INSIDE_MARK, subnet)]))
        .say(out);
    refer(out, router(&network.vpc), lr::POLICIES, key);
}

/// A port of the router that is on the first of these chassis, its switch, and what that needs.
fn port<DK, D>(vpc: &Name, group: &[Name], out: &mut Out<Fact, DK, D>) {
    let number = number(group);
    let name = format!("{EGRESS_NETWORK}_{vpc}_{number}");
    let networks = link(number).iter().map(|link| format!("{}/{}", router_end(link), link.prefix_len())).collect();
    northbound::switch_on_router(&name, vpc, format!("{name}-{vpc}"), mac::of_router_port(vpc, &name), networks, out);

    let key = RowKey::new(lsp::TABLE, format!("localnet/{name}"));
    RowFact::new(key.clone())
        .set(lsp::NAME, format!("{name}_localnet"))
        .set(lsp::TYPE, "localnet".to_owned())
        .set(lsp::ADDRESSES, ["unknown".to_owned()].into())
        .set(lsp::OPTIONS, map(&[("network_name", EGRESS_NETWORK)]))
        .set(lsp::EXTERNAL_IDS, external_ids(&[]))
        .say(out);
    refer(out, switch(&name), ls::PORTS, key);

    for link in link(number) {
        let node = node_end(&link);
        RowFact::new(RowKey::new(binding::TABLE, format!("{vpc}/{node}")))
            .set(binding::LOGICAL_PORT, northbound::router_port_name(vpc, &name))
            .set(binding::IP, node.to_string())
            .set(binding::MAC, Transit::NODE_MAC.to_string())
            .set(binding::OVERRIDE_DYNAMIC_MAC, true)
            .say(out);
    }
    for (place, node) in group.iter().enumerate() {
        let key = RowKey::new(chassis::TABLE, format!("{name}/{node}"));
        RowFact::new(key.clone())
            .set(chassis::NAME, format!("{}-{node}", northbound::router_port_name(vpc, &name)))
            .set(chassis::CHASSIS_NAME, node.to_string())
            .set(chassis::PRIORITY, 100 - i64::try_from(place).unwrap_or(100))
            .set(chassis::EXTERNAL_IDS, external_ids(&[]))
            .say(out);
        refer(out, northbound::router_port(vpc, &name), lrp::GATEWAY_CHASSIS, key);
    }
    for (option, value) in BFD {
        let fact = NbFact::Entry(RowKey::new(nb_global::TABLE, ""), nb_global::OPTIONS.index, option.into());
        out.say(Fact::Northbound(fact), FactValue::Northbound(NbValue::Text(value.into())));
    }
}

/// Follows from the chassis and their order alone, so that subnets with the same ones share a port. That two lists have one number is as
/// unlikely as one in thousands; then the older port has it, and the other one's subnets leave by its nodes.
fn number(group: &[Name]) -> u64 {
    RowKey::new(lrp::TABLE, group.join("/")).uuid(&nb::SCHEMA).as_u64_pair().1 % LINKS
}

/// The prefixes of a link, link-local and unique local, beside that of [`Transit::DEFAULT`].
fn link(number: u64) -> [IpNet; 2] {
    let number = u32::try_from(number % LINKS).unwrap_or_default();
    let v4 = u32::from_be_bytes([169, 254, 128, 0]) + number * 4;
    let v6 = u128::from_be_bytes([0xfd, 0, 0x01, 0x69, 0x02, 0x54, 0x01, 0x28, 0, 0, 0, 0, 0, 0, 0, 0]) + u128::from(number) * 4;
    [IpNet::V4(ipnet::Ipv4Net::new_assert(v4.into(), 30)), IpNet::V6(ipnet::Ipv6Net::new_assert(v6.into(), 126))]
}

fn router_end(link: &IpNet) -> IpAddr {
    end(link, 1)
}

fn node_end(link: &IpNet) -> IpAddr {
    end(link, 2)
}

fn end(link: &IpNet, number: u32) -> IpAddr {
    match link {
        IpNet::V4(link) => IpAddr::V4((u32::from(link.network()) + number).into()),
        IpNet::V6(link) => IpAddr::V6((u128::from(link.network()) + u128::from(number)).into()),
    }
}
