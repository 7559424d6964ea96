//! Routes.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};

use crate::link::absent;
use crate::{Handle, IpPrefix, Result};

/// A unicast route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Destination; [`IpPrefix::DEFAULT_V4`] or [`IpPrefix::DEFAULT_V6`] for a default route.
    pub destination: IpPrefix,
    /// Next hop; without one, the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// Index of the outgoing link.
    pub device: Option<u32>,
    /// Source address that the kernel picks for its own packets.
    pub source: Option<IpAddr>,
    /// Whether the next hop is on the link although no address says so.
    pub onlink: bool,
    /// Metric; the lowest wins. The kernel reports 1024 for IPv6 routes made without one.
    pub metric: Option<u32>,
    /// MTU in bytes of what goes this way, if it is not the link's.
    pub mtu: Option<u32>,
    /// Routing table; 254 is the main one.
    pub table: u32,
    /// Who made it (`rtm_protocol`): 2 kernel, 3 boot, 4 static.
    pub protocol: u8,
}

impl Route {
    /// A static route of the main table.
    #[must_use]
    pub const fn new(destination: IpPrefix) -> Self {
        Self { destination, via: None, device: None, source: None, onlink: false, metric: None, mtu: None, table: 254, protocol: 4 }
    }

    /// With a next hop.
    #[must_use]
    pub const fn via(mut self, address: IpAddr) -> Self {
        self.via = Some(address);
        self
    }

    /// With an outgoing link.
    #[must_use]
    pub const fn dev(mut self, index: u32) -> Self {
        self.device = Some(index);
        self
    }

    /// With a preferred source address.
    #[must_use]
    pub const fn src(mut self, address: IpAddr) -> Self {
        self.source = Some(address);
        self
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let wire = |address: IpAddr| match address {
            IpAddr::V4(address) => RouteAddress::Inet(address),
            IpAddr::V6(address) => RouteAddress::Inet6(address),
        };
        let header = &mut message.header;
        header.address_family = if self.destination.address().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        header.destination_prefix_length = self.destination.length();
        header.protocol = RouteProtocol::from(self.protocol);
        header.kind = RouteType::Unicast;
        header.scope = if self.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
        header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        if self.onlink {
            header.flags |= RouteFlags::Onlink;
        }
        message.attributes.push(RouteAttribute::Table(self.table));
        if self.destination.length() > 0 {
            message.attributes.push(RouteAttribute::Destination(wire(self.destination.address())));
        }
        message.attributes.extend(self.via.map(|address| RouteAttribute::Gateway(wire(address))));
        message.attributes.extend(self.device.map(RouteAttribute::Oif));
        message.attributes.extend(self.source.map(|address| RouteAttribute::PrefSource(wire(address))));
        message.attributes.extend(self.metric.map(RouteAttribute::Priority));
        message.attributes.extend(self.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        message
    }
}

impl Handle {
    /// Unicast routes of every table and both families, sorted. Routes over several next hops are left out.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for default in [IpPrefix::DEFAULT_V4, IpPrefix::DEFAULT_V6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = Route::new(default).message().header.address_family;
            let found = self.collect("routes", || self.netlink.route().get(filter).execute()).await?;
            routes.extend(found.iter().filter_map(|message| read(message, default)));
        }
        routes.sort();
        Ok(routes)
    }

    /// The link by which the kernel reaches `address` from here, and the next hop if that is another.
    ///
    /// # Errors
    /// When there is no route.
    pub async fn route_to(&self, address: IpAddr) -> Result<(u32, Option<IpAddr>)> {
        let prefix = IpPrefix::host(address);
        let message = Route::new(prefix).message();
        let found = self.collect(&format!("route to {address}"), || self.netlink.route().get(message).execute()).await?;
        let route = found.iter().find_map(|message| read(message, prefix));
        let unreachable = || self.failed_by(&format!("route to {address}"), "find", rustix::io::Errno::NETUNREACH.into());
        route.and_then(|route| Some((route.device?, route.via))).ok_or_else(unreachable)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// When it exists already, or the next hop cannot be reached.
    pub async fn add_route(&self, route: &Route) -> Result<()> {
        let request = self.netlink.route().add(route.message());
        request.execute().await.map_err(|error| self.failed(&object(route), "add", error))
    }

    /// Adds a route, or puts it in the place of the one with the same destination, table and metric.
    ///
    /// # Errors
    /// When the next hop cannot be reached or the link is down.
    pub async fn replace_route(&self, route: &Route) -> Result<()> {
        let request = self.netlink.route().add(route.message()).replace();
        request.execute().await.map_err(|error| self.failed(&object(route), "replace", error))
    }

    /// Deletes a route. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_route(&self, route: &Route) -> Result<()> {
        match self.netlink.route().del(route.message()).execute().await {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(self.failed(&object(route), "delete", error)).map(|_| ()),
        }
    }
}

