//! An API server that is somebody else's: whether a bench may use it, and how it is left.

use anyhow::{Context as _, ensure};
use api::v1;
use api::view::{NamespaceView, NodeView, PodView};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::objects::LABEL;

type Definitions = Api<PartialObjectMeta<CustomResourceDefinition>>;

/// Refuses a cluster that is in use: the controller of the bench would serve all its pods.
pub async fn check(client: &Client) -> anyhow::Result<()> {
    let definitions: Definitions = Api::all(client.clone());
    for kind in v1::crds() {
        let name = kind.name_any();
        let there = definitions.get_metadata_opt(&name).await.context("cannot ask for kinds")?;
        ensure!(there.is_none(), "--kubeconfig: this cluster has {name} already; a bench needs a cluster for itself alone");
    }
    for pod in Api::<PodView>::all(client.clone()).list(&ListParams::default()).await.context("cannot list pods")? {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        ensure!(
            pod.spec.host_network == Some(true),
            "--kubeconfig: pod {namespace}/{name} is there, and would be given an address; a bench needs a cluster for itself alone"
        );
    }
    Ok(())
}

/// Takes away all that a bench has made. The controller must have ended.
pub async fn clean(client: &Client) -> anyhow::Result<()> {
    let ours = ListParams::default().labels(LABEL);
    let namespaces: Api<NamespaceView> = Api::all(client.clone());
    for namespace in namespaces.list(&ours).await? {
        let pods = Api::<PodView>::namespaced(client.clone(), &namespace.name_any());
        pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
        namespaces.delete(&namespace.name_any(), &DeleteParams::default()).await?;
    }
    let nodes: Api<NodeView> = Api::all(client.clone());
    for node in nodes.list(&ours).await? {
        nodes.delete(&node.name_any(), &DeleteParams::default()).await?;
    }
    let definitions: Definitions = Api::all(client.clone());
    if definitions.get_metadata_opt(<v1::Subnet as kube::CustomResourceExt>::crd_name()).await?.is_some() {
        release::<v1::Subnet>(client).await?;
        release::<v1::Vpc>(client).await?;
    }
    for kind in v1::crds() {
        // With its kind an object goes.
        match definitions.delete(&kind.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// Nobody is there any more who would take the finalizers away.
async fn release<K>(client: &Client) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let objects: Api<K> = Api::all(client.clone());
    for object in objects.list_metadata(&ListParams::default()).await? {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        objects.patch_metadata(&object.name_any(), &PatchParams::default(), &patch).await?;
    }
    Ok(())
}
