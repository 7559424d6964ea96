//! The way out by the wire: of pods whose addresses are kept, from the gateway bridge through that of a provider network, and back, past
//! the host's stack. A host that tells connections apart must see both directions of each, or neither.

use std::net::IpAddr;

use api::{Egress, MacAddr, Transit};
use ipnet::IpNet;
use linux::{IpPrefix, Mac};
use openflow::Port;

use super::exits::Exits;
use super::neighbours::{Asked, Found};
use super::{GatewayError, same_family};
use crate::cluster::Exit;
use crate::node::Node;
use crate::ovs::Patch;
use crate::{hops, provider};

/// The main routing table.
const MAIN: u32 = 254;
/// What no router passes on (RFC 3927, RFC 4291).
const LINK_LOCAL: [&str; 2] = ["169.254.0.0/16", "fe80::/10"];
/// As many ranges may leave by the host: each is a flow.
const MOST: usize = 2000;

/// A way out that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    /// The bridge of the network.
    pub(super) bridge: String,
    /// The gateway bridge's port to it.
    pub(super) here: Port,
    /// Its port to the gateway bridge.
    pub(super) there: Port,
    /// The NIC, and its MAC, which is the node's own there.
    pub(super) nic: Port,
    pub(super) mac: Mac,
    /// Of each family that leaves so.
    pub(super) families: Vec<Family>,
    /// Who leaves.
    pub(super) routers: Vec<Router>,
    /// Whom the host has a way to that is not its default one, and pods and what is the node's own: by the host.
    pub(super) by_host: Vec<IpNet>,
}

/// What a family leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// Whether it is IPv4.
    pub(super) v4: bool,
    /// MAC of the gateway.
    pub(super) gateway: Mac,
    /// The node's address on the network, under which routers say what they have to say: their own has no way back.
    pub(super) own: Option<IpAddr>,
}

/// The router of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Router {
    pub(super) mac: MacAddr,
    /// Its own addresses on the link to the host.
    pub(super) ends: Vec<IpAddr>,
    /// Ranges that leave.
    pub(super) kept: Vec<IpNet>,
}

/// How pods whose addresses are kept leave.
#[derive(Debug)]
pub(super) enum Way {
    /// What is known does not say yet.
    Unknown,
    /// By the host; and why, if that is not what was asked for.
    Host(Option<GatewayError>),
    Wire(Wire, Option<GatewayError>),
}

/// What is to be there for a network, before it is known who the gateways are.
pub(super) struct Asking {
    /// The network's bridge, if one is asked for.
    pub(super) bridge: Option<String>,
    pub(super) asked: Option<Asked>,
    pub(super) patch: Option<Patch>,
    pub(super) way: Way,
}

impl Asking {
    const fn none(way: Way) -> Self {
        Self { bridge: None, asked: None, patch: None, way }
    }
}

