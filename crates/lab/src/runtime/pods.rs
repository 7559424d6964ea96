//! Pods of a node that a caller runs in the kubelet's place: bound to the node, with their addresses, in sandboxes, and not
//! yet attached. The lab's own kubelet must not run then (`lab kill kubelet`).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};

use super::{Attachment, Runtime};
use crate::wait::key;

/// How long the controller may take for the addresses of all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests to the API server that are under way at once.
const AT_ONCE: usize = 8;

impl Runtime {
    /// Creates the pods on this node, waits for their addresses and makes their sandboxes; yields what is to be attached,
    /// in the order of the pods.
    ///
    /// # Errors
    /// With the pods that have no address in time, or the server's reason.
    pub async fn admit(&self, client: &Client, pods: Vec<Pod>) -> anyhow::Result<Vec<Attachment>> {
        let created: Vec<Pod> = futures::stream::iter(pods)
            .map(|mut pod| async move {
                pod.spec.get_or_insert_default().node_name = Some(self.node.to_string());
                let namespace = pod.namespace().unwrap_or_else(|| "default".to_owned());
                Api::<Pod>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &pod).await
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
            .context("cannot create pods")?;
        let mut waiting: BTreeMap<String, String> = created.iter().map(|pod| (pod.uid().unwrap_or_default(), key(pod))).collect();
        match tokio::time::timeout(PATIENCE, self.allocated(client, &mut waiting)).await {
            Ok(done) => done?,
            Err(_) => bail!("no address after {PATIENCE:?}: {}", waiting.values().cloned().collect::<Vec<_>>().join(", ")),
        }
        let mut attachments = Vec::new();
        for pod in &created {
            let uid = pod.uid().unwrap_or_default();
            let sandbox = self.sandbox(&uid).await?;
            attachments.push(Attachment::of_pod(&pod.namespace().unwrap_or_default(), &pod.name_any(), &uid, sandbox.name()));
        }
        Ok(attachments)
    }

    async fn allocated(&self, client: &Client, waiting: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
        let here = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut events = std::pin::pin!(watcher::watcher(Api::<Pod>::all(client.clone()), here));
        while !waiting.is_empty() {
            let event = events.try_next().await.context("cannot watch pods")?.context("the watch of pods ended")?;
            if let Event::Apply(pod) | Event::InitApply(pod) = event
                && pod.annotations().get(api::annotations::ALLOCATED).is_some_and(|value| value == "true")
            {
                waiting.remove(&pod.uid().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Deletes the pods of attachments from the API, at once, and their sandboxes. What is attached stays.
    ///
    /// # Errors
    /// With the server's reason. A pod that is gone is no error.
    pub async fn dismiss(&self, client: &Client, attachments: &[Attachment]) -> anyhow::Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        let deleted = futures::stream::iter(attachments).map(Ok).try_for_each_concurrent(AT_ONCE, |attachment| {
            let argument = |name: &str| attachment.args.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
            let pods = Api::<Pod>::namespaced(client.clone(), argument("K8S_POD_NAMESPACE"));
            let (name, at_once) = (argument("K8S_POD_NAME").to_owned(), &at_once);
            async move {
                match pods.delete(&name, at_once).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    done => done.map(|_| ()),
                }
            }
        });
        deleted.await.context("cannot delete pods")?;
        attachments.iter().try_for_each(Attachment::delete_sandbox)
    }
}