fn object(route: &Route) -> String {
    let via = route.via.map_or_else(String::new, |via| format!(" via {via}"));
    format!("route {}{via}", route.destination)
}

fn read(message: &RouteMessage, default: IpPrefix) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let mut route = Route::new(default);
    route.table = u32::from(message.header.table);
    route.protocol = message.header.protocol.into();
    route.onlink = message.header.flags.contains(RouteFlags::Onlink);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.destination = IpPrefix::new(ip(address)?, message.header.destination_prefix_length).ok()?;
            }
            RouteAttribute::Gateway(address) => route.via = ip(address),
            RouteAttribute::Oif(index) => route.device = Some(*index),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    Some(route)
}

/// The route that the kernel tells of, if it is a unicast one by one link.
pub(crate) fn told(message: &RouteMessage) -> Option<Route> {
    let default = if message.header.address_family == AddressFamily::Inet { IpPrefix::DEFAULT_V4 } else { IpPrefix::DEFAULT_V6 };
    read(message, default).filter(|route| route.device.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VethEnd;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn routes_are_added_replaced_read_back_and_deleted() {
        let scratch = Scratch::new("route");
        let handle = Handle::open(&scratch.netns).unwrap();
        let near = VethEnd { name: "a", ..VethEnd::default() };
        handle.create_veth(&near, &VethEnd { name: "b", ..near }).await.unwrap();
        let a = handle.index("a").await.unwrap();
        handle.set_up(a).await.unwrap();
        handle.set_up(handle.index("b").await.unwrap()).await.unwrap();
        for (address, gateway, other) in [("10.0.0.2/24", "10.0.0.1", "10.0.0.9"), ("fd00::2/64", "fd00::1", "fd00::9")] {
            handle.add_address(a, address.parse().unwrap()).await.unwrap();
            let gateway: IpAddr = gateway.parse().unwrap();
            let default = Route { metric: Some(100), mtu: Some(1400), ..Route::new(IpPrefix::default_of(gateway)).via(gateway).dev(a) };
            handle.add_route(&default).await.unwrap();
            assert!(handle.add_route(&default).await.unwrap_err().is_existing());
            let moved = default.via(other.parse().unwrap());
            handle.replace_route(&moved).await.unwrap();
            let of = |routes: Vec<Route>| {
                let family = |route: &Route| route.destination == default.destination && route.table == 254;
                routes.into_iter().filter(family).collect::<Vec<_>>()
            };
            assert_eq!(of(handle.routes().await.unwrap()), [moved]);
            handle.delete_route(&moved).await.unwrap();
            handle.delete_route(&moved).await.unwrap();
            assert_eq!(of(handle.routes().await.unwrap()), []);
        }
        let onlink = Route { metric: Some(5), ..Route::new("192.0.2.1/32".parse().unwrap()).dev(a) };
        handle.replace_route(&onlink).await.unwrap();
        assert!(handle.routes().await.unwrap().contains(&onlink));
    }

    #[tokio::test]
    async fn an_unreachable_next_hop_is_named() {
        let scratch = Scratch::new("hop");
        let handle = Handle::open(&scratch.netns).unwrap();
        let error = handle.add_route(&Route::new(IpPrefix::DEFAULT_V4).via("10.0.0.1".parse().unwrap())).await.unwrap_err();
        assert!(error.to_string().starts_with("route 0.0.0.0/0 via 10.0.0.1 in network namespace fvt-"), "{error}");
        assert!(error.to_string().ends_with("cannot add: Network is unreachable (os error 101)"), "{error}");
    }
}
