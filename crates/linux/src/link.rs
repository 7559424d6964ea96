//! Links: list, create, change, delete.

use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkVfInfo,
    VfInfo, VfInfoMac,
};
use rtnetlink::{LinkBridge, LinkUnspec};

use crate::{Handle, Netns, Result};

/// A hardware address.
pub type Mac = [u8; 6];

/// Spells a hardware address `02:00:00:00:00:01`.
#[must_use]
pub fn display_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A link as the kernel reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the namespace.
    pub index: u32,
    /// Name, at most 15 characters.
    pub name: String,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Kind, such as `veth`, `bridge` or `tun`; empty for loopback and hardware.
    pub kind: String,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Index of the peer or lower link, perhaps in another namespace.
    pub peer: Option<u32>,
    /// Alias, free text.
    pub alias: String,
}

/// What to change of a link; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// New name.
    pub name: Option<&'a str>,
    /// New hardware address.
    pub mac: Option<Mac>,
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// Up or down.
    pub up: Option<bool>,
    /// Index of the bridge to become a port of; 0 for none.
    pub master: Option<u32>,
    /// Namespace to move to.
    pub netns: Option<&'a Netns>,
    /// New alias; without a character, none.
    pub alias: Option<&'a str>,
    /// Makes no IPv6 link-local address by itself (`addrgenmode none`), as befits the host's end of a pod's veth.
    pub no_link_local: bool,
}

/// One end of a veth pair to create.
#[derive(Clone, Copy, Debug, Default)]
pub struct VethEnd<'a> {
    /// Name, final from the start.
    pub name: &'a str,
    /// Namespace; the handle's own when `None`.
    pub netns: Option<&'a Netns>,
    /// Hardware address; the kernel's choice when `None`.
    pub mac: Option<Mac>,
    /// MTU in bytes; 1500 when `None`.
    pub mtu: Option<u32>,
}

impl VethEnd<'_> {
    fn message(&self) -> LinkMessage {
        let mut builder = LinkUnspec::new_with_name(self.name);
        if let Some(mac) = self.mac {
            builder = builder.address(mac.to_vec());
        }
        if let Some(mtu) = self.mtu {
            builder = builder.mtu(mtu);
        }
        if let Some(netns) = self.netns {
            builder = builder.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        builder.build()
    }
}

impl Handle {
    /// All links of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn links(&self) -> Result<Vec<Link>> {
        Ok(self.collect("links", || self.netlink.link().get().execute()).await?.iter().map(read).collect())
    }

    /// The link called `name`, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        match self.netlink.link().get().match_name(name).execute().try_next().await {
            Ok(found) => Ok(found.as_ref().map(read)),
            Err(error) => absent(self.failed(&format!("link {name}"), "read", error)),
        }
    }

    /// Index of the link called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn index(&self, name: &str) -> Result<u32> {
        let missing = || self.failed_by(&format!("link {name}"), "find", rustix::io::Errno::NODEV.into());
        self.link(name).await?.map(|link| link.index).ok_or_else(missing)
    }

    /// Creates a veth pair in one message, each end with its final name, address, MTU and namespace.
    /// Both are down: the kernel cannot bring up one end before the other exists.
    ///
    /// # Errors
    /// When a name is taken or the kernel refuses.
    pub async fn create_veth(&self, near: &VethEnd<'_>, far: &VethEnd<'_>) -> Result<()> {
        let mut message = near.message();
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far.message()))),
        ]));
        let object = format!("veth pair {}–{}", near.name, far.name);
        self.netlink.link().add(message).execute().await.map_err(|error| self.failed(&object, "create", error))
    }

    /// Creates a bridge, up, without a link-local address or spanning tree.
    ///
    /// # Errors
    /// When the name is taken or the kernel refuses.
    pub async fn create_bridge(&self, name: &str) -> Result<u32> {
        let message = LinkBridge::new(name).down().build();
        self.netlink.link().add(message).execute().await.map_err(|error| self.failed(&format!("bridge {name}"), "create", error))?;
        let index = self.index(name).await?;
        self.change(index, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await?;
        Ok(index)
    }

    /// Changes a link. `no_link_local` takes effect before `up`.
    ///
    /// # Errors
    /// When the link is gone or the kernel refuses.
    pub async fn change(&self, index: u32, change: LinkChange<'_>) -> Result<()> {
        let mut builder = LinkUnspec::new_with_index(index);
        if change.no_link_local {
            let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
            builder = builder.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]));
            // The kernel handles flags before this attribute: up must wait for the next message, or the address is made.
            if change.up == Some(true) {
                self.set(index, builder.build()).await?;
                builder = LinkUnspec::new_with_index(index);
            }
        }
        if let Some(name) = change.name {
            builder = builder.name(name);
        }
        if let Some(mac) = change.mac {
            builder = builder.address(mac.to_vec());
        }
        if let Some(mtu) = change.mtu {
            builder = builder.mtu(mtu);
        }
        if let Some(alias) = change.alias {
            builder = builder.append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()));
        }
        if let Some(master) = change.master {
            builder = builder.controller(master);
        }
        if let Some(netns) = change.netns {
            builder = builder.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        builder = match change.up {
            Some(true) => builder.up(),
            Some(false) => builder.down(),
            None => builder,
        };
        self.set(index, builder.build()).await
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// As [`Handle::change`].
    pub async fn set_up(&self, index: u32) -> Result<()> {
        self.change(index, LinkChange { up: Some(true), ..LinkChange::default() }).await
    }

    /// Gives a virtual function its hardware address, by the link of the physical one.
    ///
    /// # Errors
    /// When the link is gone or its driver refuses.
    pub async fn set_function_mac(&self, physical: u32, function: u32, mac: Mac) -> Result<()> {
        let list = LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![VfInfo::Mac(VfInfoMac::new(function, &mac))])]);
        let message = LinkUnspec::new_with_index(physical).append_extra_attribute(list).build();
        let object = format!("virtual function {function} of link {physical}");
        self.netlink.link().set(message).execute().await.map_err(|error| self.failed(&object, "change", error))
    }

    /// Deletes a link (of a veth, both ends). A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses, as for hardware.
    pub async fn delete_link(&self, index: u32) -> Result<()> {
        match self.netlink.link().del(index).execute().await {
            Ok(()) => Ok(()),
            Err(error) => absent::<()>(self.failed(&format!("link {index}"), "delete", error)).map(|_| ()),
        }
    }

    async fn set(&self, index: u32, message: LinkMessage) -> Result<()> {
        self.netlink.link().set(message).execute().await.map_err(|error| self.failed(&format!("link {index}"), "change", error))
    }
}

