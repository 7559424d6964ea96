//! Questions to neighbours by frames of our own: who has an address on a VLAN of a link? (ARP, RFC 826, as a probe that names no sender,
//! RFC 5227; neighbour discovery, RFC 4861.) The host itself need not have an address there, nor a link for the VLAN.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use crate::{Error, Mac, Netns, Result, ready};

/// EtherTypes (IEEE 802).
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const BROADCAST: Mac = [0xff; 6];
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Least bytes of an Ethernet frame without its checksum.
const SHORTEST: usize = 60;

/// Asks on one link.
#[derive(Debug)]
pub struct Asker {
    arp: AsyncFd<OwnedFd>,
    /// Of a link that nobody asks for IPv6 addresses not all IPv6 need be looked at.
    nd: Option<AsyncFd<OwnedFd>>,
    index: u32,
    label: String,
}

/// Who has an address?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// VLAN; 0 untagged.
    pub vlan: u16,
    /// Who asks. Answers name it, so that those on several VLANs are told apart by it.
    pub from: Mac,
    /// What is asked for.
    pub address: IpAddr,
}

/// Somebody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub to: Mac,
    /// What was asked for.
    pub address: IpAddr,
    /// Who has it.
    pub by: Mac,
}

impl Asker {
    /// Opens the link of a namespace; `v6` to ask for IPv6 addresses, too. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses (`CAP_NET_RAW`), or there is no such link.
    pub fn open(netns: &Netns, index: u32, v6: bool) -> Result<Self> {
        let failed = |cause: io::Error| Error::new(format!("link {index} in {}", netns.label()), "open a packet socket on", cause);
        let open = |protocol: u16| -> io::Result<OwnedFd> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            // Without a protocol nothing is received before it is bound.
            let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
            rustix::net::bind(&fd, &LinkAddress::new(index, protocol))?;
            Ok(fd)
        };
        let fd = |protocol: u16| netns.run(|| open(protocol))?.and_then(ready::watch).map_err(failed);
        Ok(Self { arp: fd(ARP)?, nd: v6.then(|| fd(IPV6)).transpose()?, index, label: netns.label().to_owned() })
    }

    /// Asks once.
    ///
    /// # Errors
    /// When the link is gone or down.
    pub fn ask(&self, question: &Question) -> Result<()> {
        let frame = question.frame();
        let protocol = u16::from_be_bytes([frame[12], frame[13]]);
        let sent = rustix::net::sendto(self.arp.get_ref(), &frame, SendFlags::empty(), &LinkAddress::new(self.index, protocol));
        sent.map(drop).map_err(|e| self.failed(&format!("ask for {} on", question.address), e.into()))
    }

    /// The next answer to anybody who asks.
    ///
    /// # Errors
    /// When the link is gone or down.
    pub async fn answer(&self) -> Result<Answer> {
        let of_nd = async {
            match &self.nd {
                Some(fd) => receive(fd, advertisement).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = receive(&self.arp, reply) => answer,
            answer = of_nd => answer,
        }
        .map_err(|e| self.failed("receive answers on", e))
    }

    fn failed(&self, what: &str, cause: io::Error) -> Error {
        Error::new(format!("link {} in {}", self.index, self.label), what, cause)
    }
}

async fn receive(fd: &AsyncFd<OwnedFd>, parse: fn(&[u8]) -> Option<Answer>) -> io::Result<Answer> {
    let mut buffer = [0; 256];
    loop {
        let mut guard = fd.readable().await?;
        let received = guard.try_io(|fd| Ok(rustix::net::recv(fd.get_ref(), &mut buffer[..], RecvFlags::TRUNC)?));
        let Ok(received) = received else { continue };
        let (length, _) = received?;
        if let Some(answer) = parse(&buffer[..length.min(buffer.len())]) {
            return Ok(answer);
        }
    }
}

impl Question {
    fn frame(&self) -> Vec<u8> {
        let (to, protocol, body) = match self.address {
            IpAddr::V4(address) => (BROADCAST, ARP, self.request(address)),
            IpAddr::V6(address) => {
                let [.., a, b, c] = address.octets();
                ([0x33, 0x33, 0xff, a, b, c], IPV6, self.solicitation(address))
            }
        };
        let mut frame = [to, self.from].concat();
        if self.vlan != 0 {
            frame.extend([VLAN, self.vlan].map(u16::to_be_bytes).concat());
        }
        frame.extend(protocol.to_be_bytes());
        frame.extend(body);
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// An ARP request.
    fn request(&self, address: Ipv4Addr) -> Vec<u8> {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend(self.from);
        body.extend([0; 10]);
        body.extend(address.octets());
        body
    }

    /// An IPv6 packet with a neighbour solicitation, from the link-local address that belongs to the MAC (RFC 4291, appendix A).
    fn solicitation(&self, address: Ipv6Addr) -> Vec<u8> {
        let [m0, m1, m2, m3, m4, m5] = self.from;
        let source = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m0 ^ 2, m1, m2, 0xff, 0xfe, m3, m4, m5];
        let target = address.octets();
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        group[13..].copy_from_slice(&target[13..]);
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target);
        message.extend([1, 1]);
        message.extend(self.from);
        let length = message.len() as u16;
        let pseudo = [&source[..], &group, &u32::from(length).to_be_bytes(), &[0, 0, 0, 58], &message].concat();
        message[2..4].copy_from_slice(&crate::icmp::checksum(&pseudo).to_be_bytes());
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([58, 255]);
        packet.extend([source, group].concat());
        packet.extend(message);
        packet
    }
}

