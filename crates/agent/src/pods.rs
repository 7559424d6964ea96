//! The pods of this node, as the API server shows them.

use std::collections::HashMap;
use std::time::Duration;

use api::annotations::{self, NicRecord};
use api::view::PodView;
use futures::StreamExt;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::sync::watch;
use tokio::time::timeout;

/// Namespace and name.
type Key = (String, String);

/// What an ADD must know of a pod.
#[derive(Clone, Debug)]
struct Seen {
    uid: String,
    /// Name of its logical switch port.
    port: String,
    record: Result<Option<NicRecord>, String>,
}

/// A pod's primary NIC.
#[derive(Clone, Debug)]
pub(crate) struct Nic {
    /// Name of its logical switch port.
    pub(crate) port: String,
    /// What was allocated.
    pub(crate) record: NicRecord,
}

/// The pods of the node. Waiters are woken by the watch.
#[derive(Clone)]
pub(crate) struct Pods {
    seen: watch::Receiver<HashMap<Key, Seen>>,
}

impl Pods {
    /// Waits until the pod's address is recorded.
    ///
    /// # Errors
    /// What is missing, or what is wrong with the record.
    pub(crate) async fn nic(&self, namespace: &str, name: &str, uid: Option<&str>, patience: Duration) -> Result<Nic, String> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut seen = self.seen.clone();
        let is_it = |pod: &Seen| uid.is_none_or(|uid| uid == pod.uid);
        let found =
            timeout(patience, seen.wait_for(|pods| pods.get(&key).is_some_and(|p| is_it(p) && !matches!(p.record, Ok(None))))).await;
        match found {
            Ok(Ok(pods)) => match pods.get(&key).map(|pod| (pod.port.clone(), pod.record.clone())) {
                Some((port, Ok(Some(record)))) => Ok(Nic { port, record }),
                Some((_, Err(why))) => Err(format!("pod {namespace}/{name}: {why}")),
                _ => Err(format!("pod {namespace}/{name} is gone")),
            },
            Ok(Err(_)) => Err("the agent is stopping".to_owned()),
            Err(_) => {
                let pods = self.seen.borrow();
                Err(match pods.get(&key) {
                    None => format!("pod {namespace}/{name} is not on this node after {patience:?}"),
                    Some(pod) if !is_it(pod) => format!("pod {namespace}/{name} has uid {}, not {}", pod.uid, uid.unwrap_or_default()),
                    Some(_) => format!("pod {namespace}/{name} has no address after {patience:?}; its events say why"),
                })
            }
        }
    }
}

/// Prepares the table, and the future that keeps it current; the caller owns the task that awaits it.
pub(crate) fn watch_pods(client: kube::Client, node: &str) -> (Pods, impl Future<Output = ()> + Send + use<>) {
    let (sender, seen) = watch::channel(HashMap::new());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let feed = async move {
        let events = watcher::watcher(Api::<PodView>::all(client), config).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut listing: HashMap<Key, Seen> = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listing.clear(),
                Ok(Event::InitApply(pod)) => drop(listing.insert(key(&pod), view(&pod))),
                Ok(Event::InitDone) => drop(sender.send_replace(std::mem::take(&mut listing))),
                Ok(Event::Apply(pod)) => sender.send_modify(|pods| drop(pods.insert(key(&pod), view(&pod)))),
                Ok(Event::Delete(pod)) => sender.send_modify(|pods| drop(pods.remove(&key(&pod)))),
                Err(error) => tracing::warn!(%error, "watch of pods interrupted; it goes on by itself"),
            }
        }
    };
    (Pods { seen }, feed)
}

fn key(pod: &PodView) -> Key {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

fn view(pod: &PodView) -> Seen {
    let notes = pod.metadata.annotations.as_ref();
    let record = notes.map_or(Ok(None), annotations::recorded);
    let (namespace, name) = key(pod);
    // The NIC of a virtual machine is on the machine's name.
    let machine = notes.and_then(|notes| notes.get(annotations::VIRTUAL_MACHINE)).filter(|machine| !machine.is_empty());
    let port = format!("{}.{namespace}", machine.unwrap_or(&name));
    Seen { uid: pod.metadata.uid.clone().unwrap_or_default(), port, record }
}
