//! Next hops on physical networks by which routers share what leaves a VPC: whether they answer here. A few nodes of each network watch
//! them, and tell by an annotation of their node, when something changed; the controller takes those away that most of them miss.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::MacAddr;
use api::routes::{NextHop, UNREACHABLE, spell_unreachable};
use api::view::NodeView;
use futures::future::select_all;
use kube::Api;
use linux::{Answer, Asker, Question};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::attachment::digest;
use crate::node::Node;

/// From one question to the next.
const INTERVAL: Duration = Duration::from_millis(150);
/// As many questions without an answer, and a next hop counts as lost.
const MISSES: u32 = 3;
/// As many answers in a row, and it does no more.
const ANSWERS: u32 = 5;
/// From one failure to tell to the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// First octet of the MACs that questions are from: one of each chassis on each VLAN, which nobody else has.
const ASKING: u8 = 0x06;

/// Watches and tells until `shutdown`.
pub(crate) async fn watch(node: &Node, client: kube::Client, shutdown: &CancellationToken) {
    let (found, lost) = watch::channel(None);
    let nodes = Api::all(client);
    let work = async { tokio::join!(look(node, &found), tell(node, &nodes, lost)) };
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = work => {}
    }
}

/// What is known of a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    lost: bool,
    /// Since it was asked last.
    answered: bool,
    misses: u32,
    answers: u32,
}

impl Seen {
    /// Takes in whether the last question was answered. Returns whether that changed what is known.
    fn judge(&mut self) -> bool {
        (self.misses, self.answers) = if self.answered { (0, self.answers + 1) } else { (self.misses + 1, 0) };
        self.answered = false;
        let was = self.lost;
        self.lost = if was { self.answers < ANSWERS } else { self.misses >= MISSES };
        was != self.lost
    }
}

/// The link by which a physical network is asked.
struct Link {
    asker: Asker,
    v6: bool,
}

/// Asks, and says which next hops are lost.
async fn look(node: &Node, found: &watch::Sender<Option<BTreeSet<NextHop>>>) {
    let mut cluster = node.cluster.changes();
    let mut hops: BTreeMap<NextHop, Seen> = BTreeMap::new();
    let mut links: BTreeMap<Box<str>, Link> = BTreeMap::new();
    loop {
        cluster.mark_unchanged();
        let known = node.cluster.watched(&node.config.node).zip(node.cluster.own_node()).zip(node.ovs.system_id());
        let Some(((wanted, own), chassis)) = known else {
            if cluster.changed().await.is_err() {
                return;
            }
            continue;
        };
        hops.retain(|hop, _| wanted.contains(hop));
        for hop in wanted {
            // What an agent before this one said holds until the next hop answers.
            let lost = own.unreachable.contains(&hop);
            hops.entry(hop).or_insert(Seen { lost, ..Seen::default() });
        }
        links.retain(|network, _| hops.keys().any(|hop| hop.network == *network));
        if !hops.is_empty() {
            round(node, &chassis, &mut hops, &mut links).await;
        }
        let lost: BTreeSet<_> = hops.iter().filter(|(_, seen)| seen.lost).map(|(hop, _)| hop.clone()).collect();
        found.send_if_modified(|told| {
            let differs = told.as_ref() != Some(&lost);
            *told = Some(lost);
            differs
        });
        if hops.is_empty() && cluster.changed().await.is_err() {
            return;
        }
    }
}