/// What a frame holds, of which the kernel may have taken the VLAN's tag.
fn body(frame: &[u8], protocol: u16) -> Option<&[u8]> {
    let kind = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let start = if kind(12)? == VLAN { ETHERNET + 4 } else { ETHERNET };
    (kind(start - 2)? == protocol).then(|| frame.get(start..)).flatten()
}

/// Reads an ARP reply.
fn reply(frame: &[u8]) -> Option<Answer> {
    let body = body(frame, ARP)?;
    let is_reply = body.get(..8)? == [0, 1, 8, 0, 6, 4, 0, 2];
    let address: [u8; 4] = body.get(14..18)?.try_into().ok()?;
    let to = body.get(18..24)?.try_into().ok()?;
    is_reply.then_some(Answer { to, address: Ipv4Addr::from(address).into(), by: body.get(8..14)?.try_into().ok()? })
}

/// Reads a neighbour advertisement.
fn advertisement(frame: &[u8]) -> Option<Answer> {
    let packet = body(frame, IPV6)?;
    let is_advertisement = *packet.get(6)? == 58 && *packet.get(40)? == 136;
    let address: [u8; 16] = packet.get(48..64)?.try_into().ok()?;
    let (to, sender) = (frame.get(..6)?.try_into().ok()?, frame.get(6..12)?.try_into().ok()?);
    // The first option is the target's link-layer address, if it is there.
    let named = packet.get(64..72).filter(|option| option[..2] == [2, 1]).and_then(|option| option[2..].try_into().ok());
    is_advertisement.then_some(Answer { to, address: Ipv6Addr::from(address).into(), by: named.unwrap_or(sender) })
}

/// A link as an address (packet(7), `struct sockaddr_ll`).
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: [u8; 2],
    index: u32,
    hardware: u16,
    kind: u8,
    length: u8,
    address: [u8; 8],
}

impl LinkAddress {
    fn new(index: u32, protocol: u16) -> Self {
        let family = AddressFamily::PACKET.as_raw();
        Self { family, protocol: protocol.to_be_bytes(), index, hardware: 0, kind: 0, length: 0, address: [0; 8] }
    }
}

// SAFETY: the structure has the layout of `struct sockaddr_ll`, and is borrowed for the length of the call.
#[allow(unsafe_code)]
unsafe impl SocketAddrArg for LinkAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{Handle, IpPrefix, VethEnd};

    #[tokio::test]
    async fn a_neighbour_answers_who_has_no_address() {
        let (near, far) = (Scratch::new("ask-a"), Scratch::new("ask-b"));
        let (handle, other) = (Handle::open(&near.netns).unwrap(), Handle::open(&far.netns).unwrap());
        let end = VethEnd { name: "a", ..VethEnd::default() };
        handle.create_veth(&end, &VethEnd { name: "b", netns: Some(&far.netns), ..end }).await.unwrap();
        let (a, b) = (handle.index("a").await.unwrap(), other.index("b").await.unwrap());
        handle.set_up(a).await.unwrap();
        other.set_up(other.index("lo").await.unwrap()).await.unwrap();
        // What nobody looks for on the link is there at once, and not after duplicates were asked for.
        crate::sysctl::write(&far.netns, "net/ipv6/conf/b/accept_dad", "0").unwrap();
        other.set_up(b).await.unwrap();
        let from = [2, 0, 0, 0, 0, 9];
        let by = other.link("b").await.unwrap().unwrap().mac.unwrap();
        let asker = Asker::open(&near.netns, a, true).unwrap();
        for (text, length) in [("192.0.2.1", 24), ("fd00::1", 64)] {
            let address = text.parse().unwrap();
            other.add_address(b, IpPrefix::new(address, length).unwrap()).await.unwrap();
            let question = Question { vlan: 0, from, address };
            let asked = async {
                loop {
                    asker.ask(&question).unwrap();
                    if let Ok(answer) = tokio::time::timeout(std::time::Duration::from_millis(100), asker.answer()).await {
                        break answer.unwrap();
                    }
                }
            };
            let answer = tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.unwrap();
            assert_eq!(answer, Answer { to: from, address, by });
        }
        // A tag makes four bytes more, before what is asked.
        let (plain, tagged) = (Question { vlan: 0, from, address: "192.0.2.1".parse().unwrap() }, 7);
        let (plain, tagged) = (plain.frame(), Question { vlan: tagged, ..plain }.frame());
        assert_eq!((plain.len(), tagged[12..18].to_vec()), (SHORTEST, vec![0x81, 0, 0, 7, 8, 6]));
        handle.delete_link(a).await.unwrap();
        assert!(asker.ask(&Question { vlan: 0, from, address: "192.0.2.1".parse().unwrap() }).is_err());
    }
}
