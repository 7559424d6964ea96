//! Changes of settings of the network, as the kernel tells them (`linux/netconf.h`): forwarding, `rp_filter` and some others, of a link or
//! of all. Others, such as `accept_ra`, it tells of nowhere.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::{Error, Netns, Result, ready};

/// The groups `RTNLGRP_IPV4_NETCONF` and `RTNLGRP_IPV6_NETCONF`, as bits.
const GROUPS: u32 = (1 << 23) | (1 << 24);
/// `RTM_NEWNETCONF`.
const NEW: u16 = 80;
/// `struct nlmsghdr`, and `struct netconfmsg` behind it, which is padded.
const HEADER: usize = 16;
const FAMILY: usize = 4;
/// First attribute: the link.
const LINK: u16 = 1;

/// What happens to the settings of a network namespace.
#[derive(Debug)]
pub struct SettingChanges {
    fd: AsyncFd<OwnedFd>,
    label: String,
    buffer: Vec<u8>,
}

/// Of which links a setting is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Of these, by index. One below zero is not a link: -1 is `all`, -2 `default`.
    Of(Vec<i32>),
    /// More happened than was read.
    Anything,
}

impl SettingChanges {
    /// Listens in `netns`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not opened.
    pub fn open(netns: &Netns) -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // The protocol 0 is `NETLINK_ROUTE`.
            let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(fd)
        };
        let fd = netns.run(open)?.and_then(ready::watch);
        let fd = fd.map_err(|e| Error::new(netns.label(), "listen for changes of settings in", e))?;
        Ok(Self { fd, label: netns.label().to_owned(), buffer: vec![0; 1 << 15] })
    }

    /// Resolves after a change. Loses nothing when it is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn next(&mut self) -> Result<Changed> {
        loop {
            let mut guard = self.fd.readable().await.map_err(|e| Error::new(&self.label, "follow settings in", e))?;
            let buffer = self.buffer.as_mut_slice();
            let received = guard.try_io(|fd| Ok(rustix::net::recv(fd.get_ref(), buffer, RecvFlags::empty())?));
            match received {
                Err(_) => {}
                Ok(Ok((length, _))) => {
                    let links: Vec<i32> = links(&self.buffer[..length]).collect();
                    if !links.is_empty() {
                        return Ok(Changed::Of(links));
                    }
                }
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Ok(Changed::Anything),
                Ok(Err(error)) => return Err(Error::new(&self.label, "follow settings in", error)),
            }
        }
    }
}

/// The links that the messages of a datagram are about, each of which begins at a multiple of four.
fn links(mut datagram: &[u8]) -> impl Iterator<Item = i32> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk::<4>()?) as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER + FAMILY)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        let is_new = u16::from_ne_bytes([message[4], message[5]]) == NEW;
        Some(if is_new { link(&message[HEADER + FAMILY..]) } else { None })
    })
    .flatten()
}

/// The link that attributes name.
fn link(mut attributes: &[u8]) -> Option<i32> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == LINK {
            return value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::scratch::Scratch;
    use crate::{Handle, sysctl};

    #[tokio::test]
    async fn what_is_set_is_told_with_its_link() {
        let scratch = Scratch::new("setev");
        let lo = Handle::open(&scratch.netns).unwrap().index("lo").await.unwrap();
        for (key, link) in
            [("net/ipv4/ip_forward", -1), ("net/ipv6/conf/all/forwarding", -1), ("net/ipv4/conf/lo/rp_filter", i32::try_from(lo).unwrap())]
        {
            let mut changes = SettingChanges::open(&scratch.netns).unwrap();
            let other = if sysctl::read(&scratch.netns, key).unwrap() == "0" { "1" } else { "0" };
            sysctl::write(&scratch.netns, key, other).unwrap();
            let told = async { while !matches!(changes.next().await.unwrap(), Changed::Of(links) if links.contains(&link)) {} };
            timeout(Duration::from_secs(10), told).await.unwrap_or_else(|_| panic!("{key} is not told"));
        }
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        assert_eq!(links(&[20, 0, 0, 0, 80, 0]).count(), 0);
        assert_eq!(links(&[0; 64]).count(), 0);
        assert_eq!((link(&[9, 0, 1, 0, 1, 0, 0, 0]), link(&[8, 0, 1, 0, 0xff, 0xff, 0xff, 0xff])), (None, Some(-1)));
    }
}
