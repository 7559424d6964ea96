//! `Subnet` → logical switch, and the router port that serves it.

use std::net::IpAddr;
use std::sync::Arc;

use api::MacAddr;
use api::annotations::Segment;
use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, Problem, SubnetState};
use crate::interconnection::Interconnection;
use crate::northbound::RouterPort;
use crate::world::{
    Allocation, Name, Network, NicKey, Range, RangesByVpc, Router, Subnet, SubnetSpec, SubnetsByProvider, SubnetsByRouterPort, Usage, World,
};
use crate::{dhcp, interconnection, northbound, underlay};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.rule::<Subnet, Range>("subnet-range", |_, name, subnet, out| {
        if let Ok(spec) = &subnet.spec
            && spec.has_switch()
        {
            let leaves = spec.has_router() && spec.vlan.is_none();
            out.derive(Arc::clone(name), Range { vpc: Arc::clone(&spec.vpc), cidrs: spec.cidrs, created: subnet.created, leaves });
        }
    });
    engine.rule::<Subnet, Network>("subnet", |cx, name, subnet, out| {
        // Read only when it matters: counts change with every pod.
        let holders = if subnet.deleting { cx.get::<Usage>(name).map_or(0, |usage| usage.holders) } else { 0 };
        let asked = subnet.spec.iter().find_map(|spec| Some((NicKey::of_interconnection(&spec.vpc, name), spec.wish()?)));
        let held = asked.as_ref().and_then(|(nic, _)| cx.get::<Allocation>(nic)).filter(|held| held.subnet == *name);
        // What the router has there is for the others.
        let gone = subnet.deleting && holders <= usize::from(held.is_some());
        let checked = subnet.spec.clone().and_then(|spec| check(cx, name, subnet.created, &spec).map(|found| (spec, found)));
        let (network, refused) = match &checked {
            Ok((spec, (refused, _))) => (Ok((spec.cidrs, spec.gateways.clone())), refused.clone()),
            Err(problem) => (Err(problem.clone()), Vec::new()),
        };
        let waiting = (subnet.deleting && !gone)
            .then(|| Problem { reason: "InUse", message: format!("deletion waits for {holders} addresses to be released") });
        let interconnection = subnet.spec.iter().find_map(|spec| interconnection::state(spec, held));
        let answering = checked.as_ref().ok().map(|(spec, _)| spec).filter(|spec| !gone && spec.dhcp.is_some() && spec.has_switch());
        let dhcp = answering.map_or([None, None], |spec| dhcp::keys(name, &spec.cidrs));
        let state = SubnetState { network, interconnection, dhcp, refused, finalizer: !gone, waiting };
        out.say(Fact::Subnet(Arc::clone(name)), FactValue::Subnet(Box::new(state)));
        if let (Ok((spec, (_, segment))), false) = (&checked, gone) {
            let mut interconnection: Option<Box<Interconnection>> = None;
            if spec.has_router() {
                let port = switch_port(cx, name, &spec.vpc);
                let mac = spec.gateway_mac.unwrap_or_else(|| crate::mac::of_router_port(&spec.vpc, name));
                northbound::switch_on_router(name, &spec.vpc, port, router_port(spec, mac, &spec.gateways), out);
            } else if let (Some((nic, wish)), Some(held)) = (&asked, held) {
                let port = switch_port(cx, name, &spec.vpc);
                northbound::switch_on_router(name, &spec.vpc, port, router_port(spec, held.mac, &held.addresses), out);
                interconnection::said(nic, held, out);
                interconnection = Some(Box::new(wish.granted(spec, held)));
            } else if spec.has_switch() {
                northbound::switch_row(name, out);
            }
            if let Some((nic, wish)) = asked {
                out.say(Fact::Request(nic), FactValue::Request(wish.request(name, subnet.created, spec)));
            }
            if let Some(segment) = segment {
                underlay::localnet_port(name, segment, out);
            }
            let gateways = interconnection.as_ref().map_or(&spec.gateways, |found| &found.addresses).clone();
            if let Some(given) = spec.dhcp.as_ref().filter(|_| spec.has_switch()) {
                for cidr in spec.cidrs.iter() {
                    dhcp::Answer { subnet: name, cidr, gateways: &gateways, mtu: spec.mtu }.of_subnet(given, out);
                }
            }
            let network = Network {
                vpc: Arc::clone(&spec.vpc),
                cidrs: spec.cidrs,
                gateways,
                interconnection,
                closing: subnet.deleting,
                switch: spec.has_switch(),
                router: spec.has_router(),
                segment: segment.clone(),
                central: spec.central.clone(),
                dhcp: spec.dhcp.is_some() && spec.has_switch(),
                mtu: spec.mtu,
            };
            out.derive(Arc::clone(name), network);
            let mut excluded = spec.excluded.clone();
            excluded.extend(spec.gateways.iter().map(|ip| (*ip, *ip)));
            out.say(Fact::Pool(Arc::clone(name)), FactValue::Pool { vpc: Arc::clone(&spec.vpc), cidrs: spec.cidrs, excluded });
        }
    });
}

