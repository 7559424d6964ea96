//! `u2oInterconnection` of a `Subnet` on a Vlan: the router of the VPC has an address there, which is the gateway of the subnet's NICs.
//! It leads from and to the other subnets of the VPC; the rest it sends to the gateway of the physical network, as it is.

use std::net::IpAddr;

use api::cidr::parse_addresses;
use api::{MacAddr, v1};
use engine::{Cx, Engine, Index, Out};
use ipnet::IpNet;

use crate::egress;
use crate::fact::{Fact, FactValue, Interconnected, IpHolder, NicRequest, Problem};
use crate::holder::Identity;
use crate::input::text;
use crate::northbound::{self, Policy};
use crate::world::{Allocation, Name, Network, NicKey, Router, SubnetSpec, Ways, World};

/// Key in `external_ids` of a policy of an interconnection, as Kube-OVN has it.
pub(crate) const MARK: &str = "isU2ORoutePolicy";

/// Priorities that Kube-OVN gives them: behind the way to a node, which may have an address in the subnet, and before it.
const FROM_OTHERS: i64 = 29_400;
const TO_GATEWAY: i64 = 30_050;
const SAME_SUBNET: i64 = 30_060;

/// What a subnet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Addresses of the router that are chosen, or that the status records.
    pub addresses: Vec<IpAddr>,
    /// Its MAC that the status records.
    pub mac: Option<MacAddr>,
    /// Whether that is all of it, and so held.
    pub held: bool,
    /// Whether the router leads to overlay subnets alone (`overlayOnlyRouting`).
    pub overlay_only: bool,
}

/// Derived: what connects a subnet with the others of its VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interconnection {
    /// Addresses of the router, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Gateways of the physical network, IPv4 first.
    pub physical: Vec<IpAddr>,
    /// Whether the router leads to overlay subnets alone.
    pub overlay_only: bool,
}

/// The subnets of a VPC that are connected so.
pub(crate) struct InterconnectedByVpc;
impl Index<World> for InterconnectedByVpc {
    type Of = Network;
    type Key = Name;
    fn keys(_: &Name, network: &Network, out: &mut Vec<Name>) {
        out.extend(network.interconnection.is_some().then(|| network.vpc.clone()));
    }
}

impl Wish {
    /// What an object asks for, if anything; or why that cannot be.
    pub(crate) fn of(object: &v1::Subnet, spec: &SubnetSpec) -> Option<Result<Self, Problem>> {
        let asked = object.spec.u2o_interconnection == Some(true);
        asked.then(|| Self::read(object, spec).map_err(|why| Problem { reason: "NotInterconnected", message: why }))
    }

    fn read(object: &v1::Subnet, spec: &SubnetSpec) -> Result<Self, String> {
        if spec.vlan.is_none() || !spec.has_switch() {
            return Err("spec.u2oInterconnection: true: has no meaning without spec.vlan".to_owned());
        }
        if spec.logical_gateway {
            return Err("spec.u2oInterconnection: true: with spec.logicalGateway the router of the VPC is the gateway already".to_owned());
        }
        let field = "spec.u2oInterconnectionIP";
        let chosen = parse_addresses(object.spec.u2o_interconnection_ip.as_deref().unwrap_or_default());
        let chosen = chosen.map_err(|why| format!("{field}: {why}"))?;
        for address in &chosen {
            let Some(range) = spec.cidrs.of_family(*address).filter(|range| range.contains(address)) else {
                return Err(format!("{field}: {address} lies outside cidrBlock {}", spec.cidrs));
            };
            if spec.gateways.contains(address) {
                return Err(format!("{field}: {address} is spec.gateway, which the physical network has"));
            }
            if *address == range.network() || (address.is_ipv4() && *address == range.broadcast()) {
                return Err(format!("{field}: {address} is the network or broadcast address of {range}"));
            }
        }
        let (none, features) = (v1::SubnetStatus::default(), object.spec.u2o_features.as_ref());
        let status = object.status.as_ref().unwrap_or(&none);
        let overlay_only = features.is_some_and(|features| features.overlay_only_routing == Some(true));
        // A status that cannot be read, or is not of this spec, shows nothing that is held.
        let shown = parse_addresses(status.u2o_interconnection_ip.as_deref().unwrap_or_default()).unwrap_or_default();
        let of_vpc = text(&status.u2o_interconnection_vpc).is_none_or(|vpc| vpc == spec.vpc);
        let fits = |ip: &IpAddr| spec.cidrs.contains(*ip) && !spec.gateways.contains(ip);
        if of_vpc && !shown.is_empty() && shown.iter().all(fits) && chosen.iter().all(|ip| shown.contains(ip)) {
            let mac = text(&status.u2o_interconnection_mac).and_then(|mac| mac.parse().ok());
            let whole = spec.cidrs.iter().all(|range| shown.iter().any(|ip| range.contains(ip)));
            return Ok(Self { held: whole && mac.is_some(), addresses: shown, mac, overlay_only });
        }
        Ok(Self { addresses: chosen, mac: None, held: false, overlay_only })
    }

