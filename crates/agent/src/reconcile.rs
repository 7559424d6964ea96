//! Keeps what was made as it was made: a port that the switch lost, a link that somebody took down, a rate that a pod's
//! annotations changed. Woken by the switch's database, the kernel and the API server; nothing is looked at by the clock, but for
//! what failed.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use linux::{Event, Events, Link, LinkChange, Subject};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::attachment::{Attachment, Key};
use crate::cluster::Ask;
use crate::node::Node;
use crate::wire::WireError;

/// From one look at all to the next: a port that is added makes a dozen messages, and each look costs time by the number of pods.
const REST: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Links of the node, as the kernel tells of them.
struct Links {
    events: Events,
    shown: HashMap<String, Link>,
}

impl Links {
    async fn open(node: &Node) -> linux::Result<Self> {
        let (handle, events) = Events::open(&node.netns, Subject::Links)?;
        let shown = handle.links().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
        Ok(Self { events, shown })
    }

    /// Takes in what happened. `None` when something was missed.
    async fn next(&mut self) -> Option<()> {
        match self.events.next().await? {
            Event::Link(link) => drop(self.shown.insert(link.name.clone(), link)),
            Event::LinkGone(link) => {
                if self.shown.get(&link.name).is_some_and(|shown| shown.index == link.index) {
                    self.shown.remove(&link.name);
                }
            }
            Event::Address(_) | Event::Route(_) | Event::RouteGone(_) | Event::Rule | Event::Neighbour(..) => {}
        }
        Some(())
    }
}

/// When to try again what failed.
#[derive(Default)]
struct Failures(BTreeMap<Key, (Instant, Duration)>);

impl Failures {
    fn has(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    fn waits(&self, key: &Key) -> bool {
        self.0.get(key).is_some_and(|(at, _)| *at > Instant::now())
    }

    fn note(&mut self, key: Key) {
        let pause = self.0.get(&key).map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        self.0.insert(key, (Instant::now() + pause, pause));
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|(at, _)| *at).filter(|at| *at > Instant::now()).min()
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(node: &Node, shutdown: &CancellationToken) {
    let (mut switch, mut cluster, mut store) = (node.ovs.changes(), node.cluster.changes(), node.store.changes());
    let mut failures = Failures::default();
    // What the pods' annotations say is read when they changed, and not with every message of the kernel and the switch.
    let mut news = true;
    'open: loop {
        let mut links = match Links::open(node).await {
            Ok(links) => links,
            Err(error) => {
                tracing::error!(%error, "links of the node cannot be followed");
                return;
            }
        };
        loop {
            let rested = Instant::now() + REST;
            switch.mark_unchanged();
            store.mark_unchanged();
            news = step(node, &links.shown, &mut failures, news).await;
            let again = failures.next();
            let mut woken = false;
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = switch.changed() => woken = true,
                    _ = cluster.changed() => (woken, news) = (true, true),
                    _ = store.changed() => woken = true,
                    event = links.next() => match event {
                        Some(()) => woken = true,
                        None => continue 'open,
                    },
                    () = sleep_until(rested), if woken => break,
                    () = sleep_until(again.unwrap_or(rested)), if again.is_some() => break,
                }
            }
        }
    }
}

