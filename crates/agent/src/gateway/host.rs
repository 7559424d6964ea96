//! The host's ends of the links between its stack and the VPC: addresses, neighbours, and routes to pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::annotations::NicRecord;
use api::{Cidrs, MacAddr, Transit};
use ipnet::IpNet;
use linux::{IpPrefix, Link, LinkChange, Mac, Route, sysctl};

use super::exits::{Exits, Leaving};
use super::{BRIDGE, same_family};
use crate::node::Node;

/// A way to pods.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    destination: IpPrefix,
    via: IpAddr,
    /// Address under which the node itself speaks to them.
    source: Option<IpAddr>,
}

impl Way {
    fn is(&self, route: &Route) -> bool {
        route.destination == self.destination && route.via == Some(self.via) && route.source == self.source
    }
}

/// Whether pods are reached by a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    Yes,
    No,
    /// As it did until now.
    AsBefore,
}

/// What a link of the host is to have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    addresses: Vec<IpPrefix>,
    /// Whether the link has a link-local address besides, without which the kernel asks for no neighbour but for packets from the
    /// link's own addresses.
    link_local: bool,
    /// Who is never asked for its MAC.
    neighbours: Vec<(IpAddr, Mac)>,
    /// `None`: they stay as they are.
    routes: Option<Vec<Way>>,
}

impl End {
    /// That of the gateway bridge. It leads to pods of the default VPC only where the node has no port of its own.
    pub(super) fn of_bridge(transit: &Transit, exits: &Exits, leads: Leads) -> Self {
        let mut end = Self { routes: (leads != Leads::AsBefore).then(Vec::new), ..Self::default() };
        end.link(transit, Transit::ROUTER_MAC, (leads == Leads::Yes).then_some(&exits.own));
        for other in &exits.others {
            end.link(&Transit::numbered(other.link), Transit::numbered_mac(other.link), Some(&other.leaving));
        }
        end
    }

    /// A link to the router of a VPC, and the way to its pods.
    fn link(&mut self, transit: &Transit, router: MacAddr, leading_to: Option<&Leaving>) {
        self.addresses.extend(transit.node().iter().filter_map(prefix));
        self.neighbours.extend(transit.router().iter().map(|end| (end.addr(), router.octets())));
        let via = transit.router().iter().map(IpNet::addr).collect::<Vec<_>>();
        if let (Some(all), Some(leaving)) = (&mut self.routes, leading_to) {
            all.extend(routes(leaving, &via, None));
        }
    }

    /// That of the node's own port.
    pub(super) fn of_port(record: &NicRecord, leaving: &Leaving) -> Self {
        let length = |address: &IpAddr| record.cidrs.and_then(|cidrs| cidrs.of_family(*address)).map(|net| net.prefix_len());
        let addresses = record.addresses.iter().filter_map(|address| IpPrefix::new(*address, length(address)?).ok()).collect();
        let link_local = record.addresses.iter().any(IpAddr::is_ipv6);
        let routes = Some(routes(leaving, &record.gateways, record.cidrs));
        Self { addresses, link_local, neighbours: Vec::new(), routes }
    }

    /// The same, with the addresses under which the node speaks to pods: its own, as far as it has them. Whoever answers from any
    /// address answers from the one that was asked then, and pods know their node by it.
    pub(super) fn speaking_as(mut self, own: &[IpAddr]) -> Self {
        for way in self.routes.iter_mut().flatten() {
            way.source = own.iter().copied().find(|own| same_family(*own, way.via));
        }
        self
    }
}

/// A route to each range that there is a next hop for, but for those that the link itself is in.
fn routes(leaving: &Leaving, via: &[IpAddr], own: Option<Cidrs>) -> Vec<Way> {
    let is_own = |range: &IpNet| own.is_some_and(|own| own.iter().any(|own| own == *range));
    let others = leaving.ranges.iter().filter(|range| !is_own(range));
    let via = |range: &IpNet| via.iter().copied().find(|via| same_family(*via, range.addr()));
    others.filter_map(|range| Some(Way { destination: prefix(range)?, via: via(range)?, source: None })).collect()
}

/// Makes an end what it is to be; what is right already is not touched. New routes replace those by another link.
pub(super) async fn connect(node: &Node, link: &Link, end: &End) -> linux::Result<()> {
    let (links, index) = (&node.links, link.index);
    if end.link_local {
        node.settings.require(&format!("net/ipv6/conf/{}/addr_gen_mode", link.name), "0")?;
    }
    if !link.up {
        links.change(index, LinkChange { up: Some(true), no_link_local: !end.link_local, ..LinkChange::default() }).await?;
    }
    let mut has = links.addresses(Some(index)).await?;
    has.retain(|address| !(end.link_local && address.is_link_local()));
    for address in end.addresses.iter().filter(|address| !has.contains(address)) {
        links.add_address(index, *address).await?;
    }
    // That a former agent was given.
    for stale in has.iter().filter(|address| !end.addresses.contains(address)) {
        links.delete_address(index, *stale).await?;
    }
    if !end.neighbours.is_empty() {
        let known = links.permanent_neighbours(index).await?;
        for (address, mac) in end.neighbours.iter().filter(|wanted| !known.contains(wanted)) {
            links.replace_neighbour(index, *address, *mac).await?;
        }
    }
    let Some(wanted) = &end.routes else { return Ok(()) };
    let all = links.routes().await?;
    let there = || all.iter().filter(|route| route.device == Some(index) && route.via.is_some());
    for way in wanted.iter().filter(|way| !there().any(|route| way.is(route))) {
        let route = Route::new(way.destination).via(way.via).dev(index);
        links.replace_route(&Route { source: way.source, ..route }).await?;
    }
    // One that differs in its source alone was replaced.
    let is_wanted = |route: &Route| wanted.iter().any(|way| way.destination == route.destination && route.via == Some(way.via));
    for stale in there().filter(|route| !is_wanted(route)) {
        links.delete_route(stale).await?;
    }
    Ok(())
}

