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
use crate::{Error, Handle, Mac, Netns, Result, route};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is there, as it is now.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address of the link with this index came or went.
    Address(u32),
    /// A route by the link with this index came or went.
    Route(u32),
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
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => return Some(Event::Link(link::read(&message))),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => return Some(Event::LinkGone(link::read(&message))),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)) => {
                    return Some(Event::Address(message.header.index));
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) => {
                    if let Some(index) = route::device(&message) {
                        return Some(Event::Route(index));
                    }
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_)) => {
                    return Some(Event::Rule);
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                    if let Some(event) = neighbour(&message) {
                        return Some(event);
                    }
                }
                _ => {}
            }
        }
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
        handle.delete_link(x).await.unwrap();
        while !matches!(links.next().await.unwrap(), Event::LinkGone(link) if link.name == "x") {}
    }
}
