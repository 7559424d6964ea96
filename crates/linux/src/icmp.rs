//! Raw ICMP sockets (RFC 792, RFC 4443) that see every ICMP message of a network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use tokio::io::unix::AsyncFd;

use crate::{Error, Netns, Result, ready};

/// Bytes of the ICMP echo header.
pub const HEADER: usize = 8;

/// What an echo message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoKind {
    /// Someone asks.
    Request,
    /// Someone answers.
    Reply,
}

/// A received echo message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Request or reply.
    pub kind: EchoKind,
    /// Who sent it.
    pub from: IpAddr,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A raw ICMP socket; what it sends is never fragmented (RFC 1191, RFC 8201).
#[derive(Debug)]
pub struct IcmpSocket {
    fd: AsyncFd<OwnedFd>,
    v6: bool,
    label: String,
}

impl IcmpSocket {
    /// Opens a socket inside `netns`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses (`CAP_NET_RAW`).
    pub fn open(netns: &Netns, v6: bool) -> Result<Self> {
        let failed = |cause: io::Error| Error::new(netns.label(), "open an ICMP socket in", cause);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = || -> io::Result<OwnedFd> {
            let (family, protocol) = if v6 { (AddressFamily::INET6, ipproto::ICMPV6) } else { (AddressFamily::INET, ipproto::ICMP) };
            let fd = rustix::net::socket_with(family, SocketType::RAW, flags, Some(protocol))?;
            if v6 {
                sockopt::set_ipv6_mtu_discover(&fd, Ipv6PathMtuDiscovery::DO)?;
            } else {
                sockopt::set_ip_mtu_discover(&fd, Ipv4PathMtuDiscovery::DO)?;
            }
            sockopt::set_socket_recv_buffer_size(&fd, 1 << 20)?;
            Ok(fd)
        };
        let fd = netns.run(open)?.and_then(ready::watch).map_err(failed)?;
        Ok(Self { fd, v6, label: netns.label().to_owned() })
    }

    /// Sends an echo request.
    ///
    /// # Errors
    /// When there is no route, or the message exceeds the path's MTU.
    pub fn request(&self, to: IpAddr, payload: &[u8]) -> Result<()> {
        let mut message = vec![if self.v6 { 128 } else { 8 }, 0, 0, 0, 0xfe, 0x44, 0, 1];
        message.extend_from_slice(payload);
        if !self.v6 {
            let sum = checksum(&message); // the kernel fills in ICMPv6's, which covers addresses
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let sent = rustix::net::sendto(self.fd.get_ref(), &message, SendFlags::empty(), &SocketAddr::new(to, 0));
        sent.map(|_| ()).map_err(|e| Error::new(&self.label, format!("send an echo request of {} bytes to {to} from", message.len()), e))
    }

    /// The next echo message that the namespace receives, addressed to us or not.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn receive(&self) -> Result<Echo> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut guard = self.fd.readable().await.map_err(|e| self.failed(e))?;
            let received = guard.try_io(|fd| Ok(rustix::net::recvfrom(fd.get_ref(), buffer.as_mut_slice(), RecvFlags::empty())?));
            let Ok(received) = received else { continue };
            let (length, _, from) = received.map_err(|e| self.failed(e))?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map_or(unspecified(self.v6), |from| from.ip());
            if let Some(echo) = parse(&buffer[..length.min(buffer.len())], from, self.v6) {
                return Ok(echo);
            }
        }
    }

    fn failed(&self, cause: io::Error) -> Error {
        Error::new(&self.label, "receive ICMP in", cause)
    }
}

const fn unspecified(v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

/// Reads an echo message; IPv4 raw sockets deliver the IP header before it.
fn parse(packet: &[u8], from: IpAddr, v6: bool) -> Option<Echo> {
    let start = if v6 { 0 } else { usize::from(packet.first()? & 0xf) * 4 };
    let message = packet.get(start..).filter(|message| message.len() >= HEADER)?;
    let kind = match (v6, message[0]) {
        (false, 8) | (true, 128) => EchoKind::Request,
        (false, 0) | (true, 129) => EchoKind::Reply,
        _ => return None,
    };
    Some(Echo { kind, from, payload: message[HEADER..].to_vec() })
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handle;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn an_echo_request_is_seen_and_answered() {
        let scratch = Scratch::new("icmp");
        let handle = Handle::open(&scratch.netns).unwrap();
        handle.set_up(handle.index("lo").await.unwrap()).await.unwrap();
        for (v6, address) in [(false, "127.0.0.1"), (true, "::1")] {
            let socket = IcmpSocket::open(&scratch.netns, v6).unwrap();
            socket.request(address.parse().unwrap(), b"hello").unwrap();
            let kinds = [socket.receive().await.unwrap(), socket.receive().await.unwrap()].map(|echo| {
                assert_eq!((echo.from, echo.payload.as_slice()), (address.parse().unwrap(), b"hello".as_slice()));
                echo.kind
            });
            assert_eq!(kinds, [EchoKind::Request, EchoKind::Reply]);
            assert!(socket.request(address.parse().unwrap(), &vec![0; 65_530]).unwrap_err().to_string().contains("65538 bytes"));
        }
    }
}
