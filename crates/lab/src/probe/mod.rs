//! Probing from one network namespace to another, without running a program in either.
//!
//! An endpoint opens sockets inside a namespace; sockets keep it, so that everything else happens here. What answers
//! says who it is: two endpoints may hold the same address, and reaching the wrong one is not reaching the target.

mod ping;
mod rate;
mod stream;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use linux::Netns;
use tokio::task::JoinSet;

pub use ping::Ping;
pub use rate::rate;
pub use stream::Streamed;

/// Something that can be reached, and can reach others.
#[derive(Debug)]
pub struct Endpoint {
    id: String,
    netns: Netns,
    tcp_port: u16,
    udp_port: u16,
    v4: ping::Pinger,
    v6: Option<ping::Pinger>,
    // Ends with the endpoint.
    _responders: JoinSet<()>,
}

/// What came of a probe: the error says how far it got.
pub type Outcome = Result<(), String>;

impl Endpoint {
    /// Opens the sockets of an endpoint, and answers on them from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open(id: &str, netns: &Netns) -> anyhow::Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)); // of both families
        let failed = || format!("cannot open probes in {}", netns.label());
        let listener = netns.tcp_listener(any).with_context(failed)?;
        listener.set_nonblocking(true).with_context(failed)?;
        let socket = netns.run(|| std::net::UdpSocket::bind(any))?.with_context(failed)?;
        socket.set_nonblocking(true).with_context(failed)?;
        let (tcp_port, udp_port) = (listener.local_addr()?.port(), socket.local_addr()?.port());
        let mut responders = JoinSet::new();
        responders.spawn(tcp::serve(tokio::net::TcpListener::from_std(listener)?, id.to_owned()));
        responders.spawn(udp::serve(tokio::net::UdpSocket::from_std(socket)?, id.to_owned()));
        let v4 = ping::Pinger::open(netns, false, &mut responders)?;
        // A kernel without IPv6 has nothing to probe there.
        let v6 = ping::Pinger::open(netns, true, &mut responders).ok();
        Ok(Self { id: id.to_owned(), netns: netns.clone(), tcp_port, udp_port, v4, v6, _responders: responders })
    }

    /// Who it says it is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Connects to `target` at `address`, sends `bytes` over TCP, and has them acknowledged by length and checksum.
    ///
    /// # Errors
    /// With how far it got.
    pub async fn tcp(&self, target: &Self, address: IpAddr, bytes: usize) -> Outcome {
        tcp::transfer(&self.netns, SocketAddr::new(address, target.tcp_port), &target.id, bytes).await
    }

    /// Exchanges a datagram with `target` at `address`, sent again until one is answered. Ends only with success or an
    /// error of the kernel: the caller has the deadline.
    ///
    /// # Errors
    /// With what the kernel said, or who answered instead.
    pub async fn udp(&self, target: &Self, address: IpAddr) -> Outcome {
        udp::exchange(&self.netns, SocketAddr::new(address, target.udp_port), &target.id).await
    }

    fn pinger(&self, address: IpAddr) -> Result<&ping::Pinger, String> {
        if address.is_ipv4() { Ok(&self.v4) } else { self.v6.as_ref().ok_or_else(|| "no IPv6 here".to_owned()) }
    }

    /// Sends ICMP echo requests to `address`, without fragmentation, until what `ping` asks for has happened. Ends only
    /// with success or an error of the kernel: the caller has the deadline.
    ///
    /// # Errors
    /// With what the kernel said.
    pub async fn ping(&self, address: IpAddr, ping: Ping<'_>) -> Outcome {
        let target = ping.seen_by.map(|target| target.pinger(address)).transpose()?;
        self.pinger(address)?.ping(address, target, ping.answered, ping.payload).await
    }

    /// Sends an echo request to `address` each `pace` until `stop`, each once.
    ///
    /// # Errors
    /// With what the kernel said.
    pub async fn stream(&self, address: IpAddr, pace: Duration, stop: impl Future<Output = ()>) -> Result<Streamed, String> {
        stream::stream(self.pinger(address)?, address, pace, stop).await
    }
}

#[cfg(test)]
mod tests;
