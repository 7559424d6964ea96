//! Changes of nftables, as the kernel tells them (`linux/netfilter/nfnetlink.h`, `nf_tables.h`): who keeps a table need not look at it
//! again and again.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::nft::types::NfFamily;
use crate::{Error, Netns, Result, ready};

/// The group `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u8 = 10;
/// `enum nf_tables_msg_types`: tables, chains, rules, sets and elements come and go in this order.
const NEW: [u8; 5] = [0, 3, 6, 9, 12];
const DELETE: [u8; 5] = [2, 5, 8, 11, 14];
/// The end of a transaction.
const GENERATION: u8 = 15;
/// First attribute of all of them: the name of the table.
const TABLE: u16 = 1;
/// `struct nlmsghdr`, and `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const FAMILY: usize = 4;

/// What happens to a table of a network namespace.
#[derive(Debug)]
pub struct TableChanges {
    fd: AsyncFd<OwnedFd>,
    label: String,
    family: u8,
    table: String,
    buffer: Vec<u8>,
    /// Whether the transaction that is being told of has taken something, and put nothing in its place.
    taken: bool,
}

impl TableChanges {
    /// Listens in `netns`, whether or not the table is there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not opened.
    pub fn open(netns: &Netns, family: NfFamily, table: &str) -> Result<Self> {
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, GROUP))?;
            Ok(fd)
        };
        let fd = netns.run(open)?.and_then(ready::watch);
        let fd = fd.map_err(|e| Error::new(netns.label(), "listen for changes of nftables in", e))?;
        let (label, table) = (netns.label().to_owned(), table.to_owned());
        Ok(Self { fd, label, family: code(family), table, buffer: vec![0; 1 << 16], taken: false })
    }

    /// Resolves after a transaction that took something of the table and put nothing in its place, or when more happened than was
    /// read. Loses nothing when it is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn taken(&mut self) -> Result<()> {
        loop {
            let mut guard = self.fd.readable().await.map_err(|e| Error::new(&self.label, "follow nftables in", e))?;
            let buffer = self.buffer.as_mut_slice();
            let received = guard.try_io(|fd| Ok(rustix::net::recv(fd.get_ref(), buffer, RecvFlags::empty())?));
            let length = match received {
                Err(_) => continue,
                Ok(Ok((length, _))) => length,
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => return Ok(()),
                Ok(Err(error)) => return Err(Error::new(&self.label, "follow nftables in", error)),
            };
            let mut told = false;
            for message in messages(&self.buffer[..length]) {
                match message {
                    Message::Put(family, table) if family == self.family && table == self.table => self.taken = false,
                    Message::Taken(family, table) if family == self.family && table == self.table => self.taken = true,
                    Message::Generation => told |= std::mem::take(&mut self.taken),
                    _ => {}
                }
            }
            if told {
                return Ok(());
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    /// Something of a table was put there.
    Put(u8, &'a str),
    /// Something of a table was taken away.
    Taken(u8, &'a str),
    /// A transaction has ended.
    Generation,
}

/// `NFPROTO_*`.
const fn code(family: NfFamily) -> u8 {
    match family {
        NfFamily::INet => 1,
        NfFamily::IP => 2,
        NfFamily::ARP => 3,
        NfFamily::NetDev => 5,
        NfFamily::Bridge => 7,
        NfFamily::IP6 => 10,
    }
}

/// The messages of a datagram, each of which begins at a multiple of four.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk::<4>()?) as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER + FAMILY)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(read(message))
    })
    .flatten()
}

fn read(message: &[u8]) -> Option<Message<'_>> {
    let [kind, subsystem] = u16::from_ne_bytes(*message[4..].first_chunk()?).to_le_bytes();
    if subsystem != SUBSYSTEM {
        return None;
    }
    if kind == GENERATION {
        return Some(Message::Generation);
    }
    let (family, name) = (message[HEADER], table(&message[HEADER + FAMILY..])?);
    match kind {
        kind if NEW.contains(&kind) => Some(Message::Put(family, name)),
        kind if DELETE.contains(&kind) => Some(Message::Taken(family, name)),
        _ => None,
    }
}

/// The table that attributes name.
fn table(mut attributes: &[u8]) -> Option<&str> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == TABLE {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::nft::{self, schema};
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn what_is_taken_from_a_table_is_told_and_what_replaces_it_is_not() {
        let scratch = Scratch::new("nftev");
        let chain = || schema::Chain { family: NfFamily::INet, table: "ours".into(), name: "one".into(), ..schema::Chain::default() };
        let put = || nft::replace_table(&scratch.netns, NfFamily::INet, "ours", vec![schema::NfListObject::Chain(chain())]).unwrap();
        put();
        nft::replace_table(&scratch.netns, NfFamily::IP, "ours", vec![]).unwrap();
        let mut changes = TableChanges::open(&scratch.netns, NfFamily::INet, "ours").unwrap();
        put();
        nft::replace_table(&scratch.netns, NfFamily::INet, "foreign", vec![]).unwrap();
        nft::delete_table(&scratch.netns, NfFamily::INet, "foreign").unwrap();
        nft::delete_table(&scratch.netns, NfFamily::IP, "ours").unwrap();
        let told = timeout(Duration::from_millis(100), changes.taken()).await;
        assert!(told.is_err(), "it was replaced, and others were deleted");
        for command in ["delete chain inet ours one", "delete table inet ours", "flush ruleset"] {
            put();
            let run = || std::process::Command::new("nft").args(command.split(' ')).status();
            assert!(scratch.netns.run(run).unwrap().unwrap().success(), "{command}");
            let told = timeout(Duration::from_secs(10), changes.taken()).await;
            told.unwrap_or_else(|_| panic!("{command} is not told")).unwrap();
        }
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        assert_eq!(messages(&[20, 0, 0, 0, 2, 10]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(table(&[9, 0, 1, 0, b'a', b'b', b'c', b'd']), None);
        assert_eq!(table(&[8, 0, 1, 0, b'a', b'b', b'c', 0]), Some("abc"));
    }
}