/// What is not there is no failure of a read or a delete.
pub(crate) fn absent<T>(error: crate::Error) -> Result<Option<T>> {
    if error.is_missing() { Ok(None) } else { Err(error) }
}

pub(crate) fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_veth_has_its_final_shape_from_the_start() {
        let (host, pod) = (Scratch::new("vh"), Scratch::new("vp"));
        let (in_host, in_pod) = (Handle::open(&host.netns).unwrap(), Handle::open(&pod.netns).unwrap());
        let near = VethEnd { name: "h1", mtu: Some(1400), ..VethEnd::default() };
        let mac = [2, 0, 0, 0, 0, 7];
        let far = VethEnd { name: "eth0", netns: Some(&pod.netns), mac: Some(mac), mtu: Some(1400) };
        in_host.create_veth(&near, &far).await.unwrap();
        assert!(in_host.create_veth(&near, &far).await.unwrap_err().is_existing());
        let eth0 = in_pod.link("eth0").await.unwrap().unwrap();
        assert_eq!((eth0.mac, eth0.mtu, eth0.up, eth0.kind.as_str()), (Some(mac), 1400, false, "veth"));
        let h1 = in_host.link("h1").await.unwrap().unwrap();
        assert_eq!(h1.peer, Some(eth0.index));
        in_host.change(h1.index, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await.unwrap();
        assert_eq!(in_host.addresses(Some(h1.index)).await.unwrap(), [], "no link-local address on the host's end");
        in_host.delete_link(h1.index).await.unwrap();
        in_host.delete_link(h1.index).await.unwrap();
        assert_eq!(in_pod.link("eth0").await.unwrap(), None);
    }

    #[tokio::test]
    async fn many_lists_are_asked_for_at_once() {
        let scratch = Scratch::new("lists");
        let handle = Handle::open(&scratch.netns).unwrap();
        for i in 0..100 {
            let (a, b) = (format!("a{i}"), format!("b{i}"));
            let (near, far) = (VethEnd { name: &a, ..VethEnd::default() }, VethEnd { name: &b, ..VethEnd::default() });
            handle.create_veth(&near, &far).await.unwrap();
        }
        let lists = futures::future::join_all((0..20).map(|_| async { (handle.links().await, handle.addresses(None).await) })).await;
        assert!(lists.iter().all(|(links, addresses)| links.as_ref().unwrap().len() >= 201 && addresses.is_ok()));
    }

    #[tokio::test]
    async fn a_link_is_renamed_enslaved_and_moved() {
        let (a, b) = (Scratch::new("la"), Scratch::new("lb"));
        let (in_a, in_b) = (Handle::open(&a.netns).unwrap(), Handle::open(&b.netns).unwrap());
        in_a.create_veth(&VethEnd { name: "x", ..VethEnd::default() }, &VethEnd { name: "foreign", ..VethEnd::default() }).await.unwrap();
        let bridge = in_a.create_bridge("br0").await.unwrap();
        let x = in_a.index("x").await.unwrap();
        in_a.change(x, LinkChange { master: Some(bridge), mtu: Some(1300), ..LinkChange::default() }).await.unwrap();
        assert_eq!(in_a.link("x").await.unwrap().unwrap().master, Some(bridge));
        in_a.change(x, LinkChange { alias: Some("of a test"), ..LinkChange::default() }).await.unwrap();
        in_a.change(x, LinkChange { name: Some("y"), netns: Some(&b.netns), up: Some(true), ..LinkChange::default() }).await.unwrap();
        let y = in_b.link("y").await.unwrap().unwrap();
        assert_eq!((y.mtu, y.master, y.alias.as_str()), (1300, None, "of a test"));
        in_b.change(y.index, LinkChange { alias: Some(""), ..LinkChange::default() }).await.unwrap();
        assert_eq!(in_b.link("y").await.unwrap().unwrap().alias, "");
        // What is asked of a virtual function is understood, and the driver has none.
        assert!(in_b.set_function_mac(y.index, 0, [2, 0, 0, 0, 0, 1]).await.unwrap_err().is_unsupported());
        assert!(in_a.link("foreign").await.unwrap().is_some());
        assert!(in_a.index("x").await.unwrap_err().to_string().contains("link x in network namespace"));
    }
}
