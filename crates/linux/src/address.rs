//! Addresses of links.

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use crate::link::absent;
use crate::{Handle, IpPrefix, Result};

impl Handle {
    /// Addresses of one link, or of all, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<IpPrefix>> {
        let found = self.collect("addresses", || self.netlink.address().get().execute()).await?;
        let mut prefixes: Vec<_> =
            found.iter().filter(|message| index.is_none_or(|index| message.header.index == index)).filter_map(read).collect();
        prefixes.sort();
        Ok(prefixes)
    }

    /// Gives an address to a link. One that it has already is no error. An IPv6 address is used at once, without
    /// duplicate address detection: whoever allocated it knows that it is unique.
    ///
    /// # Errors
    /// When the link is gone or the kernel refuses.
    pub async fn add_address(&self, index: u32, prefix: IpPrefix) -> Result<()> {
        let mut request = self.netlink.address().add(index, prefix.address(), prefix.length());
        if prefix.address().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.failed(&format!("link {index}"), format!("add address {prefix} to it"), error);
                if error.is_existing() { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Takes an address from a link. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_address(&self, index: u32, prefix: IpPrefix) -> Result<()> {
        let request = self.netlink.address().add(index, prefix.address(), prefix.length());
        let mut request = request;
        let message = std::mem::take(request.message_mut());
        match self.netlink.address().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(self.failed(&format!("link {index}"), format!("delete address {prefix} of it"), error)).map(|_| ()),
        }
    }
}

fn read(message: &AddressMessage) -> Option<IpPrefix> {
    let of = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    IpPrefix::new(of(true).or_else(|| of(false))?, message.header.prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn an_address_is_added_once_and_deleted_once() {
        let scratch = Scratch::new("addr");
        let handle = Handle::open(&scratch.netns).unwrap();
        let lo = handle.index("lo").await.unwrap();
        for text in ["10.1.2.3/24", "fd00::3/64"] {
            let prefix = text.parse().unwrap();
            handle.add_address(lo, prefix).await.unwrap();
            handle.add_address(lo, prefix).await.unwrap();
            assert_eq!(handle.addresses(Some(lo)).await.unwrap(), [prefix]);
            handle.delete_address(lo, prefix).await.unwrap();
            handle.delete_address(lo, prefix).await.unwrap();
            assert_eq!(handle.addresses(Some(lo)).await.unwrap(), []);
        }
    }
}