/// Looks how pods leave.
pub(super) async fn look(node: &Node, exits: &Exits, found: &Found) -> Result<Asking, GatewayError> {
    let Some(Egress::Localnet(transit)) = &node.config.egress else { return Ok(Asking::none(Way::Host(None))) };
    let exit = match node.cluster.exit() {
        None => return Ok(Asking::none(Way::Unknown)),
        Some(None) => return Ok(Asking::none(Way::Host(None))),
        Some(Some(exit)) => exit,
    };
    let Some(names) = provider::names(node, &exit.network) else { return Ok(Asking::none(Way::Unknown)) };
    let Some((link, mac)) = node.links.link(&names.bridge).await?.and_then(|link| Some((link.index, link.mac?))) else {
        // Such as while the switch starts anew: the link comes, and wakes this.
        return Ok(Asking { bridge: Some(names.bridge), ..Asking::none(Way::Unknown) });
    };
    let routes = node.links.routes().await?;
    let mut gateways = exit.gateways.clone();
    if gateways.is_empty() {
        let mut defaults: Vec<_> = routes.iter().filter(|route| route.destination.length() == 0 && route.device == Some(link)).collect();
        defaults.sort_by_key(|route| route.metric);
        for via in defaults.into_iter().filter_map(|route| route.via) {
            if !gateways.iter().any(|known| same_family(*known, via)) {
                gateways.push(via);
            }
        }
    }
    if gateways.is_empty() {
        let none = GatewayError::NoWire(exit.network, names.bridge.clone());
        return Ok(Asking { bridge: Some(names.bridge), ..Asking::none(Way::Host(Some(none))) });
    }
    let chassis = node.ovs.system_id().unwrap_or_default();
    let asked = Asked { index: link, from: hops::asks_as(&chassis, &exit.network, 0).octets(), gateways };
    let patch = Patch::to(&exit.network, &names.bridge);
    let own = node.links.addresses(None).await?;
    let on_link = node.links.addresses(Some(link)).await?;
    let family = |v4: bool| {
        let gateway = asked.gateways.iter().find(|gateway| gateway.is_ipv4() == v4).and_then(|gateway| *found.get(gateway)?)?;
        let speaks = on_link.iter().find(|own| own.address().is_ipv4() == v4 && !own.is_link_local());
        Some(Family { v4, gateway, own: speaks.map(IpPrefix::address) })
    };
    let families: Vec<Family> = [true, false].into_iter().filter_map(family).collect();
    let ports = patch.ports().map(|port| node.ovs.number_of(&port));
    let way = if asked.gateways.iter().any(|gateway| !found.contains_key(gateway)) && families.is_empty() {
        Way::Unknown
    } else if families.is_empty() {
        Way::Host(Some(GatewayError::SilentGateway(exit.network.clone(), asked.gateways.clone())))
    } else if let ([Some(here), Some(there)], Some(nic)) = (ports, node.ovs.number_of(&names.nic)) {
        let by_host = by_host(exits, &own, routes.iter().filter(|route| route.table == MAIN).map(|route| route.destination));
        if by_host.len() > MOST {
            Way::Host(Some(GatewayError::TooManyRoutes(exit.network.clone(), by_host.len())))
        } else {
            let routers = routers(exits, transit);
            let wire = Wire { bridge: names.bridge, here, there, nic, mac, families, routers, by_host };
            Way::Wire(wire, problem(&exit, &asked, found))
        }
    } else {
        // The ports come, and wake this.
        Way::Unknown
    };
    Ok(Asking { bridge: Some(patch.bridges[1].clone()), asked: Some(asked), patch: Some(patch), way })
}

/// What is not as it was asked for, although pods leave.
fn problem(exit: &Exit, asked: &Asked, found: &Found) -> Option<GatewayError> {
    if !exit.others.is_empty() {
        return Some(GatewayError::SeveralWires(exit.network.clone(), exit.others.join(", ")));
    }
    let silent: Vec<IpAddr> = asked.gateways.iter().copied().filter(|gateway| found.get(gateway) == Some(&None)).collect();
    (!silent.is_empty()).then(|| GatewayError::SilentGateway(exit.network.clone(), silent))
}

/// The routers of all VPCs that leave.
fn routers(exits: &Exits, transit: &Transit) -> Vec<Router> {
    let router = |mac, transit: &Transit, kept: &[IpNet]| Router {
        mac,
        ends: transit.router().iter().map(IpNet::addr).collect(),
        kept: IpNet::aggregate(&kept.to_vec()),
    };
    let others = exits.others.iter().map(|other| {
        let (mac, transit) = (Transit::numbered_mac(other.link), Transit::numbered(other.link));
        router(mac, &transit, &other.leaving.kept)
    });
    std::iter::once(router(Transit::ROUTER_MAC, transit, &exits.own.kept)).chain(others).collect()
}

/// Whom pods reach by the host, and who reaches them by it.
fn by_host(exits: &Exits, own: &[IpPrefix], routes: impl Iterator<Item = IpPrefix>) -> Vec<IpNet> {
    let net = |prefix: IpPrefix| IpNet::new(prefix.address(), prefix.length()).ok().map(|net| net.trunc());
    let mut all = exits.ranges();
    all.extend(LINK_LOCAL.iter().filter_map(|net| net.parse::<IpNet>().ok()));
    all.extend(own.iter().copied().chain(routes).filter(|prefix| prefix.length() > 0).filter_map(net));
    IpNet::aggregate(&all)
}

/// What of the switch a way out by the wire depends on.
#[derive(PartialEq)]
pub(super) struct Seen {
    exit: Option<Option<Exit>>,
    /// Whether the ports are there, and their numbers.
    stands: bool,
    ports: [Option<Port>; 3],
}

impl Seen {
    pub(super) fn of(node: &Node) -> Self {
        let exit = node.cluster.exit();
        let asked = exit.iter().flatten().find_map(|exit| Some((&exit.network, provider::names(node, &exit.network)?)));
        let Some((network, names)) = asked else { return Self { exit, stands: false, ports: [None; 3] } };
        let patch = Patch::to(network, &names.bridge);
        let stands = node.ovs.patch_lacks(Some(&patch)).is_ok_and(|lacks| lacks.is_empty());
        let [here, there] = patch.ports();
        let ports = [here, there, names.nic].map(|name| node.ovs.number_of(&name));
        Self { exit, stands, ports }
    }
}
