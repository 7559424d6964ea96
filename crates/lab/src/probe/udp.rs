//! UDP probes: a nonce, answered with the identity of who got it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use linux::Netns;
use tokio::net::UdpSocket;

use super::Outcome;

/// Pause before a datagram is sent again.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn serve(socket: UdpSocket, id: String) {
    let mut buffer = [0; 2048];
    loop {
        // Errors are those of earlier answers that could not be delivered.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = [&buffer[..length], id.as_bytes()].concat();
        let _ = socket.send_to(&answer, from).await;
    }
}

pub(super) async fn exchange(netns: &Netns, to: SocketAddr, id: &str) -> Outcome {
    let any = if to.is_ipv4() { SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)) } else { SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)) };
    let socket = netns.run(|| std::net::UdpSocket::bind(any)).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    socket.set_nonblocking(true).map_err(|e| e.to_string())?;
    let socket = UdpSocket::from_std(socket).map_err(|e| e.to_string())?;
    socket.connect(to).await.map_err(|e| e.to_string())?;
    let nonce = uuid::Uuid::new_v4();
    let mut buffer = [0; 2048];
    let mut timer = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            _ = timer.tick() => { socket.send(nonce.as_bytes()).await.map_err(|e| e.to_string())?; }
            received = socket.recv(&mut buffer) => {
                let length = received.map_err(|e| e.to_string())?;
                let Some(who) = buffer[..length].strip_prefix(nonce.as_bytes()) else { continue };
                return if who == id.as_bytes() { Ok(()) } else { Err(format!("answered by {:?}", String::from_utf8_lossy(who))) };
            }
        }
    }
}
