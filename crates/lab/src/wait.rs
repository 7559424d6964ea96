//! Waiting until all pods are ready, woken by their watch.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};

/// Waits until every pod is ready or has succeeded.
///
/// # Errors
/// After `patience`, with each pod that is not ready and the reason.
pub async fn pods_ready(client: &Client, patience: Duration) -> anyhow::Result<()> {
    let mut pods = BTreeMap::new();
    if let Ok(done) = tokio::time::timeout(patience, all_ready(client, &mut pods)).await {
        return done;
    }
    let mut lines = Vec::new();
    for pod in pods.values().filter(|pod| !is_ready(pod)) {
        lines.push(format!("  {}: {}", key(pod), why(client, pod).await));
    }
    bail!("after {patience:?} {} of {} pods are not ready:\n{}", lines.len(), pods.len(), lines.join("\n"))
}

async fn all_ready(client: &Client, pods: &mut BTreeMap<String, Pod>) -> anyhow::Result<()> {
    let mut events = std::pin::pin!(watcher::watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()));
    let mut listed = false;
    while let Some(event) = events.try_next().await.context("cannot watch pods")? {
        match event {
            Event::Init => pods.clear(),
            Event::InitApply(pod) | Event::Apply(pod) => {
                pods.insert(key(&pod), pod);
            }
            Event::InitDone => listed = true,
            Event::Delete(pod) => {
                pods.remove(&key(&pod));
            }
        }
        if listed && pods.values().all(is_ready) {
            return Ok(());
        }
    }
    bail!("the watch of pods ended")
}

/// `namespace/name`.
pub(crate) fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Whether a pod is ready, or done.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready || status.phase.as_deref() == Some("Succeeded")
}

/// Why a pod is not ready: its latest event, else its conditions.
pub(crate) async fn why(client: &Client, pod: &Pod) -> String {
    let fields = format!("involvedObject.uid={}", pod.uid().unwrap_or_default());
    let events = Api::<CoreEvent>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let mut found = events.list(&ListParams::default().fields(&fields)).await.map(|list| list.items).unwrap_or_default();
    found.retain(|event| event.involved_object.uid == pod.metadata.uid);
    found.sort_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
    if let Some(event) = found.last() {
        return format!("{}: {}", event.reason.as_deref().unwrap_or_default(), event.message.as_deref().unwrap_or_default());
    }
    let Some(status) = &pod.status else { return "nobody has looked at it yet".to_owned() };
    let told = status.conditions.iter().flatten().filter(|condition| condition.status != "True").filter_map(|condition| {
        condition.message.clone().filter(|message| !message.is_empty()).map(|message| format!("{}: {message}", condition.type_))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() { format!("phase {}", status.phase.as_deref().unwrap_or("unknown")) } else { told.join("; ") }
}