/// Asks all once, takes in what is answered until the next time, and judges.
async fn round(node: &Node, chassis: &str, hops: &mut BTreeMap<NextHop, Seen>, links: &mut BTreeMap<Box<str>, Link>) {
    let ends = Instant::now() + INTERVAL;
    let networks: BTreeSet<Box<str>> = hops.keys().map(|hop| hop.network.clone()).collect();
    for network in networks {
        let v6 = hops.keys().any(|hop| hop.network == network && hop.address.is_ipv6());
        if links.get(&network).is_none_or(|link| link.v6 != v6) {
            match open(node, &network, v6).await {
                Ok(asker) => drop(links.insert(network, Link { asker, v6 })),
                Err(why) => {
                    tracing::debug!(network = &*network, why, "next hops cannot be asked for");
                    links.remove(&network);
                }
            }
        }
    }
    let mut asked: BTreeMap<(MacAddr, IpAddr), NextHop> = BTreeMap::new();
    for hop in hops.keys() {
        let Some(link) = links.get(&hop.network) else { continue };
        let from = asks_as(chassis, &hop.network, hop.vlan);
        match link.asker.ask(&Question { vlan: hop.vlan, from: from.octets(), address: hop.address }) {
            Ok(()) => drop(asked.insert((from, hop.address), hop.clone())),
            Err(error) => {
                // Such as while the switch starts anew: the link is another one then.
                tracing::debug!(%hop, %error, "a next hop cannot be asked for");
                links.remove(&hop.network);
            }
        }
    }
    loop {
        let next = async {
            if links.is_empty() {
                return std::future::pending().await;
            }
            select_all(links.values().map(|link| Box::pin(link.asker.answer()))).await.0
        };
        let next = timeout_at(ends, next).await;
        match next {
            Ok(Ok(Answer { to, address, .. })) => {
                let hop = MacAddr::new(to).ok().and_then(|to| asked.get(&(to, address)));
                if let Some(seen) = hop.and_then(|hop| hops.get_mut(hop)) {
                    seen.answered = true;
                }
            }
            // One whose link went away is opened anew.
            Ok(Err(error)) => {
                tracing::debug!(%error, "answers of next hops cannot be received");
                links.clear();
            }
            Err(_) => break,
        }
    }
    // Of those that could not be asked nothing new is known.
    for hop in asked.values() {
        if let Some(seen) = hops.get_mut(hop)
            && seen.judge()
        {
            if seen.lost {
                tracing::warn!(%hop, "a next hop does not answer");
            } else {
                tracing::info!(%hop, "a next hop answers again");
            }
        }
    }
}

/// The MAC that a chassis asks from on a VLAN, 0 for none.
pub(crate) fn asks_as(chassis: &str, network: &str, vlan: u16) -> MacAddr {
    MacAddr::local(ASKING, digest(chassis, &format!("{network}.{vlan}")))
}

/// Opens the link by which a network is asked: that of its bridge, which passes on what is tagged.
async fn open(node: &Node, network: &str, v6: bool) -> Result<Asker, String> {
    let bridge = node.ovs.mapped(network).ok_or("no bridge is mapped to the network")?;
    let index = node.links.index(&bridge).await.map_err(|error| error.to_string())?;
    Asker::open(&node.netns, index, v6).map_err(|error| error.to_string())
}

/// Keeps the node's annotation true.
async fn tell(node: &Node, nodes: &Api<NodeView>, mut lost: watch::Receiver<Option<BTreeSet<NextHop>>>) {
    let mut cluster = node.cluster.changes();
    loop {
        cluster.mark_unchanged();
        let wanted = lost.borrow_and_update().clone();
        let shown = node.cluster.own_node().map(|own| own.unreachable);
        let mut failed = false;
        if let (Some(wanted), Some(shown)) = (wanted, shown)
            && wanted != shown
        {
            let told = node.annotate(nodes, UNREACHABLE, spell_unreachable(&wanted).as_deref()).await;
            if let Err(error) = &told {
                tracing::warn!(%error, "next hops that do not answer cannot be told; tried again");
            }
            failed = told.is_err();
        }
        tokio::select! {
            changed = lost.changed() => if changed.is_err() { return },
            changed = cluster.changed() => if changed.is_err() { return },
            () = sleep(PAUSE), if failed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_hop_is_lost_after_three_misses_and_back_after_five_answers_in_a_row() {
        let mut seen = Seen::default();
        let mut ask = |answered: bool| {
            seen.answered = answered;
            seen.judge();
            seen.lost
        };
        let lost: Vec<bool> = [true, false, false, true, false, false, false, true, true, true, true, false].map(&mut ask).into();
        assert_eq!(lost, [[false; 6], [true; 6]].concat());
        assert_eq!([true; 6].map(&mut ask), [true, true, true, true, false, false]);
    }
}
