//! Provider networks on this node: of each, a bridge of Open vSwitch with a NIC of the node in it. What the node was reached by over the
//! NIC passes to the bridge's link, and back when the network goes. All is put right when the kernel, the switch or the API server tell
//! that it differs; what fails is undone, and told on the node's object.

mod addressing;
mod frames;
mod nic;
mod report;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::view::NodeView;
use api::{Egress, provider_network};
use kube::Api;
use kube::api::{Patch, PatchParams};
use linux::{Event, Events, Subject};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::ovs::OvsError;
use nic::{Names, Nic, Record};
use report::State;
use watch::{Known, Wanted, Watches};

/// What the bridge of a network and the NIC in it are called, if the node has recorded it.
pub(crate) fn names(node: &Node, network: &str) -> Option<Names> {
    let records = node.ovs.records()?;
    Some(serde_json::from_str::<Record>(records.get(network)?).ok()?.names(network))
}

/// From one look at all to the next.
const REST: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a bridge does not stand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error(transparent)]
    Ovs(#[from] OvsError),
    #[error(transparent)]
    Linux(#[from] linux::Error),
    #[error("what is recorded of a NIC, or rules of our own, cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("metadata.name: {0}")]
    Name(String),
    #[error("link {0} does not exist")]
    NoLink(String),
    #[error("link {0} has no hardware address of six bytes")]
    NoMac(String),
    #[error("link {0} is a port of bridge {1} already")]
    InBridge(String, String),
    #[error("link {0} is a port of link {1} already")]
    HasMaster(String, String),
    #[error("link {0} is there already, and no bridge of Open vSwitch")]
    Taken(String),
    #[error("Open vSwitch has not opened {0} within {1:?}; is ovs-vswitchd running?")]
    NotOpened(String, Duration),
    #[error("Open vSwitch has not taken link {0} away within {1:?}; is ovs-vswitchd running?")]
    NotGone(String, Duration),
}

/// What was done, and is not done again while nothing says that it is undone.
#[derive(Default)]
struct Done {
    /// NICs whose frames the kernel's stack does not see, by network and index.
    dropped: BTreeMap<String, u32>,
}

/// What of the switch the bridges depend on. Pods come and go without changing it.
#[derive(PartialEq)]
struct View(Option<Vec<Seen>>);

/// What it shows of a network.
#[derive(PartialEq)]
struct Seen {
    network: String,
    record: String,
    /// The bridge that has the NIC.
    holder: Option<String>,
    /// Whether the bridge stands, and the network is behind it.
    stands: bool,
}

impl View {
    fn of(node: &Node) -> Self {
        let looked = node.ovs.records().map(|records| {
            let of = |(network, record): (String, String)| {
                let names = serde_json::from_str::<Record>(&record).unwrap_or_default().names(&network);
                let stands = node.ovs.has_bridge(&names.bridge).unwrap_or(false);
                let stands = stands && node.ovs.mapped_elsewhere(&network, &names.bridge).is_ok();
                Seen { network, record, holder: node.ovs.bridge_of(&names.nic), stands }
            };
            records.into_iter().map(of).collect()
        });
        Self(looked)
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(node: &Node, client: kube::Client, shutdown: &CancellationToken) {
    let mut watches = Watches::open(&client, &node.config.node);
    let nodes: Api<NodeView> = Api::all(client);
    let mut switch = node.ovs.changes();
    let mut done = Done::default();
    let mut pause = FIRST_PAUSE;
    'open: loop {
        let mut links = match Events::open(&node.netns, Subject::Addressing) {
            Ok((_, links)) => links,
            Err(error) => {
                tracing::error!(%error, "links of the node cannot be followed");
                return;
            }
        };
        loop {
            let began = Instant::now();
            switch.mark_unchanged();
            if watches.known.lost {
                watches.known.lost = !stands(&nodes, &node.config.node).await;
            }
            let states = step(node, &watches.known, &mut done).await;
            let seen = View::of(node);
            if let Some(states) = &states {
                let ready = states.iter().filter_map(|(network, state)| match state {
                    State::Ready { mtu, .. } => Some((network.clone(), *mtu)),
                    _ => None,
                });
                node.cluster.networks_are(ready.collect());
            }
            let failed = states.as_ref().is_some_and(|states| states.values().any(|state| matches!(state, State::NotReady { .. })));
            let told = match &states {
                Some(states) => tell(&nodes, node, states, &watches.known).await,
                None => true,
            };
            let again = (failed || !told).then(|| Instant::now() + pause);
            pause = if again.is_some() { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            let interest = Interest::of(node, &watches.known).await;
            let mut woken = false;
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = watches.next() => woken |= changed,
                    _ = switch.changed() => woken |= View::of(node) != seen,
                    event = links.next() => match event {
                        Some(event) => woken |= interest.has(&event),
                        None => continue 'open,
                    },
                    () = sleep_until(began + REST), if woken => break,
                    () = sleep_until(again.unwrap_or(began)), if again.is_some() => break,
                }
            }
        }
    }
}

/// The links that the networks are about.
struct Interest {
    names: BTreeSet<String>,
    indexes: Vec<u32>,
}

impl Interest {
    async fn of(node: &Node, known: &Known) -> Self {
        let networks = known.networks.iter().flatten();
        let names: BTreeSet<String> = networks
            .flat_map(|(network, Wanted { spec, .. })| {
                let custom = spec.custom_interfaces.iter().flatten().filter_map(|custom| custom.interface.clone());
                custom.chain([spec.default_interface.clone(), provider_network::bridge(network)])
            })
            .collect();
        let mut indexes = Vec::new();
        for name in &names {
            indexes.extend(node.links.link(name).await.ok().flatten().map(|link| link.index));
        }
        Self { names, indexes }
    }

    fn has(&self, event: &Event) -> bool {
        match event {
            Event::Link(link) | Event::LinkGone(link) => self.names.contains(&link.name),
            Event::Address(index) => self.indexes.contains(index),
            Event::Route(route) | Event::RouteGone(route) => route.device.is_some_and(|index| self.indexes.contains(&index)),
            Event::Rule | Event::Neighbour(..) => false,
        }
    }
}

/// Looks at all networks, and makes each what it is to be. Returns how they stand; `None` while that is not to be known.
async fn step(node: &Node, known: &Known, done: &mut Done) -> Option<BTreeMap<String, State>> {
    let (networks, (labels, _)) = (known.networks.as_ref()?, known.node.as_ref()?);
    let name = node.config.node.as_str();
    let records = node.ovs.records()?;
    let mut states = BTreeMap::new();
    if known.lost && !records.is_empty() {
        tracing::warn!("the API server shows neither provider networks nor this node: NICs stay in their bridges");
    }
    for (network, record) in records.iter().filter(|_| !known.lost) {
        let is_wanted = |wanted: &Wanted| wanted.spec.includes(name, labels);
        if !networks.get(network).is_some_and(is_wanted) {
            let taken_away = match serde_json::from_str::<Record>(record) {
                Ok(record) => Nic { node, network }.give_back(&record, done).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = taken_away {
                tracing::warn!(network, %error, "a NIC cannot be given back to the node; tried again");
                states.insert(network.clone(), State::NotReady { nic: String::new(), why: error.to_string() });
            }
        }
    }
    for (network, Wanted { spec, exit }) in networks {
        if !spec.includes(name, labels) {
            if spec.exclude_nodes.iter().flatten().any(|excluded| excluded == name) {
                states.entry(network.clone()).or_insert(State::Excluded);
            }
            continue;
        }
        let nic = spec.interface_of(name);
        let record = records.get(network).and_then(|record| serde_json::from_str(record).ok());
        let state = match (Nic { node, network }).take(nic, spec, record, done).await {
            Ok(mtu) => {
                // Routers say what is too long for the NIC, or for pods.
                let exit = (*exit && matches!(node.config.egress, Some(Egress::Localnet(_)))).then(|| mtu.min(node.config.mtu));
                State::Ready { nic: nic.to_owned(), mtu, exit }
            }
            Err(error) => {
                tracing::warn!(network, nic, %error, "the NIC is not in its bridge; tried again");
                State::NotReady { nic: nic.to_owned(), why: error.to_string() }
            }
        };
        states.insert(network.clone(), state);
    }
    Some(states)
}

/// Whether the API server has the node's object: who lost its networks as well lost everything.
async fn stands(nodes: &Api<NodeView>, node: &str) -> bool {
    matches!(nodes.get_opt(node).await, Ok(Some(_)))
}

/// Says on the node's object how its networks stand. Returns whether it does.
async fn tell(nodes: &Api<NodeView>, node: &Node, states: &BTreeMap<String, State>, known: &Known) -> bool {
    let Some((labels, annotations)) = &known.node else { return true };
    let Some(patch) = report::patch(states, labels, annotations) else { return true };
    match nodes.patch(&node.config.node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "the state of provider networks cannot be written to the node; tried again");
            false
        }
    }
}