    /// What the allocator is asked for.
    pub(crate) fn request(&self, subnet: &Name, created: i64, spec: &SubnetSpec) -> NicRequest {
        NicRequest {
            identity: Identity::Reserved,
            subnet: subnet.clone(),
            addresses: self.addresses.clone(),
            // One that an earlier controller's router has there goes on.
            mac: self.mac.or(spec.gateway_mac),
            source: None,
            held: self.held,
            running: true,
            created,
        }
    }

    /// What was got.
    pub(crate) fn granted(&self, spec: &SubnetSpec, held: &Allocation) -> Interconnection {
        Interconnection { addresses: held.addresses.clone(), physical: spec.gateways.clone(), overlay_only: self.overlay_only }
    }
}

/// The state shown to users, if an interconnection is asked for.
pub(crate) fn state(spec: &SubnetSpec, held: Option<&Allocation>) -> Option<Result<Interconnected, Problem>> {
    let wish = spec.interconnection.as_deref()?;
    Some(wish.as_ref().map(|_| Interconnected { vpc: spec.vpc.clone(), held: held.cloned() }).map_err(Clone::clone))
}

/// Says that the router holds its addresses.
pub(crate) fn said<DK, D>(nic: &NicKey, held: &Allocation, out: &mut Out<Fact, DK, D>) {
    out.say(Fact::Ip(nic.clone()), FactValue::Ip(IpHolder { node: None, nic: held.clone() }));
}

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Network>("interconnection", |cx, subnet, network, out| {
        let Some(own) = network.interconnection.as_deref() else { return };
        let mut alike = vec![network.cidrs];
        if !own.overlay_only {
            let others = cx.rows::<InterconnectedByVpc>(&network.vpc).into_iter().filter(|(name, _)| *name != subnet);
            let routed = others.filter(|(_, other)| other.interconnection.as_ref().is_some_and(|other| !other.overlay_only));
            alike.extend(routed.map(|(_, other)| other.cidrs));
        }
        for range in network.cidrs.iter() {
            let address = range.addr();
            let family = northbound::family(address);
            let gateways = physical(cx, network, own, range);
            if gateways.is_empty() {
                continue;
            }
            let from: Vec<IpNet> = alike.iter().filter_map(|cidrs| cidrs.of_family(address)).collect();
            let mut say = |priority, matching: String, action, via: &[IpAddr]| {
                let (key, marks) =
                    (format!("interconnection/{subnet}/{priority}/{family}"), &[(MARK, "true"), (egress::INSIDE_MARK, subnet)]);
                Policy { key, priority, matching, action, via, marks }.say(&network.vpc, out);
            };
            say(FROM_OTHERS, format!("{family}.dst == {range}"), "allow", &[]);
            say(TO_GATEWAY, format!("{family}.src == {range}"), "reroute", &gateways);
            say(SAME_SUBNET, format!("{family}.src == {} && {family}.dst == {range}", any_of(from)), "allow", &[]);
        }
    });
    engine.leaf::<Router>("interconnection-route", |cx, vpc, _, out| {
        let connected = cx.rows::<InterconnectedByVpc>(vpc).into_iter();
        let own: Vec<IpAddr> =
            connected.filter_map(|(_, network)| network.interconnection.as_ref()).flat_map(|i| i.addresses.clone()).collect();
        for v4 in [true, false] {
            // Policies are looked at only for what has a route. Where none matches, the router sends it to itself, and drops it.
            if let Some(address) = own.iter().copied().find(|address| address.is_ipv4() == v4)
                && !egress::leads(cx, vpc, address)
            {
                egress::default_route(cx, vpc, address, out);
            }
        }
    });
}

/// The physical gateways by which a range is left: those that the VPC names for all, where they are in the range; else the subnet's.
fn physical(cx: &mut Cx<'_, World>, network: &Network, own: &Interconnection, range: IpNet) -> Vec<IpAddr> {
    let routes = cx.get::<Ways>(&network.vpc).into_iter().flat_map(|ways| &ways.living);
    let named: Vec<IpAddr> = routes.filter(|route| route.is_default()).map(|route| route.via).filter(|via| range.contains(via)).collect();
    if named.is_empty() { own.physical.iter().copied().filter(|gateway| range.contains(gateway)).collect() } else { named }
}

/// One of several ranges, as a match spells it (ovn-sb(5), `Logical_Flow:match`).
fn any_of(mut ranges: Vec<IpNet>) -> String {
    ranges.sort();
    match &ranges[..] {
        [one] => one.to_string(),
        several => format!("{{{}}}", several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
