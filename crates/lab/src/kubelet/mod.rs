//! A minimal kubelet: makes the pods of one node, as a kubelet and a container runtime would.
//!
//! Pods get a network namespace, an ADD of the CNI plugin, and their commands as processes of this machine; no image
//! is pulled. Everything of a node happens on a thread inside the node's network namespace.

mod cni;
mod container;
mod kill;
mod record;
mod report;
mod volumes;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use watcher::Event;

use crate::{Lab, Place, cluster, pauses::Pauses};
use record::PodRecord;
use worker::{Want, Worker};

pub(crate) use cni::install as install_plugin;
pub use record::{ContainerRecord, PodRecord as Record};
pub(crate) use report::now;

/// What the workers of a node share.
pub(crate) struct Node {
    lab: Lab,
    place: Place,
    client: Client,
}

/// Runs the kubelet of one node until `shutdown`; pods keep running then. Must run inside the node's namespace.
pub(crate) async fn run(lab: Lab, place: Place, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = cluster::client_of(&lab.layout.internal_kubeconfig()).await?;
    let node = Arc::new(Node { lab, place, client });
    let mut workers = Workers { node: node.clone(), wants: HashMap::new(), tasks: JoinSet::new() };
    let selector = watcher::Config::default().fields(&format!("spec.nodeName={place}"));
    let events = watcher(Api::<Pod>::all(node.client.clone()), selector).backoff(Pauses::default());
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = workers.tasks.join_next(), if !workers.tasks.is_empty() => {
                workers.forget(ended);
                continue;
            }
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(pod))) => {
                listed.extend(pod.uid());
                workers.want(pod);
            }
            Ok(Some(Event::InitDone)) => workers.keep_only(&listed)?,
            Ok(Some(Event::Apply(pod))) => workers.want(pod),
            Ok(Some(Event::Delete(pod))) => workers.gone(&pod.uid().unwrap_or_default()),
            Ok(None) => anyhow::bail!("{place}: the watch of pods ended"),
            Err(error) => tracing::warn!(%place, %error, "watching pods"),
        }
    }
    Ok(()) // workers are dropped: pods keep running and are adopted next time
}

struct Workers {
    node: Arc<Node>,
    wants: HashMap<String, watch::Sender<Want>>,
    tasks: JoinSet<String>,
}

impl Workers {
    fn want(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        match self.wants.get(&uid) {
            Some(want) => {
                want.send_replace(Want::Pod(Box::new(pod)));
            }
            None => self.start(uid, Want::Pod(Box::new(pod))),
        }
    }

    fn gone(&self, uid: &str) {
        if let Some(want) = self.wants.get(uid) {
            want.send_replace(Want::Gone);
        }
    }

    /// What was made for pods that are no longer in the API, perhaps since before we started, is removed.
    fn keep_only(&mut self, listed: &HashSet<String>) -> anyhow::Result<()> {
        let left: Vec<_> = self.wants.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
        left.iter().for_each(|uid| self.gone(uid));
        let records = PodRecord::all(&self.node.lab.layout, self.node.place).context("cannot read the records of pods")?;
        for record in records.into_iter().filter(|record| !listed.contains(&record.uid)) {
            if !self.wants.contains_key(&record.uid) {
                self.start(record.uid, Want::Gone);
            }
        }
        Ok(())
    }

    fn start(&mut self, uid: String, want: Want) {
        let (sender, receiver) = watch::channel(want);
        let worker = Worker::new(self.node.clone(), uid.clone(), receiver);
        self.wants.insert(uid.clone(), sender);
        self.tasks.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn forget(&mut self, ended: Result<String, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.wants.remove(&uid);
            }
            Err(error) => tracing::error!(place = %self.node.place, %error, "a pod's worker failed"),
        }
    }
}
