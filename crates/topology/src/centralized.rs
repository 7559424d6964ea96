//! A `Subnet` whose pods leave by chosen nodes (`gatewayType: centralized`): a second port of the router, bound to those nodes in an
//! order, which is on the first of them that the others reach. They tell by BFD in their tunnels, so that another one takes over
//! without anybody being asked (ovn-architecture(7), "Distributed Gateway Ports").

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::EGRESS;
use api::provider_network::selects;
use api::{DEFAULT_VPC, EGRESS_NETWORK, Transit};
use engine::{Engine, Index, Out};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use ovsdb_types::nb::{gateway_chassis as chassis, logical_router_port as lrp, nb_global};
use ovsdb_types::{Fact as NbFact, FactValue as NbValue, RowKey, nb};

use crate::egress::{self, INSIDE_MARK, MARK};
use crate::fact::{Fact, FactValue, Problem};
use crate::mac;
use crate::node::{LEAVE, TO_NODE};
use crate::northbound::{self, Policy, RowFact, external_ids, refer};
use crate::underlay::{NodeReports, Nodes};
use crate::world::{Egress, HostLink, Name, Network, Node, PortBinding, World};

/// The nodes that pods of a subnet leave by.
#[derive(Clone, Debug, PartialEq)]
pub struct Central {
    /// By name, the first one first.
    pub nodes: Vec<Name>,
    /// By their labels, behind those, in the order of their names.
    pub selectors: Vec<LabelSelector>,
    /// Whether all of them are used at once, each connection by one of them, and not the first alone.
    pub ecmp: bool,
}

// Texts and lists: each is equal to itself.
impl Eq for Central {}

/// The subnets of a VPC that are centralized.
pub(crate) struct CentralByVpc;
impl Index<World> for CentralByVpc {
    type Of = Network;
    type Key = Name;
    fn keys(_: &Name, network: &Network, out: &mut Vec<Name>) {
        out.extend(network.central.is_some().then(|| Arc::clone(&network.vpc)));
    }
}

/// The VPCs besides the default one that have such subnets, and leave through hosts.
pub(crate) struct CentralLinks;
impl Index<World> for CentralLinks {
    type Of = HostLink;
    type Key = ();
    fn keys(_: &Name, link: &HostLink, out: &mut Vec<()>) {
        out.extend(link.central.then_some(()));
    }
}

/// How often nodes ask each other, in milliseconds, and how many answers may be missing (ovn-nb(5), `NB_Global:options`).
const BFD: [(&str, &str); 3] = [("bfd-min-rx", "100"), ("bfd-min-tx", "100"), ("bfd-mult", "3")];

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Network>("centralized", |cx, subnet, network, out| {
        let Some(central) = network.central.as_deref().filter(|_| network.router) else { return };
        let tell = |message: String, out: &mut Out<Fact>| {
            out.say(Fact::GatewayProblem(Arc::clone(subnet)), FactValue::Problem(Problem { reason: "NoGateway", message }));
        };
        let exit = match cx.get::<HostLink>(&network.vpc) {
            Some(link) => Exit::of(&network.vpc, Some(link.number)),
            None if cx.get::<Egress>(&network.vpc).is_some() => Exit::of(&network.vpc, None),
            None => {
                let why = if *network.vpc == *DEFAULT_VPC {
                    "pods leave by chosen nodes only with --egress localnet or join".to_owned()
                } else {
                    format!("pods leave by chosen nodes only where VPC {:?} leaves through hosts ({EGRESS})", network.vpc)
                };
                return tell(format!("spec.gatewayType: centralized: {why}"), out);
            }
        };
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        let mut nodes = central.nodes.clone();
        if !central.selectors.is_empty() {
            let reports = cx.rows::<Nodes>(&()).into_iter();
            let is_selected = |reports: &NodeReports| central.selectors.iter().any(|selector| selects(selector, &reports.labels));
            let mut selected: Vec<Name> = reports.filter(|(_, reports)| is_selected(reports)).map(|(node, _)| Arc::clone(node)).collect();
            selected.sort();
            nodes.extend(selected.into_iter().filter(|node| !central.nodes.contains(node)));
        }
        for node in &nodes {
            match cx.get::<Node>(node).and_then(|node| node.chassis.clone()) {
                Some(chassis) => there.push((node, chassis)),
                None => missing.push(node.as_ref()),
            }
        }
        if !missing.is_empty() || nodes.is_empty() {
            let none =
                || if central.selectors.is_empty() { "no node is named" } else { "no node is named, and gatewayNodeSelectors select none" };
            let which = if missing.is_empty() { none().to_owned() } else { format!("no chassis on {}", missing.join(", ")) };
            tell(format!("spec.gatewayNode: {which}"), out);
        }
        let count = if central.ecmp { there.len() } else { there.len().min(1) };
        let chassis: Vec<Name> = there.iter().map(|(_, chassis)| Arc::clone(chassis)).collect();
        let groups: Vec<Vec<Name>> = (0..count).map(|first| [&chassis[first..], &chassis[..first]].concat()).collect();
        for group in &groups {
            exit.port(group, out);
        }
        if let ([group], false) = (groups.as_slice(), central.ecmp)
            && let Some(at) = cx.get::<PortBinding>(&exit.port_name(group))
            && let Some((active, _)) = there.iter().find(|(_, chassis)| *chassis == at.chassis)
        {
            out.say(Fact::ActiveGateway(Arc::clone(subnet)), FactValue::ActiveGateway(Arc::clone(active)));
        }
        for range in network.cidrs.iter() {
            let ends = groups.iter().flat_map(|group| Transit::numbered(exit.number(group)).node()).map(|end| end.addr());
            let via: Vec<IpAddr> = ends.filter(|end| end.is_ipv4() == range.addr().is_ipv4()).collect();
            let family = northbound::family(range.addr());
            let policy = Policy {
                key: format!("centralized/{subnet}/{family}"),
                priority: LEAVE,
                matching: format!("{family}.src == {range}"),
                // Nobody else's way is taken where there is none.
                action: if via.is_empty() { "drop" } else { "reroute" },
                via: &via,
                marks: &[(MARK, &network.vpc), (INSIDE_MARK, subnet)],
            };
            policy.say(&network.vpc, out);
        }
    });
    // Pods answer the node that they are on by its own end of their VPC's link, as those of other subnets do: under its address there, or
    // that of the link where it has none of a family.
    engine.leaf::<HostLink>("centralized-link", |_, vpc, link, out| {
        if link.central {
            for end in Transit::numbered(link.number).node() {
                to_node(vpc, link, "", end.addr(), out);
            }
        }
    });
    engine.leaf::<Node>("centralized-node", |cx, name, node, out| {
        for (vpc, link) in cx.rows::<CentralLinks>(&()) {
            for address in &node.addresses {
                to_node(vpc, link, name, *address, out);
            }
        }
    });
}