/// Looks at all, and puts right what differs. Returns whether news have to be looked at again, since somebody works on a container
/// that they may concern.
async fn step(node: &Node, links: &HashMap<String, Link>, failures: &mut Failures, news: bool) -> bool {
    // Without a switch nothing can be said of ports.
    if !node.ovs.is_ready() {
        // Its flows are made anew when it comes back.
        node.proven.clear();
        return news;
    }
    let kept = node.store.of(None);
    let mut passed_over = false;
    failures.0.retain(|key, _| kept.iter().any(|attachment| attachment.key() == *key));
    for attachment in kept {
        // A sandbox that another has taken the place of: the runtime will say DEL.
        if failures.waits(&attachment.key()) || node.store.is_superseded(&attachment) {
            continue;
        }
        let wanted = if news || failures.has(&attachment.key()) { as_recorded(node, &attachment) } else { attachment.clone() };
        let is_right = wanted == attachment
            && match &attachment.nic.vhost {
                Some(vhost) => node.unplugged(&attachment, vhost).is_none() && Node::namespace_of(&attachment).is_ok(),
                None => links.get(&attachment.host).is_some_and(|link| link.up && link.mtu == wanted.nic.mtu),
            }
            && node.ovs.check(&node.port(&wanted)).is_ok();
        if is_right {
            if let Err(error) = node.limit_again(&attachment).await {
                tracing::warn!(link = attachment.host, %error, "the rate towards a pod cannot be set");
            }
            failures.0.remove(&attachment.key());
            continue;
        }
        // Whoever works on it puts it right, or removes it.
        let Some(_guard) = node.containers.try_take(&attachment.container) else {
            passed_over |= news;
            continue;
        };
        if node.store.get(&attachment.key()).as_ref() != Some(&attachment) {
            continue;
        }
        let container = attachment.container.as_str();
        let outcome = match node.store.keep(wanted.clone()) {
            Ok(()) => node.wire(&wanted).await,
            Err(error) => Err(WireError::Taken(format!("what is kept of a NIC cannot be written: {error}"))),
        };
        match outcome {
            Ok(lacking) => {
                tracing::info!(container, link = wanted.host, "put right");
                node.reporter.problems(&wanted, lacking);
                failures.note(wanted.key());
            }
            Err(WireError::Gone(netns)) => match node.unmake(&attachment).await {
                Ok(()) => tracing::info!(container, netns, "removed, since its network namespace is gone"),
                Err(error) => {
                    tracing::warn!(container, %error, "cannot be removed");
                    failures.note(attachment.key());
                }
            },
            Err(error) => {
                tracing::warn!(container, link = wanted.host, %error, "cannot be put right; tried again");
                failures.note(attachment.key());
            }
        }
    }
    for link in node.ovs.pod_links() {
        // Whoever makes a link of this name holds it.
        let Some(_guard) = node.containers.try_take(&link) else { continue };
        // That of a device outlives its pod, and the node's start.
        let is_there = links.contains_key(&link) && !node.ovs.is_of_device(&link);
        if is_there || node.store.owner_of(&link).is_some() {
            continue;
        }
        match node.ovs.remove(std::slice::from_ref(&link)).await {
            Ok(()) => tracing::info!(link, "port removed whose link, or the pod that had its device, is gone"),
            Err(error) => tracing::warn!(link, %error, "a port that is nobody's cannot be removed"),
        }
    }
    if let Err(error) = mirror(node, links).await {
        tracing::warn!(%error, "pods cannot be mirrored");
    }
    passed_over
}

/// Copies what passes the NICs that ask for it to the mirror port, and keeps that up.
async fn mirror(node: &Node, links: &HashMap<String, Link>) -> Result<(), WireError> {
    let name = node.config.mirror.as_str();
    let mirrored: Vec<String> = node.store.of(None).into_iter().filter(|kept| kept.nic.tuning.mirror).map(|kept| kept.host).collect();
    if node.ovs.mirror(name, &mirrored).await? {
        tracing::info!(name, pods = mirrored.len(), "mirror changed");
    }
    if let (false, Some(link)) = (mirrored.is_empty(), links.get(name).filter(|link| !link.up)) {
        node.links.change(link.index, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await?;
    }
    Ok(())
}

/// The NIC as the pod's annotations have it now; as it was kept when they do not say, or say that it is another one.
fn as_recorded(node: &Node, attachment: &Attachment) -> Attachment {
    let ask = Ask {
        namespace: &attachment.namespace,
        pod: &attachment.pod,
        uid: attachment.uid.as_deref(),
        provider: &attachment.nic.provider,
        ifname: &attachment.ifname,
    };
    let mut wanted = attachment.clone();
    if let Some(now) = node.cluster.now(ask).and_then(|nics| nics.into_iter().find(|nic| nic.ifname == attachment.ifname)) {
        let default_route = wanted.nic.default_route;
        wanted.nic.tuning = now.nic.tuning;
        wanted.nic.tuning.ingress = wanted.nic.tuning.ingress.or(attachment.ingress);
        wanted.nic.tuning.egress = wanted.nic.tuning.egress.or(attachment.egress);
        // Where a pod's traffic goes is not moved under it, but its gateway may be another one by now.
        wanted.nic.default_route = default_route;
        if (&now.nic.subnet, &now.nic.addresses) == (&wanted.nic.subnet, &wanted.nic.addresses) {
            (wanted.nic.gateways, wanted.nic.routed_mtu) = (now.nic.gateways, now.nic.routed_mtu);
        }
    }
    wanted
}
