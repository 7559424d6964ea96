//! Echo requests at a steady pace, and how many of them were answered.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use linux::icmp::EchoKind;
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use super::ping::Pinger;

/// How long after the last request its answer may come.
const GRACE: Duration = Duration::from_secs(2);

/// What became of a stream of echo requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streamed {
    /// Requests sent.
    pub sent: usize,
    /// Requests answered.
    pub answered: usize,
    /// The longest run of requests that nobody answered, as time.
    pub gap: Duration,
}

impl Streamed {
    /// Requests that nobody answered.
    #[must_use]
    pub const fn lost(&self) -> usize {
        self.sent - self.answered
    }
}

impl fmt::Display for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pings answered, longest gap {} ms", self.answered, self.sent, self.gap.as_millis())
    }
}

pub(super) async fn stream(pinger: &Pinger, to: IpAddr, pace: Duration, stop: impl Future<Output = ()>) -> Result<Streamed, String> {
    let mut ticks = interval(pace);
    // Late is not lost: what a busy machine delays is sent as soon as it can.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut stop = std::pin::pin!(stop);
    let mut sent: Vec<[u8; 16]> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            _ = ticks.tick() => {
                let key = Uuid::new_v4().into_bytes();
                pinger.send(to, &key)?;
                sent.push(key);
            }
        }
    }
    let all = async {
        for key in &sent {
            pinger.saw(EchoKind::Reply, key, key.len()).await;
        }
    };
    // Whoever is missing then is lost.
    let _ = timeout(GRACE, all).await;
    let (mut answered, mut run, mut longest) = (0, 0_u32, 0);
    for key in &sent {
        if pinger.has(EchoKind::Reply, key, key.len()) {
            answered += 1;
            run = 0;
        } else {
            run += 1;
            longest = longest.max(run);
        }
    }
    Ok(Streamed { sent: sent.len(), answered, gap: pace * longest })
}
