//! A minimal scheduler: binds each pod to a node that its `nodeSelector` allows, the one with the fewest pods.

use std::collections::BTreeMap;

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use watcher::Event;

use crate::pauses::Pauses;
use crate::wait::key;

/// Binds pods until the watch fails for good.
pub(crate) async fn run(client: Client) -> anyhow::Result<()> {
    let mut events = std::pin::pin!(watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).backoff(Pauses::default()));
    let mut bound = BTreeMap::new(); // pod → node
    let mut listed = Vec::new();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => {
                bound.clear();
                listed.clear();
            }
            // Placed after the list is complete: how many pods a node has is known only then.
            Ok(Some(Event::InitApply(pod))) => {
                note(&mut bound, &pod);
                listed.push(pod);
            }
            Ok(Some(Event::InitDone)) => {
                for pod in std::mem::take(&mut listed) {
                    consider(&client, &mut bound, &pod).await;
                }
            }
            Ok(Some(Event::Apply(pod))) => {
                note(&mut bound, &pod);
                consider(&client, &mut bound, &pod).await;
            }
            Ok(Some(Event::Delete(pod))) => {
                bound.remove(&key(&pod));
            }
            Ok(None) => anyhow::bail!("the watch of pods ended"),
            Err(error) => tracing::warn!(%error, "watching pods"),
        }
    }
}

fn note(bound: &mut BTreeMap<String, String>, pod: &Pod) {
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()) {
        bound.insert(key(pod), node);
    }
}

async fn consider(client: &Client, bound: &mut BTreeMap<String, String>, pod: &Pod) {
    if bound.contains_key(&key(pod)) || pod.metadata.deletion_timestamp.is_some() {
        return;
    }
    match place(client, bound, pod).await {
        Ok(Some(node)) => {
            bound.insert(key(pod), node);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(pod = key(pod), error = format!("{error:#}"), "cannot place a pod"),
    }
}

async fn place(client: &Client, bound: &BTreeMap<String, String>, pod: &Pod) -> anyhow::Result<Option<String>> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("cannot list nodes")?;
    let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    let Some(node) = choose(&nodes.items, bound, pod) else {
        let message = format!("0/{} nodes match the pod's nodeSelector", nodes.items.len());
        let told = pod.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|c| c.message.as_deref() == Some(&message));
        if !told {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            let status = json!({"status": {"conditions": [condition]}});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        }
        return Ok(None);
    };
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    match pods.create_subresource::<_, serde_json::Value>("binding", &name, &PostParams::default(), &binding).await {
        // A small API server may know no bindings, and then takes the name of the node itself.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 405 => {
            let patch = Patch::Merge(json!({"spec": {"nodeName": node}}));
            pods.patch(&name, &PatchParams::default(), &patch).await.context("cannot bind it")?;
        }
        done => {
            done.context("cannot bind it")?;
        }
    }
    Ok(Some(node))
}

/// The allowed node with the fewest pods; the first by name among equals.
fn choose(nodes: &[Node], bound: &BTreeMap<String, String>, pod: &Pod) -> Option<String> {
    let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
    let allowed = nodes.iter().filter(|node| selector.iter().all(|(label, value)| node.labels().get(label) == Some(value)));
    allowed.map(ResourceExt::name_any).min_by_key(|node| (bound.values().filter(|on| *on == node).count(), node.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})).unwrap()
    }

    fn pod(spec: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})).unwrap()
    }

    #[test]
    fn pods_spread_where_their_selector_allows() {
        let nodes = [node("node1"), node("node2")];
        let bound = BTreeMap::from([("default/a".to_owned(), "node1".to_owned())]);
        let free = pod(&json!({"containers": []}));
        assert_eq!(choose(&nodes, &BTreeMap::new(), &free).as_deref(), Some("node1"));
        assert_eq!(choose(&nodes, &bound, &free).as_deref(), Some("node2"));
        let pinned = |host: &str| pod(&json!({"containers": [], "nodeSelector": {"kubernetes.io/hostname": host}}));
        assert_eq!(choose(&nodes, &bound, &pinned("node1")).as_deref(), Some("node1"));
        assert_eq!(choose(&nodes, &bound, &pinned("node9")), None);
    }
}
