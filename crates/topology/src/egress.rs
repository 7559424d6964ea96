//! How a VPC reaches the outside through the node that a packet is on: the default one, and others that say so. `localnet`: one switch that every node has its own end of, one
//! router port without a chassis, one route; nothing of it grows with pods, subnets or nodes. `join`: by the nodes' own ports, whose
//! policies the rule `node` says; here is what makes the router look at them, and what keeps them from what stays inside.

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::EGRESS;
use api::{DEFAULT_VPC, EGRESS_NETWORK, HostRanges, JOIN_SUBNET, MacAddr, Transit, egress_port};
use engine::{Cx, Engine, Index, Out};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_router as lr, logical_router_static_route as route, static_mac_binding as binding};

use crate::centralized::CentralByVpc;
use crate::fact::{Fact, FactValue, Problem};
use crate::interconnection::InterconnectedByVpc;
use crate::northbound::{self, Policy, RowFact, external_ids, refer, router};
use crate::world::{Egress, HostLink, Name, Network, Range, RangesByVpc, Router, Vpc, World};
use crate::{node, routes, underlay};

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
                    default_route(cx, vpc, *gateway, out);
                }
                return;
            }
        };
        leave(cx, vpc, transit, Transit::ROUTER_MAC, out);
    });
    engine.rule::<Vpc, HostLink>("egress-vpc", |cx, name, vpc, out| {
        if cx.get::<Router>(name).is_some()
            && let Ok(Some(number)) = host_link(cx, name, vpc)
        {
            leave(cx, name, &Transit::numbered(number), Transit::numbered_mac(number), out);
            let central = cx.keys::<CentralByVpc>(name).next().is_some();
            out.derive(Arc::clone(name), HostLink { number, central });
        }
    });
    engine.leaf::<Range>("egress-ranges", |cx, name, range, out| {
        let mine = HostRanges { vpc: &range.vpc, subnet: name, created: range.created, cidrs: range.cidrs };
        let vpcs: Vec<Name> = cx.keys::<VpcsThatLeave>(&()).cloned().chain([DEFAULT_VPC.into()]).collect();
        // Nothing comes before those of the default VPC.
        if !range.leaves || *range.vpc == *DEFAULT_VPC || !vpcs.contains(&range.vpc) {
            return;
        }
        for vpc in vpcs.iter().filter(|vpc| **vpc != range.vpc) {
            for (subnet, other) in cx.rows::<RangesByVpc>(vpc).into_iter().filter(|(_, other)| other.leaves) {
                let theirs = HostRanges { vpc, subnet, created: other.created, cidrs: other.cidrs };
                if let Some((own, taken)) = mine.yield_to(&theirs) {
                    let message = format!(
                        "spec.cidrBlock: pods do not leave through hosts: {own} overlaps with {taken} of subnet {subnet:?} of VPC {vpc:?}, to \
                         which hosts have the route"
                    );
                    let problem = Problem { reason: "Overlap", message };
                    return out.say(Fact::ExitProblem(Arc::clone(name)), FactValue::Problem(problem));
                }
            }
        }
    });
}

/// The VPCs, besides the default one, that ask to leave through hosts.
pub(crate) struct VpcsThatLeave;
impl Index<World> for VpcsThatLeave {
    type Of = Vpc;
    type Key = ();
    fn keys(name: &Name, vpc: &Vpc, out: &mut Vec<()>) {
        out.extend((vpc.leaves == Ok(true) && **name != *DEFAULT_VPC).then_some(()));
    }
}

/// The number of the link to hosts of a VPC besides the default one, if it asks for one.
///
/// # Errors
/// Why it cannot have it.
pub(crate) fn host_link(cx: &mut Cx<'_, World>, name: &Name, vpc: &Vpc) -> Result<Option<u16>, Problem> {
    let bad = |reason, why: &str| Problem { reason, message: format!("metadata.annotations[{EGRESS}]: {why}") };
    if !vpc.leaves.clone().map_err(|message| Problem { reason: "BadAnnotation", message })? {
        return Ok(None);
    }
    if **name == *DEFAULT_VPC {
        return Err(bad("BadAnnotation", "the default VPC leaves as --egress of the controller says"));
    }
    if !matches!(cx.get::<Egress>(&DEFAULT_VPC.into()), Some(Egress::Localnet(_))) {
        return Err(bad("NoGateway", "VPCs leave through hosts only with --egress localnet"));
    }
    let links = api::host_links(cx.rows::<VpcsThatLeave>(&()).into_iter().map(|(name, vpc)| (vpc.created, name.as_ref())));
    links.get(name.as_ref()).copied().map(Some).ok_or_else(|| {
        let most = Transit::NUMBERED;
        bad("NoGateway", &format!("{most} older VPCs leave through hosts, and there are no more links"))
    })
}

/// One switch that every node has its own end of, and one route.
fn leave<DK, D>(cx: &mut Cx<'_, World>, vpc: &Name, transit: &Transit, mac: MacAddr, out: &mut Out<Fact, DK, D>) {
    // Without a gateway chassis: the port is on every node, and what leaves by it leaves the node that it is on.
    let end = End { link: transit, mac, mtu: underlay::exit_mtu(cx) };
    exit(vpc, &format!("{EGRESS_NETWORK}_{vpc}"), egress_port(vpc), end, out);
    for node in transit.node() {
        default_route(cx, vpc, node.addr(), out);
    }
}

/// A router's end of a link to hosts.
pub(crate) struct End<'a> {
    pub(crate) link: &'a Transit,
    pub(crate) mac: MacAddr,
    /// MTU in bytes, above which the router refuses what comes and goes there; hosts refuse by themselves.
    pub(crate) mtu: Option<u32>,
}

/// A switch on the router that leads over a link to the host stacks of nodes, and the port by which each node has its own end of it.
pub(crate) fn exit<DK, D>(vpc: &Name, name: &str, localnet: String, end: End<'_>, out: &mut Out<Fact, DK, D>) {
    let End { link, mac, mtu } = end;
    let networks = link.router().iter().map(ToString::to_string).collect();
    let port = northbound::RouterPort { mac, networks, advertised: &std::collections::BTreeMap::new(), mtu };
    northbound::switch_on_router(name, vpc, format!("{name}-{vpc}"), port, out);
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

/// What is for nobody in the VPC goes to `gateway`, unless the VPC says itself where that goes.
pub(crate) fn default_route<DK, D>(cx: &mut Cx<'_, World>, vpc: &Name, gateway: IpAddr, out: &mut Out<Fact, DK, D>) {
    if !routes::has_default(cx, vpc, gateway) {
        lead(vpc, if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, gateway, out);
    }
}

/// Whether the router has a default route, by a way out or as the VPC says, for the family of an address.
pub(crate) fn leads(cx: &mut Cx<'_, World>, vpc: &Name, family_of: IpAddr) -> bool {
    if routes::has_default(cx, vpc, family_of) {
        return true;
    }
    match cx.get::<Egress>(vpc) {
        Some(Egress::Localnet(transit)) => transit.of_family(family_of).is_some(),
        Some(Egress::Join) => {
            let join = cx.get::<Network>(&JOIN_SUBNET.into()).filter(|network| network.vpc == *vpc);
            join.is_some_and(|network| network.gateways.iter().any(|gateway| gateway.is_ipv4() == family_of.is_ipv4()))
        }
        // A link to hosts is of both families.
        None => cx.get::<Vpc>(vpc).is_some_and(|own| matches!(host_link(cx, vpc, own), Ok(Some(_)))),
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
