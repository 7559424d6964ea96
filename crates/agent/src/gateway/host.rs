//! The host's end of the gateway bridge: link, addresses, the router as a neighbour, and routes to pods.

use std::collections::BTreeSet;

use api::Transit;
use ipnet::IpNet;
use linux::{IpPrefix, Link, LinkChange, Route, sysctl};

use super::{BRIDGE, Exits, same_family};
use crate::node::Node;

/// Makes the host's end what it is to be; what is right already is not touched.
pub(super) async fn connect(node: &Node, link: &Link, transit: &Transit, exits: &Exits) -> linux::Result<()> {
    let (links, index) = (&node.links, link.index);
    forward(node, exits)?;
    if !link.up {
        links.change(index, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await?;
    }
    let has = links.addresses(Some(index)).await?;
    let neighbours = links.permanent_neighbours(index).await?;
    let own: Vec<IpPrefix> = transit.node().iter().filter_map(prefix).collect();
    for address in own.iter().filter(|address| !has.contains(address)) {
        links.add_address(index, *address).await?;
    }
    // Of another link between router and node, that a former agent was given.
    for stale in has.iter().filter(|address| !own.contains(address)) {
        links.delete_address(index, *stale).await?;
    }
    for router in transit.router() {
        let wanted = (router.addr(), Transit::ROUTER_MAC.octets());
        if !neighbours.contains(&wanted) {
            links.replace_neighbour(index, wanted.0, wanted.1).await?;
        }
    }
    let there: Vec<Route> = links.routes().await?.into_iter().filter(|route| route.device == Some(index) && route.via.is_some()).collect();
    let mut wanted = BTreeSet::new();
    for range in &exits.ranges {
        let Some(router) = transit.router().into_iter().find(|router| same_family(router.addr(), range.addr())) else { continue };
        let Some(destination) = prefix(range) else { continue };
        wanted.insert(destination);
        if !there.iter().any(|route| route.destination == destination && route.via == Some(router.addr())) {
            links.replace_route(&Route::new(destination).via(router.addr()).dev(index)).await?;
        }
    }
    for stale in there.iter().filter(|route| !wanted.contains(&route.destination)) {
        links.delete_route(stale).await?;
    }
    Ok(())
}

fn prefix(net: &IpNet) -> Option<IpPrefix> {
    IpPrefix::new(net.addr(), net.prefix_len()).ok()
}

/// Lets the kernel pass packets on, for the families that there are.
fn forward(node: &Node, exits: &Exits) -> linux::Result<()> {
    let turn_on = |key: &str| {
        if sysctl::read(&node.netns, key)? != "1" {
            sysctl::write(&node.netns, key, "1")?;
            tracing::info!(key, link = BRIDGE, "the kernel forwards packets from now on");
        }
        Ok(())
    };
    if exits.ranges.iter().any(|range| range.addr().is_ipv4()) {
        turn_on("net/ipv4/ip_forward")?;
    }
    if exits.ranges.iter().any(|range| range.addr().is_ipv6()) {
        turn_on("net/ipv6/conf/all/forwarding")?;
    }
    Ok(())
}