/// The younger subnets that were refused because of one, and where that is in a physical network.
type Found = (Vec<Name>, Option<Box<Segment>>);

/// What only the other objects can tell: the VPC and the Vlan exist, and no older subnet of the VPC has one of the addresses.
/// Subnets that OVN does not carry are set against those of their provider.
fn check(cx: &mut Cx<'_, World>, name: &Name, created: i64, spec: &SubnetSpec) -> Result<Found, Problem> {
    let (others, place): (Vec<_>, _) = match &spec.provider {
        Some(provider) if !spec.has_switch() => {
            let others = cx.rows::<SubnetsByProvider>(provider).into_iter();
            let others = others.filter_map(|(other, subnet)| Some((other, subnet.created, subnet.spec.as_ref().ok()?.cidrs)));
            (others.collect(), format!("has the same provider {provider:?}"))
        }
        _ if cx.get::<Router>(&spec.vpc).is_none() => {
            return Err(Problem { reason: "UnknownVpc", message: format!("spec.vpc: VPC {:?} does not exist", spec.vpc) });
        }
        _ => {
            let others = cx.rows::<RangesByVpc>(&spec.vpc).into_iter().map(|(other, range)| (other, range.created, range.cidrs));
            (others.collect(), format!("in the same VPC {:?}", spec.vpc))
        }
    };
    let segment = match &spec.vlan {
        Some(vlan) if spec.has_switch() => Some(Box::new(underlay::segment(cx, vlan)?)),
        _ => None,
    };
    let mut refused = Vec::new();
    for (other, age, cidrs) in others {
        if other == name {
            continue;
        }
        if let Some((mine, theirs)) = spec.cidrs.overlap(&cidrs) {
            if (age, other) < (created, name) {
                let message = format!("spec.cidrBlock: {mine} overlaps with {theirs} of subnet {other:?}, which is older and {place}");
                return Err(Problem { reason: "Overlap", message });
            }
            refused.push(Arc::clone(other));
        }
    }
    Ok((refused, segment))
}

/// The name of the switch's end of the link to its router. The southbound database has one space of names for ports of switches
/// and of routers (`Port_Binding:logical_port`), so that it must not be that of a router port, such as when a subnet is
/// named like its VPC. No name of a Kubernetes object has an underscore.
fn switch_port(cx: &mut Cx<'_, World>, name: &Name, vpc: &Name) -> String {
    let usual = format!("{name}-{vpc}");
    let taken = cx.keys::<SubnetsByRouterPort>(&Name::from(usual.as_str())).next().is_some();
    if taken { format!("{name}_{vpc}") } else { usual }
}

/// The router's port in a subnet, with these addresses, each with the length of its range.
fn router_port<'a>(spec: &'a SubnetSpec, mac: MacAddr, addresses: &[IpAddr]) -> RouterPort<'a> {
    let length = |ip: &IpAddr| spec.cidrs.of_family(*ip).map(|net| format!("{ip}/{}", net.prefix_len()));
    RouterPort { mac, networks: addresses.iter().filter_map(length).collect(), advertised: &spec.advertised, mtu: None }
}
