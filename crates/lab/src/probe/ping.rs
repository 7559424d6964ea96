//! ICMP probes: who saw an echo request, and who got its reply, by a payload that no other request carries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linux::Netns;
use linux::icmp::{EchoKind, IcmpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{Endpoint, Outcome};

/// Pause before a request is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// Bytes of the payload that identify a request.
pub(super) const KEY: usize = 16;
/// What identifies a request.
pub(super) type Key = [u8; KEY];

/// What a ping must achieve.
#[derive(Clone, Copy, Debug)]
pub struct Ping<'a> {
    /// Who must see the request; nobody we can ask when `None`, as of a router.
    pub seen_by: Option<&'a Endpoint>,
    /// Whether the reply must come back too.
    pub answered: bool,
    /// Bytes after the ICMP header, at least 16.
    pub payload: usize,
}

/// Which payloads a namespace received, by length.
#[derive(Debug, Default)]
struct Received {
    requests: HashMap<[u8; KEY], usize>,
    replies: HashMap<[u8; KEY], usize>,
}

#[derive(Debug)]
pub(super) struct Pinger {
    socket: Arc<IcmpSocket>,
    received: Arc<Mutex<Received>>,
    news: watch::Receiver<()>,
}

impl Pinger {
    pub(super) fn open(netns: &Netns, v6: bool, tasks: &mut JoinSet<()>) -> linux::Result<Self> {
        let socket = Arc::new(IcmpSocket::open(netns, v6)?);
        let received = Arc::new(Mutex::new(Received::default()));
        let (tell, news) = watch::channel(());
        let (from, to) = (socket.clone(), received.clone());
        tasks.spawn(async move {
            while let Ok(echo) = from.receive().await {
                let Some(key) = echo.payload.first_chunk::<KEY>() else { continue };
                let mut received = to.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = if echo.kind == EchoKind::Request { &mut received.requests } else { &mut received.replies };
                kept.insert(*key, echo.payload.len());
                drop(received);
                tell.send_replace(());
            }
        });
        Ok(Self { socket, received, news })
    }

    pub(super) fn has(&self, kind: EchoKind, key: &[u8; KEY], length: usize) -> bool {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if kind == EchoKind::Request { &received.requests } else { &received.replies };
        kept.get(key) == Some(&length)
    }

    pub(super) async fn saw(&self, kind: EchoKind, key: &[u8; KEY], length: usize) {
        let mut news = self.news.clone();
        // The sender lives as long as the endpoint.
        while !self.has(kind, key, length) && news.changed().await.is_ok() {}
    }

    /// Sends one request.
    pub(super) fn send(&self, to: IpAddr, payload: &[u8]) -> Outcome {
        self.socket.request(to, payload).map_err(|e| e.to_string())
    }
}

/// What an echo message of that length carries.
pub(super) fn payload(key: Key, length: usize) -> Vec<u8> {
    let mut content = key.to_vec();
    content.resize(length.max(KEY), 0x5a);
    content
}

pub(super) async fn ping(from: &Endpoint, to: IpAddr, ping: Ping<'_>) -> Outcome {
    let key = Uuid::new_v4().into_bytes();
    let length = ping.payload.max(KEY);
    let done = async {
        if let Some(target) = ping.seen_by {
            target.saw(to.is_ipv4(), EchoKind::Request, key, length).await?;
        }
        if ping.answered {
            from.saw(to.is_ipv4(), EchoKind::Reply, key, length).await?;
        }
        Ok(())
    };
    let mut done = std::pin::pin!(done);
    let mut timer = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            done = &mut done => return done,
            _ = timer.tick() => from.send(to, key, length).await?,
        }
    }
}