/// A policy of a VPC besides the default one that leads what is for an address of a node to the node that a packet is on.
fn to_node<DK, D>(vpc: &Name, link: &HostLink, node: &str, address: IpAddr, out: &mut Out<Fact, DK, D>) {
    let family = northbound::family(address);
    let ends = Transit::numbered(link.number).node();
    let via: Vec<IpAddr> = ends.iter().map(IpNet::addr).filter(|via| via.is_ipv4() == address.is_ipv4()).collect();
    let policy = Policy {
        key: format!("host/{vpc}/{node}/{family}"),
        priority: TO_NODE,
        matching: format!("{family}.dst == {address}"),
        action: "reroute",
        via: &via,
        marks: &[(MARK, vpc)],
    };
    policy.say(vpc, out);
}

/// Name of the port of a VPC's router by which pods leave by the first of these chassis that lives; `link` is the number of the VPC's own
/// link, of one besides the default one.
#[must_use]
pub fn gateway_port(vpc: &Name, link: Option<u16>, group: &[Name]) -> Name {
    Exit::of(vpc, link).port_name(group)
}

/// How a VPC leaves by chosen nodes.
struct Exit<'a> {
    vpc: &'a Name,
    /// The number of its link to all hosts, of a VPC besides the default one.
    own: Option<u16>,
}

impl<'a> Exit<'a> {
    const fn of(vpc: &'a Name, own: Option<u16>) -> Self {
        Self { vpc, own }
    }

    /// A port of the router that is on the first of these chassis, its switch, and what that needs.
    fn port<DK, D>(&self, group: &[Name], out: &mut Out<Fact, DK, D>) {
        let (vpc, number) = (self.vpc, self.number(group));
        let name = self.name(group);
        // Hosts know by it what VPC a packet is from, whatever link it takes; what is for the router comes by its own.
        let mac = self.own.map_or_else(|| mac::of_router_port(vpc, &name), Transit::numbered_mac);
        let end = egress::End { link: &Transit::numbered(number), mac, mtu: None };
        egress::exit(vpc, &name, format!("{name}_localnet"), end, out);
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

    /// Name of the switch behind it.
    fn name(&self, group: &[Name]) -> String {
        format!("{EGRESS_NETWORK}_{}_{}", self.vpc, self.number(group))
    }

    fn port_name(&self, group: &[Name]) -> Name {
        northbound::router_port_name(self.vpc, &self.name(group)).into()
    }

    /// Follows from the chassis and their order alone, so that subnets with the same ones share a port; the VPC's own link has another one.
    /// That two lists have one number is as unlikely as one in thousands; then the older port has it, and the other one's subnets leave by
    /// its nodes.
    fn number(&self, group: &[Name]) -> u16 {
        let digest = RowKey::new(lrp::TABLE, group.join("/")).uuid(&nb::SCHEMA).as_u64_pair().1;
        let number = u16::try_from(digest % u64::from(Transit::NUMBERED)).unwrap_or_default();
        if self.own == Some(number) { (number + 1) % Transit::NUMBERED } else { number }
    }
}
