//! Neighbours: who has which address on a link.

use std::net::IpAddr;

use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState};

use crate::link::absent;
use crate::{Handle, Mac, Result};

impl Handle {
    /// Says for good which hardware address `address` has on a link, whatever was known before.
    ///
    /// # Errors
    /// When the link is gone or the kernel refuses.
    pub async fn replace_neighbour(&self, index: u32, address: IpAddr, mac: Mac) -> Result<()> {
        let request = self.netlink.neighbours().add(index, address).link_layer_address(&mac).state(NeighbourState::Permanent).replace();
        request.execute().await.map_err(|error| self.failed(&format!("neighbour {address} on link {index}"), "replace", error))
    }

    /// Asks on a link who has `address` (ARP, RFC 826; neighbour discovery, RFC 4861), at once and once. The answer comes as an
    /// [`Event`](crate::Event). While the link has no address, an IPv4 request names no sender, as a probe for duplicates
    /// (RFC 5227) must; the loopback link must be up then, since a namespace without any address takes all for broadcasts.
    ///
    /// # Errors
    /// When the link is gone or the kernel refuses.
    pub async fn solicit(&self, index: u32, address: IpAddr) -> Result<()> {
        let request = self.netlink.neighbours().add(index, address).state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
        request.execute().await.map_err(|error| self.failed(&format!("neighbour {address} on link {index}"), "ask for", error))
    }

    /// Asks whoever is known to have `address` whether it still does, or whoever has it.
    ///
    /// # Errors
    /// When the link is gone or the kernel refuses.
    pub async fn probe_neighbour(&self, index: u32, address: IpAddr) -> Result<()> {
        let request = self.netlink.neighbours().add(index, address).state(NeighbourState::Probe).replace();
        match request.execute().await {
            Ok(()) => Ok(()),
            // It is not known yet.
            Err(_) => self.solicit(index, address).await,
        }
    }

    /// Forgets who has `address` on a link. A neighbour that is not known is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn forget_neighbour(&self, index: u32, address: IpAddr) -> Result<()> {
        let mut request = self.netlink.neighbours().add(index, address);
        let message = std::mem::take(request.message_mut());
        match self.netlink.neighbours().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(self.failed(&format!("neighbour {address} on link {index}"), "forget", error)).map(drop),
        }
    }

    /// The permanent neighbours of a link, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn permanent_neighbours(&self, index: u32) -> Result<Vec<(IpAddr, Mac)>> {
        let found = self.collect("neighbours", || self.netlink.neighbours().get().execute()).await?;
        let of_link = found.iter().filter(|m| m.header.ifindex == index && m.header.state == NeighbourState::Permanent);
        let mut neighbours: Vec<_> = of_link
            .filter_map(|message| {
                let address = message.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
                    _ => None,
                });
                let mac = message.attributes.iter().find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
                    _ => None,
                });
                address.zip(mac)
            })
            .collect();
        neighbours.sort();
        Ok(neighbours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VethEnd;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_permanent_neighbour_is_replaced() {
        let scratch = Scratch::new("neigh");
        let handle = Handle::open(&scratch.netns).unwrap();
        let near = VethEnd { name: "a", ..VethEnd::default() };
        handle.create_veth(&near, &VethEnd { name: "b", ..near }).await.unwrap();
        let a = handle.index("a").await.unwrap();
        handle.set_up(a).await.unwrap();
        handle.set_up(handle.index("b").await.unwrap()).await.unwrap();
        for (address, last) in [("10.0.0.1", 1), ("10.0.0.1", 2), ("fd00::1", 3)] {
            handle.replace_neighbour(a, address.parse().unwrap(), [2, 0, 0, 0, 0, last]).await.unwrap();
        }
        let expected = [("10.0.0.1".parse().unwrap(), [2, 0, 0, 0, 0, 2]), ("fd00::1".parse().unwrap(), [2, 0, 0, 0, 0, 3])];
        assert_eq!(handle.permanent_neighbours(a).await.unwrap(), expected);
    }
}
