//! The network of a pod, by the CNI plugins that are installed on the node.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::record::PodRecord;
use crate::runtime::{Attachment, Runtime};
use crate::{Lab, Layout, Place};

/// Name of the plugin, and of the network.
const PLUGIN: &str = "ferrovia";
/// Name of a pod's primary link.
const PRIMARY: &str = "eth0";

/// Installs the plugin and its network on a node.
pub(crate) fn install(layout: &Layout, node: Place, plugin: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot install the CNI plugin on {node}");
    let folder = layout.place(node).join("cni");
    let (bin, networks) = (folder.join("bin"), folder.join("net.d"));
    fs::create_dir_all(&bin).and_then(|()| fs::create_dir_all(&networks)).with_context(failed)?;
    std::os::unix::fs::symlink(plugin, bin.join(PLUGIN)).with_context(failed)?;
    let list = json!({"cniVersion": "1.1.0", "name": PLUGIN, "plugins": [{"type": PLUGIN}]});
    fs::write(networks.join("01-ferrovia.conflist"), serde_json::to_vec_pretty(&list)?).with_context(failed)
}

fn attachment(pod: &PodRecord) -> anyhow::Result<Attachment> {
    let netns = pod.netns.as_deref().context("the pod uses its node's network")?;
    Ok(Attachment::of_pod(&pod.namespace, &pod.name, &pod.uid, netns))
}

/// Connects a pod; yields what the plugin made.
pub(crate) async fn add(lab: &Lab, node: Place, pod: &PodRecord) -> anyhow::Result<Value> {
    let runtime = Runtime::new(lab.clone(), node);
    Ok(runtime.add(&runtime.network()?, &attachment(pod)?).await?.ok()?)
}

/// The addresses of the primary one of the NICs that the plugin made. In a subnet that gives MACs alone it has none.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let name = |ip: &Value| Some(result["interfaces"].get(usize::try_from(ip["interface"].as_u64()?).ok()?)?["name"].as_str()? == PRIMARY);
    let is_primary = |ip: &&Value| name(ip).unwrap_or(false);
    let primary = result["ips"].as_array().into_iter().flatten().filter(is_primary);
    primary.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

/// Disconnects a pod.
pub(crate) async fn del(lab: &Lab, node: Place, pod: &PodRecord) -> anyhow::Result<()> {
    let runtime = Runtime::new(lab.clone(), node);
    runtime.del(&runtime.network()?, &attachment(pod)?).await?.ok()?;
    Ok(())
}
