//! What the API server shows of provider networks, and of this node's own object.

use std::collections::BTreeMap;

use api::v1::{ProviderNetwork, ProviderNetworkSpec};
use api::view::NodeView;
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};

/// What is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// None before they are known: nothing is taken away for want of knowledge.
    pub(super) networks: Option<BTreeMap<String, Wanted>>,
    /// Whether a list had none at all, and the node's object was not seen since: perhaps they were lost, as when the API server was
    /// restored to an empty state, and nothing is given back for that.
    pub(super) lost: bool,
    /// Labels and annotations of the node; none before they are known.
    pub(super) node: Option<(BTreeMap<String, String>, BTreeMap<String, String>)>,
}

/// A network, as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) spec: ProviderNetworkSpec,
    /// Whether pods leave by it.
    pub(super) exit: bool,
}

impl From<ProviderNetwork> for Wanted {
    fn from(object: ProviderNetwork) -> Self {
        let exit = matches!(api::provider_network::exit(object.metadata.annotations.as_ref()), Ok(Some(_)));
        Self { spec: object.spec, exit }
    }
}

type Events<K> = std::pin::Pin<Box<dyn Stream<Item = Result<Event<K>, watcher::Error>> + Send>>;

/// Follows both kinds.
pub(super) struct Watches {
    networks: Events<ProviderNetwork>,
    nodes: Events<NodeView>,
    listing: BTreeMap<String, Wanted>,
    pub(super) known: Known,
}

impl Watches {
    pub(super) fn open(client: &kube::Client, node: &str) -> Self {
        let own = watcher::Config::default().fields(&format!("metadata.name={node}"));
        Self {
            networks: watcher::watcher(Api::all(client.clone()), watcher::Config::default()).default_backoff().boxed(),
            nodes: watcher::watcher(Api::all(client.clone()), own).default_backoff().boxed(),
            listing: BTreeMap::new(),
            known: Known::default(),
        }
    }

    /// Takes in the next event. Returns whether anything that is known changed.
    pub(super) async fn next(&mut self) -> bool {
        tokio::select! {
            Some(event) = self.networks.next() => {
                let before = self.known.networks.clone();
                match event {
                    Ok(Event::Init) => self.listing.clear(),
                    Ok(Event::InitApply(network)) => drop(self.listing.insert(network.name_any(), network.into())),
                    Ok(Event::InitDone) => {
                        self.known.lost = self.listing.is_empty();
                        self.known.networks = Some(std::mem::take(&mut self.listing));
                    }
                    Ok(Event::Apply(network)) => {
                        self.known.lost = false;
                        drop(self.known.networks.get_or_insert_default().insert(network.name_any(), network.into()));
                    }
                    Ok(Event::Delete(network)) => {
                        self.known.lost = false;
                        drop(self.known.networks.get_or_insert_default().remove(&network.name_any()));
                    }
                    Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {}
                    Err(error) => tracing::warn!(kind = "ProviderNetwork", %error, "watch interrupted; it goes on by itself"),
                }
                before != self.known.networks
            }
            Some(event) = self.nodes.next() => {
                let before = self.known.node.clone();
                match event {
                    Ok(Event::Apply(node) | Event::InitApply(node)) => {
                        self.known.node = Some((node.metadata.labels.unwrap_or_default(), node.metadata.annotations.unwrap_or_default()));
                    }
                    Ok(Event::Delete(_)) => self.known.node = None,
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => tracing::warn!(kind = "Node", %error, "watch interrupted; it goes on by itself"),
                }
                before != self.known.node
            }
            else => std::future::pending().await,
        }
    }
}
