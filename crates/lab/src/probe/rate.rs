//! How many bytes a second TCP carries from one namespace to another, once it has found its pace.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use linux::Netns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

/// Sends as much as TCP takes from `from` to `to`, which is reached at `address`; leaves out what comes within `settling`,
/// counts for `counted`, and yields bytes per second as they arrive.
///
/// # Errors
/// When there is no connection, or it ends.
pub async fn rate(from: &Netns, to: &Netns, address: IpAddr, settling: Duration, counted: Duration) -> anyhow::Result<f64> {
    let listener = to.tcp_listener(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
    listener.set_nonblocking(true)?;
    let target = SocketAddr::new(address, listener.local_addr()?.port());
    let listener = TcpListener::from_std(listener)?;
    let socket = from.run(|| if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })??;
    let (sender, accepted) = tokio::try_join!(socket.connect(target), listener.accept())?;
    let mut receiver = accepted.0;
    let receive = async {
        let mut buffer = vec![0; 1 << 16];
        let mut of_period = async |until: Instant| -> std::io::Result<usize> {
            let mut bytes = 0;
            while let Ok(read) = timeout_at(until, receiver.read(&mut buffer)).await {
                match read? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    length => bytes += length,
                }
            }
            Ok(bytes)
        };
        let settled = Instant::now() + settling;
        of_period(settled).await?;
        Ok::<_, std::io::Error>(of_period(settled + counted).await? as f64 / counted.as_secs_f64())
    };
    tokio::select! {
        rate = receive => Ok(rate?),
        error = send(sender) => Err(error.into()),
    }
}

/// Sends until it cannot.
async fn send(mut stream: TcpStream) -> std::io::Error {
    let chunk = vec![0x5a; 1 << 16];
    loop {
        if let Err(error) = stream.write_all(&chunk).await {
            return error;
        }
    }
}
