//! What a link of the node is reached by: its addresses, and the routes that lead over it; and how these pass to another link
//! without a moment in which the node has neither.

use linux::{Event, Events, Handle, IpPrefix, Netns, Route, Subject};
use serde::{Deserialize, Serialize};

/// Made by the kernel itself (`rtm_protocol`), with the address that they follow from.
const KERNEL: u8 = 2;

/// Addresses and routes of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addressing {
    pub(super) addresses: Vec<IpPrefix>,
    /// Those on the link itself first: by them are reached the next hops of the others.
    pub(super) routes: Vec<Route>,
}

/// The same, as it is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Recorded {
    addresses: Vec<String>,
    routes: Vec<RecordedRoute>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct RecordedRoute {
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metric: Option<u32>,
    table: u32,
    proto: u8,
    onlink: bool,
}

impl Addressing {
    /// What the kernel shows of a link. Link-local addresses stay where they are: each link makes its own.
    pub(super) async fn of(links: &Handle, index: u32) -> linux::Result<Self> {
        // Routes first: whatever comes in between, the addresses by which their next hops are reached are seen as well.
        let mut routes: Vec<_> = links.routes().await?.into_iter().filter(|route| is_movable(route, index)).collect();
        let addresses = links.addresses(Some(index)).await?.into_iter().filter(|address| !address.is_link_local()).collect();
        routes.sort_by_key(|route| route.via.is_some());
        Ok(Self { addresses, routes })
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|address| address.address().is_ipv6())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// All of both, each once.
    pub(super) fn and(mut self, other: Self) -> Self {
        let news: Vec<_> = other.addresses.into_iter().filter(|address| !self.addresses.contains(address)).collect();
        self.addresses.extend(news);
        self.routes.extend(other.routes);
        self.routes.sort_by_key(|route| route.via.is_some());
        self
    }

    /// Gives the addresses to a link, which others may have, too.
    pub(super) async fn give_addresses(&self, links: &Handle, to: u32) -> linux::Result<()> {
        let has = links.addresses(Some(to)).await?;
        for address in self.addresses.iter().filter(|address| !has.contains(address)) {
            links.add_address(to, *address).await?;
        }
        Ok(())
    }

    /// Leads the routes over a link: each is put in the place of what there is, in one step.
    pub(super) async fn lead_over(&self, links: &Handle, to: u32) -> linux::Result<()> {
        let there = links.routes().await?;
        for route in &self.routes {
            let route = Route { device: Some(to), ..*route };
            if !there.contains(&route) {
                links.replace_route(&route).await?;
            }
        }
        Ok(())
    }

    /// Takes from a link the addresses, and such routes as were not replaced since another link had one like them already. The other link
    /// is given first what came meanwhile, so that nothing is taken that it does not have.
    pub(super) async fn take_from(netns: &Netns, links: &Handle, index: u32, given: u32) -> linux::Result<()> {
        if Self::of(links, index).await?.is_empty() {
            return Ok(());
        }
        let (told, mut events) = Events::open(netns, Subject::Addressing)?;
        let left = Self::of(links, index).await?;
        left.give_addresses(links, given).await?;
        left.lead_over(links, given).await?;
        for route in &left.routes {
            links.delete_route(route).await?;
        }
        for address in &left.addresses {
            links.delete_address(index, *address).await?;
        }
        // With its last IPv4 address a link loses all routes of that family, and the kernel does not tell which: one that came since
        // the look at them is known only from having come.
        let now = told.routes().await?;
        let mut lost = Vec::new();
        for event in events.told() {
            match event {
                Event::Route(route) if is_movable(&route, index) && !now.contains(&route) => lost.push(route),
                Event::RouteGone(route) => lost.retain(|lost| *lost != route),
                _ => {}
            }
        }
        Self { addresses: Vec::new(), routes: lost }.lead_over(links, given).await
    }

    pub(super) fn record(&self) -> Recorded {
        let route = |route: &Route| RecordedRoute {
            to: route.destination.to_string(),
            via: route.via.map(|via| via.to_string()),
            src: route.source.map(|source| source.to_string()),
            metric: route.metric,
            table: route.table,
            proto: route.protocol,
            onlink: route.onlink,
        };
        Recorded { addresses: self.addresses.iter().map(ToString::to_string).collect(), routes: self.routes.iter().map(route).collect() }
    }
}

impl Recorded {
    /// What can be read of it.
    pub(super) fn read(&self) -> Addressing {
        let route = |recorded: &RecordedRoute| {
            let mut route = Route::new(recorded.to.parse().ok()?);
            route.via = recorded.via.as_deref().map(str::parse).transpose().ok()?;
            route.source = recorded.src.as_deref().map(str::parse).transpose().ok()?;
            (route.metric, route.table, route.protocol, route.onlink) = (recorded.metric, recorded.table, recorded.proto, recorded.onlink);
            Some(route)
        };
        Addressing {
            addresses: self.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            routes: self.routes.iter().filter_map(route).collect(),
        }
    }
}

fn is_movable(route: &Route, index: u32) -> bool {
    route.device == Some(index)
        && route.protocol != KERNEL
        && !route.destination.is_link_local()
        && !route.destination.address().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back() {
        let addressing = Addressing {
            addresses: vec!["192.0.2.7/24".parse().unwrap(), "fd00::7/64".parse().unwrap()],
            routes: vec![
                Route { metric: Some(5), protocol: 3, ..Route::new("198.51.100.0/24".parse().unwrap()) },
                Route { source: Some("192.0.2.7".parse().unwrap()), onlink: true, ..Route::new(IpPrefix::DEFAULT_V4) }
                    .via("192.0.2.1".parse().unwrap()),
            ],
        };
        let text = serde_json::to_string(&addressing.record()).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap().read(), addressing);
        assert!(serde_json::from_str::<Recorded>("{}").unwrap().read().is_empty());
    }
}
