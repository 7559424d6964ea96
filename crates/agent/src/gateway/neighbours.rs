//! Who the physical gateways are by which pods leave without the host: their MACs, asked for as long as pods leave so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use linux::{Answer, Asker, Mac, Netns, Question};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

/// From one question to the next: as long a gateway that has another MAC now may be sent to in vain.
const INTERVAL: Duration = Duration::from_millis(200);
/// As many questions without an answer, and a gateway counts as lost.
const MISSES: u32 = 10;

/// Who is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The link.
    pub(super) index: u32,
    /// Who asks.
    pub(super) from: Mac,
    /// Addresses.
    pub(super) gateways: Vec<IpAddr>,
}

/// What is known of those that are asked for: nothing yet, a MAC, or that they do not answer.
pub(super) type Found = BTreeMap<IpAddr, Option<Mac>>;

/// Asks for whoever is wanted. Does not end.
pub(super) async fn ask(netns: &Netns, mut wanted: watch::Receiver<Option<Asked>>, found: watch::Sender<Found>) {
    let mut misses: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let mut open: Option<((u32, bool), Asker)> = None;
    loop {
        let asked = wanted.borrow_and_update().clone();
        let gateways = asked.as_ref().map(|asked| asked.gateways.as_slice()).unwrap_or_default();
        misses.retain(|gateway, _| gateways.contains(gateway));
        found.send_if_modified(|found| {
            let before = found.len();
            found.retain(|gateway, _| gateways.contains(gateway));
            found.len() != before
        });
        let Some(asked) = asked else {
            open = None;
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        let ends = Instant::now() + INTERVAL;
        let by = (asked.index, asked.gateways.iter().any(IpAddr::is_ipv6));
        if open.as_ref().is_none_or(|(opened, _)| *opened != by) {
            let opened = Asker::open(netns, by.0, by.1);
            // Such as while the switch starts anew: the link is another one then.
            open = opened.inspect_err(|error| tracing::debug!(%error, "gateways cannot be asked for")).ok().map(|asker| (by, asker));
        }
        for gateway in &asked.gateways {
            let missed = misses.entry(*gateway).or_default();
            if *missed >= MISSES {
                tell(&found, *gateway, None);
            }
            *missed = missed.saturating_add(1);
        }
        if let Some((_, asker)) = &open
            && let Err(error) = round(asker, &asked, ends, &mut misses, &found).await
        {
            tracing::debug!(%error, "gateways cannot be asked for");
            open = None;
        }
        tokio::select! {
            () = sleep(ends.saturating_duration_since(Instant::now())) => {}
            changed = wanted.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

/// Asks once, and takes in what is answered until a time.
async fn round(
    asker: &Asker,
    asked: &Asked,
    ends: Instant,
    misses: &mut BTreeMap<IpAddr, u32>,
    found: &watch::Sender<Found>,
) -> linux::Result<()> {
    for gateway in &asked.gateways {
        asker.ask(&Question { vlan: 0, from: asked.from, address: *gateway })?;
    }
    while let Ok(answer) = timeout_at(ends, asker.answer()).await {
        let Answer { to, address, by } = answer?;
        if to == asked.from && asked.gateways.contains(&address) {
            misses.insert(address, 0);
            tell(found, address, Some(by));
        }
    }
    Ok(())
}

fn tell(found: &watch::Sender<Found>, gateway: IpAddr, mac: Option<Mac>) {
    found.send_if_modified(|found| {
        let before = found.insert(gateway, mac);
        if before != Some(mac) {
            match mac {
                Some(mac) => tracing::info!(%gateway, mac = linux::display_mac(mac), "the gateway of pods"),
                None => tracing::warn!(%gateway, "the gateway of pods does not answer"),
            }
        }
        before != Some(mac)
    });
}