fn prefix(net: &IpNet) -> Option<IpPrefix> {
    IpPrefix::new(net.addr(), net.prefix_len()).ok()
}

/// Who made a route (`rtm_protocol`): router discovery (RFC 4861).
const BY_ROUTER: u8 = 9;
const FORWARD_V4: &str = "net/ipv4/ip_forward";
const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";

/// Lets the kernel pass packets on, for the families that leave. That stays, since others may rely on it by then.
pub(super) async fn forward(node: &Node, exits: Option<&Exits>) -> linux::Result<()> {
    let ranges = exits.map(Exits::ranges).unwrap_or_default();
    let leaves = |v4: bool| ranges.iter().any(|range| range.addr().is_ipv4() == v4);
    let set = |key: &str, needed: bool| {
        if needed {
            return node.settings.require(key, "1");
        }
        node.settings.forget(key);
        Ok(())
    };
    let v4 = set(FORWARD_V4, leaves(true));
    if leaves(false) {
        hear_routers(node).await?;
    }
    set(FORWARD_V6, leaves(false))?;
    v4
}

/// Who forwards hears no router, unless told to, and forgets what it has heard (ip-sysctl, `accept_ra`): the node would lose its default
/// route. Where the kernel hears none anyway, somebody else does.
async fn hear_routers(node: &Node) -> linux::Result<()> {
    let routes = node.links.routes().await?;
    let defaults = routes.iter().filter(|route| route.destination == IpPrefix::DEFAULT_V6 && route.protocol == BY_ROUTER);
    let devices: BTreeSet<u32> = defaults.filter_map(|route| route.device).collect();
    if devices.is_empty() {
        return Ok(());
    }
    for link in node.links.links().await?.into_iter().filter(|link| devices.contains(&link.index)) {
        let key = format!("net/ipv6/conf/{}/accept_ra", link.name);
        if sysctl::read(&node.netns, &key)? != "0" {
            node.settings.require(&key, "2")?;
        }
    }
    Ok(())
}

/// Lets packets of pods in by the bridge although the way to those pods is the node's own port: loosely checked (ip-sysctl,
/// `rp_filter`), whatever holds for all links.
pub(super) fn accept_pods(node: &Node) -> linux::Result<()> {
    node.settings.require(&format!("net/ipv4/conf/{BRIDGE}/rp_filter"), "2")
}

#[cfg(test)]
mod tests {
    use super::super::exits::Other;
    use super::*;

    #[test]
    fn pods_are_reached_by_the_nodes_own_port_or_else_by_the_bridge() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let own = Leaving { ranges: nets(&["10.16.0.0/16", "100.64.0.0/16", "fd00::/64"]), ..Leaving::default() };
        let mut exits = Exits { own, ..Exits::default() };
        let transit: Transit = Transit::DEFAULT.parse().unwrap();
        let record = NicRecord {
            subnet: "join".into(),
            addresses: vec!["100.64.0.7".parse().unwrap()],
            mac: Transit::NODE_MAC,
            cidrs: Some("100.64.0.0/16".parse().unwrap()),
            gateways: vec!["100.64.0.1".parse().unwrap()],
            segment: None,
        };
        let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap()];
        let port = End::of_port(&record, &exits.own).speaking_as(&addresses);
        assert_eq!(port.addresses, ["100.64.0.7/16".parse().unwrap()]);
        // Its own range is on the link, and there is no IPv6.
        let way = |source| Way { destination: "10.16.0.0/16".parse().unwrap(), via: "100.64.0.1".parse().unwrap(), source };
        assert_eq!(port.routes.unwrap(), [way(Some(addresses[0]))]);
        assert_eq!(End::of_port(&record, &exits.own).routes.unwrap(), [way(None)]);
        assert_eq!(End::of_bridge(&transit, &exits, Leads::No).routes.unwrap(), []);
        assert_eq!(End::of_bridge(&transit, &exits, Leads::Yes).routes.unwrap().len(), 3);
        // Other VPCs have no other way.
        let leaving = Leaving { ranges: nets(&["10.20.0.0/16"]), ..Leaving::default() };
        exits.others.push(Other { vpc: "blue".to_owned(), link: 3, leaving });
        let bridge = End::of_bridge(&transit, &exits, Leads::No);
        let via = "169.254.172.13".parse().unwrap();
        assert_eq!(bridge.routes.unwrap(), [Way { destination: "10.20.0.0/16".parse().unwrap(), via, source: None }]);
        assert_eq!(bridge.neighbours.iter().find(|(address, _)| *address == via).unwrap().1, [0x0e, 0xfe, 0, 1, 0, 3]);
        assert_eq!(bridge.addresses.len(), 4);
    }
}
