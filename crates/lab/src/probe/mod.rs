//! Probing from one network namespace to another, without running a program in either; in a guest this program runs.
//!
//! An endpoint opens sockets inside a namespace; sockets keep it, so that everything else happens here. What answers
//! says who it is: two endpoints may hold the same address, and reaching the wrong one is not reaching the target.

mod ping;
mod rate;
mod remote;
mod stream;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use linux::Netns;
use linux::icmp::EchoKind;
use remote::Ask;
use tokio::task::JoinSet;

pub use ping::Ping;
pub use rate::rate;
pub use remote::serve;
pub use stream::Streamed;

/// Something that can be reached, and can reach others.
#[derive(Debug)]
pub struct Endpoint {
    id: String,
    tcp_port: u16,
    udp_port: u16,
    seat: Seat,
    // Ends with the endpoint.
    _responders: JoinSet<()>,
}

/// Where an endpoint's sockets are.
#[derive(Debug)]
enum Seat {
    /// In a network namespace of this machine.
    Here { netns: Netns, v4: ping::Pinger, v6: Option<ping::Pinger> },
    /// In a guest.
    Guest(remote::Remote),
}

/// What came of a probe: the error says how far it got.
pub type Outcome = Result<(), String>;

impl Endpoint {
    /// Opens the sockets of an endpoint, and answers on them from now on; in the guest if the namespace is a virtual machine's.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn open(id: &str, netns: &Netns) -> anyhow::Result<Self> {
        let mut responders = JoinSet::new();
        match remote::Remote::open(id, netns, &mut responders)? {
            None => Self::here(id, netns),
            Some((remote, tcp_port, udp_port)) => {
                Ok(Self { id: id.to_owned(), tcp_port, udp_port, seat: Seat::Guest(remote), _responders: responders })
            }
        }
    }

    fn here(id: &str, netns: &Netns) -> anyhow::Result<Self> {
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
        let seat = Seat::Here { netns: netns.clone(), v4, v6 };
        Ok(Self { id: id.to_owned(), tcp_port, udp_port, seat, _responders: responders })
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
        self.transfer(SocketAddr::new(address, target.tcp_port), &target.id, bytes).await
    }

    async fn transfer(&self, to: SocketAddr, who: &str, bytes: usize) -> Outcome {
        match &self.seat {
            Seat::Here { netns, .. } => tcp::transfer(netns, to, who, bytes).await,
            Seat::Guest(remote) => remote.ask(Ask::Tcp { to, who: who.to_owned(), bytes }).await,
        }
    }

    /// Exchanges a datagram with `target` at `address`, sent again until one is answered. Ends only with success or an
    /// error of the kernel: the caller has the deadline.
    ///
    /// # Errors
    /// With what the kernel said, or who answered instead.
    pub async fn udp(&self, target: &Self, address: IpAddr) -> Outcome {
        self.exchange(SocketAddr::new(address, target.udp_port), &target.id).await
    }

    async fn exchange(&self, to: SocketAddr, who: &str) -> Outcome {
        match &self.seat {
            Seat::Here { netns, .. } => udp::exchange(netns, to, who).await,
            Seat::Guest(remote) => remote.ask(Ask::Udp { to, who: who.to_owned() }).await,
        }
    }

    /// Sends ICMP echo requests to `address`, without fragmentation, until what `ping` asks for has happened. Ends only
    /// with success or an error of the kernel: the caller has the deadline.
    ///
    /// # Errors
    /// With what the kernel said.
    pub async fn ping(&self, address: IpAddr, ping: Ping<'_>) -> Outcome {
        ping::ping(self, address, ping).await
    }

    /// Sends one echo request, which begins with `key`.
    async fn send(&self, to: IpAddr, key: ping::Key, length: usize) -> Outcome {
        match &self.seat {
            Seat::Here { .. } => self.pinger(to.is_ipv4())?.send(to, &ping::payload(key, length)),
            Seat::Guest(remote) => remote.ask(Ask::Send { to, key, length }).await,
        }
    }

    /// Waits for an echo message that begins with `key`.
    async fn saw(&self, v4: bool, kind: EchoKind, key: ping::Key, length: usize) -> Outcome {
        match &self.seat {
            Seat::Here { .. } => {
                self.pinger(v4)?.saw(kind, &key, length).await;
                Ok(())
            }
            Seat::Guest(remote) => remote.ask(Ask::Saw { v4, request: kind == EchoKind::Request, key, length }).await,
        }
    }

    fn pinger(&self, is_v4: bool) -> Result<&ping::Pinger, String> {
        match &self.seat {
            Seat::Here { v4, .. } if is_v4 => Ok(v4),
            Seat::Here { v6, .. } => v6.as_ref().ok_or_else(|| "no IPv6 here".to_owned()),
            Seat::Guest(_) => Err("its sockets are in a guest".to_owned()),
        }
    }

    /// Sends an echo request to `address` each `pace` until `stop`, each once. Not from inside a guest.
    ///
    /// # Errors
    /// With what the kernel said.
    pub async fn stream(&self, address: IpAddr, pace: Duration, stop: impl Future<Output = ()>) -> Result<Streamed, String> {
        stream::stream(self.pinger(address.is_ipv4())?, address, pace, stop).await
    }
}

#[cfg(test)]
mod tests;
