//! The lab's Kubernetes API: how to reach it, and what is there from the beginning.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Deserialize as _;
use serde_json::json;

use crate::{Layout, Parameters, Place};

/// How long the API server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kubeconfig with a bearer token; JSON, which is YAML too.
pub(crate) fn kubeconfig(name: &str, server: &str, token: &str) -> anyhow::Result<Vec<u8>> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    });
    Ok(serde_json::to_vec_pretty(&config)?)
}

/// A client for programs on this machine.
///
/// # Errors
/// When the kubeconfig cannot be read.
pub async fn client(layout: &Layout) -> anyhow::Result<Client> {
    client_of(&layout.kubeconfig()).await
}

pub(crate) async fn client_of(path: &std::path::Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    if config.cluster_url.scheme_str() == Some("http") {
        // TLS is not used, and must not fail on a machine without certificates of authorities.
        config.root_cert = Some(Vec::new());
    }
    Ok(Client::try_from(config)?)
}

/// The kind by which pods ask for further NICs.
const NETWORKS: &str = include_str!("../../../deploy/third-party/network-attachment-definitions.yaml");

/// Kinds of virtual machines.
const KUBEVIRT: &str = include_str!("kubevirt.yaml");

/// Installs our kinds, those of networks and virtual machines, and the nodes.
pub(crate) async fn install(client: &Client, parameters: &Parameters) -> anyhow::Result<()> {
    let work = async {
        let kinds = Api::<CustomResourceDefinition>::all(client.clone());
        let networks = serde_norway::from_str(NETWORKS).context("NetworkAttachmentDefinition")?;
        let machines = serde_norway::Deserializer::from_str(KUBEVIRT).map(CustomResourceDefinition::deserialize);
        let machines = machines.collect::<Result<Vec<_>, _>>().context("kinds of KubeVirt")?;
        for kind in api::v1::crds().into_iter().chain([networks]).chain(machines) {
            let name = kind.metadata.name.clone().unwrap_or_default();
            put(&kinds, &name, &kind).await.with_context(|| format!("cannot install {name}"))?;
        }
        let nodes = Api::<Node>::all(client.clone());
        for place in parameters.node_places() {
            install_node(&nodes, place).await.with_context(|| format!("cannot create node {place}"))?;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(anyhow!("the API server does not answer within {PATIENCE:?}")))
}

async fn install_node(nodes: &Api<Node>, place: Place) -> anyhow::Result<()> {
    let name = place.to_string();
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
    }))?;
    put(nodes, &name, &node).await?;
    let own = place.addresses().into_iter().map(|own| json!({"type": "InternalIP", "address": own.address().to_string()}));
    let status = json!({"status": {
        "addresses": own.chain([json!({"type": "Hostname", "address": name})]).collect::<Vec<_>>(),
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the lab's kubelet runs"}],
    }});
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

/// Creates an object, or merges it into the one of that name.
async fn put<K>(api: &Api<K>, name: &str, object: &K) -> kube::Result<()>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await.map(|_| ())
        }
        created => created.map(|_| ()),
    }
}
