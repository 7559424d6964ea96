//! TCP probes. The server begins with its identity; the client says how many bytes it will send and sends them; the
//! server answers with the checksum of what it got.

use std::net::SocketAddr;

use linux::Netns;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::Outcome;

const CHUNK: usize = 1 << 16;

/// FNV-1a, 64 bits.
fn digest(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

pub(super) async fn serve(listener: TcpListener, id: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                let id = id.clone();
                // A client that goes away is its own to report.
                connections.spawn(async move { drop(answer(stream, &id).await) });
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(mut stream: TcpStream, id: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{id}\n").as_bytes()).await?;
    let mut left = stream.read_u64().await?;
    let mut state = SEED;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let length = stream.read(&mut buffer[..most]).await?;
        if length == 0 {
            return Ok(());
        }
        state = digest(state, &buffer[..length]);
        left -= length as u64;
    }
    stream.write_u64(state).await?;
    stream.shutdown().await
}

pub(super) async fn transfer(netns: &Netns, to: SocketAddr, id: &str, bytes: usize) -> Outcome {
    let socket = netns.run(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }).map_err(|e| e.to_string())?;
    let stream = socket.map_err(|e| e.to_string())?.connect(to).await.map_err(|e| format!("connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut stream = BufReader::new(stream);
    let mut banner = String::new();
    stream.read_line(&mut banner).await.map_err(|e| format!("connected, then: {e}"))?;
    if banner.trim_end() != id {
        return Err(format!("answered by {:?}", banner.trim_end()));
    }
    let chunk: Vec<u8> = (0..CHUNK).map(|i| (i * 31 % 251) as u8).collect();
    let (mut left, mut state) = (bytes, SEED);
    stream.write_u64(bytes as u64).await.map_err(|e| format!("connected, then: {e}"))?;
    while left > 0 {
        let part = &chunk[..left.min(CHUNK)];
        stream.write_all(part).await.map_err(|e| format!("{} of {bytes} bytes sent, then: {e}", bytes - left))?;
        state = digest(state, part);
        left -= part.len();
    }
    let answered = stream.read_u64().await.map_err(|e| format!("{bytes} bytes sent, then: {e}"))?;
    if answered == state { Ok(()) } else { Err(format!("{bytes} bytes arrived changed")) }
}
