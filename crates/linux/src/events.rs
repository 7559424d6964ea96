//! What the kernel tells of its own accord: links that come, change and go, their addresses and routes, rules, and neighbours that answer.

use std::net::IpAddr;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_sys::SocketAddr;
use rtnetlink::MulticastGroup;

use crate::link::{self, Link};
use crate::{Error, Handle, Mac, Netns, Result, Route, route};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is there, as it is now.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address of the link with this index came or went.
    Address(u32),
    /// A unicast route is there, as it is now. When a route is put in the place of an IPv4 one, that is not told to be gone.
    Route(Route),
    /// A unicast route is gone. The kernel does not say so of IPv4 routes that go with their link's last address.
    RouteGone(Route),
    /// A rule of policy routing came or went.
    Rule,
    /// It is known who has an address on the link with this index.
    Neighbour(u32, IpAddr, Mac),
}

/// What to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Links.
    Links,
    /// Links, their addresses, routes, and rules.
    Addressing,
    /// Neighbours.
    Neighbours,
}

/// What happens in a network namespace, in order.
#[derive(Debug)]
pub struct Events {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    // The connection lives as long as a handle does.
    _handle: Handle,
}

impl Events {
    /// Listens in `netns`. Returns a handle that shares the connection: what it asks for is answered after what had happened
    /// before. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not opened.
    pub fn open(netns: &Netns, subject: Subject) -> Result<(Handle, Self)> {
        let groups: &[_] = match subject {
            Subject::Links => &[MulticastGroup::Link],
            Subject::Addressing => &[
                MulticastGroup::Link,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv6Ifaddr,
                MulticastGroup::Ipv4Route,
                MulticastGroup::Ipv6Route,
                MulticastGroup::Ipv4Rule,
                MulticastGroup::Ipv6Rule,
            ],
            Subject::Neighbours => &[MulticastGroup::Neigh],
        };
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::new(netns.label(), "open a netlink socket in", std::io::Error::other(e.to_string())))?;
        let (connection, netlink, messages) = netns
            .run(|| {
                let _context = runtime.enter();
                rtnetlink::new_multicast_connection(groups)
            })?
            .map_err(|e| Error::new(netns.label(), "open a netlink socket in", e))?;
        let handle = Handle::of(netlink, netns.label(), tokio::spawn(connection).abort_handle());
        Ok((handle.clone(), Self { messages, _handle: handle }))
    }

    /// The next event; `None` when the connection broke, such as when more happened than was read. Then open it anew, and
    /// look at what there is.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let (message, _) = self.messages.next().await?;
            match message.payload {
                NetlinkPayload::Overrun(_) => return None,
                NetlinkPayload::InnerMessage(message) => {
                    if let Some(event) = read(&message) {
                        return Some(event);
                    }
                }
                _ => {}
            }
        }
    }

    /// What has happened until now and was not read yet, without waiting. After an answer to the handle that shares the connection, all
    /// is there that happened before it.
    pub fn told(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok((message, _)) = self.messages.try_recv() {
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                events.extend(read(&message));
            }
        }
        events
    }
}

fn read(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Event::Link(link::read(message))),
        RouteNetlinkMessage::DelLink(message) => Some(Event::LinkGone(link::read(message))),
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => Some(Event::Address(message.header.index)),
        RouteNetlinkMessage::NewRoute(message) => route::told(message).map(Event::Route),
        RouteNetlinkMessage::DelRoute(message) => route::told(message).map(Event::RouteGone),
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Event::Rule),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(message),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Event> {
    let known = [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Delay, NeighbourState::Permanent];
    if !known.contains(&message.header.state) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    Some(Event::Neighbour(message.header.ifindex, address, mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{LinkChange, VethEnd};

    #[tokio::test]
    async fn links_and_neighbours_are_told_of() {
        let (a, b) = (Scratch::new("eva"), Scratch::new("evb"));
        let (handle, mut links) = Events::open(&a.netns, Subject::Links).unwrap();
        let far = VethEnd { name: "y", netns: Some(&b.netns), ..VethEnd::default() };
        handle.create_veth(&VethEnd { name: "x", ..VethEnd::default() }, &far).await.unwrap();
        while !matches!(links.next().await.unwrap(), Event::Link(link) if link.name == "x") {}
        let in_b = Handle::open(&b.netns).unwrap();
        let (x, y) = (handle.index("x").await.unwrap(), in_b.index("y").await.unwrap());
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        handle.change(x, up).await.unwrap();
        in_b.change(y, up).await.unwrap();
        in_b.add_address(y, "10.0.0.1/24".parse().unwrap()).await.unwrap();
        let (asks, mut neighbours) = Events::open(&a.netns, Subject::Neighbours).unwrap();
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        // Without an address of its own, as a probe for duplicates is. A namespace without any takes all for broadcasts.
        handle.set_up(handle.index("lo").await.unwrap()).await.unwrap();
        asks.solicit(x, gateway).await.unwrap();
        let mac = in_b.link("y").await.unwrap().unwrap().mac.unwrap();
        let told = tokio::time::timeout(std::time::Duration::from_secs(3), neighbours.next()).await;
        assert_eq!(told, Ok(Some(Event::Neighbour(x, gateway, mac))));
        asks.forget_neighbour(x, gateway).await.unwrap();
        asks.forget_neighbour(x, gateway).await.unwrap();

        // A route that goes with its link's last address is told when it comes.
        let (told, mut addressing) = Events::open(&a.netns, Subject::Addressing).unwrap();
        let own = "10.0.0.7/24".parse().unwrap();
        handle.add_address(x, own).await.unwrap();
        let route = Route::new("198.51.100.0/24".parse().unwrap()).via(gateway).dev(x);
        handle.add_route(&route).await.unwrap();
        handle.delete_address(x, own).await.unwrap();
        assert!(!told.routes().await.unwrap().contains(&route));
        let events = addressing.told();
        assert_eq!(events.iter().filter(|event| **event == Event::Route(route)).count(), 1, "{events:?}");
        assert!(events.contains(&Event::Address(x)) && !events.contains(&Event::RouteGone(route)), "{events:?}");
        assert!(!addressing.told().contains(&Event::Route(route)));

        handle.delete_link(x).await.unwrap();
        while !matches!(links.next().await.unwrap(), Event::LinkGone(link) if link.name == "x") {}
    }
}
