//! Calling the CNI plugin exactly as a container runtime does (CNI 1.0.0): parameters in the environment, the network's
//! configuration on standard input, the answer on standard output.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::record::PodRecord;
use crate::layout::read_json;
use crate::{Lab, Layout, Place};

/// Name of the plugin, and of the network.
const PLUGIN: &str = "ferrovia";
const INTERFACE: &str = "eth0";

fn folder(layout: &Layout, node: Place) -> PathBuf {
    layout.place(node).join("cni")
}

fn configuration(layout: &Layout, node: Place) -> PathBuf {
    folder(layout, node).join("net.d").join("01-ferrovia.conflist")
}

/// Installs the plugin and its network on a node.
pub(crate) fn install(layout: &Layout, node: Place, plugin: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot install the CNI plugin on {node}");
    let (bin, config) = (folder(layout, node).join("bin"), configuration(layout, node));
    fs::create_dir_all(&bin).and_then(|()| fs::create_dir_all(config.with_file_name(""))).with_context(failed)?;
    let link = bin.join(PLUGIN);
    std::os::unix::fs::symlink(plugin, &link).with_context(failed)?;
    let list = json!({"cniVersion": "1.0.0", "name": PLUGIN, "plugins": [{"type": PLUGIN}]});
    fs::write(config, serde_json::to_vec_pretty(&list)?).with_context(failed)
}

/// Connects a pod; yields its addresses.
pub(crate) async fn add(lab: &Lab, node: Place, pod: &PodRecord) -> anyhow::Result<Vec<IpAddr>> {
    let answer = call(lab, node, pod, "ADD").await?;
    let addresses = answer["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok());
    let addresses: Vec<IpAddr> = addresses.collect();
    if addresses.is_empty() { Err(anyhow!("the CNI plugin's result holds no address: {answer}")) } else { Ok(addresses) }
}

/// Disconnects a pod.
pub(crate) async fn del(lab: &Lab, node: Place, pod: &PodRecord) -> anyhow::Result<()> {
    call(lab, node, pod, "DEL").await.map(|_| ())
}

async fn call(lab: &Lab, node: Place, pod: &PodRecord, command: &str) -> anyhow::Result<Value> {
    let netns = linux::netns::path(pod.netns.as_deref().context("the pod uses its node's network")?);
    let bin = folder(&lab.layout, node).join("bin");
    let mut list: Value = read_json(&configuration(&lab.layout, node))?;
    // As libcni does: one plugin's part of the list, with the list's name and version.
    let mut config = list["plugins"][0].take();
    config["name"] = list["name"].take();
    config["cniVersion"] = list["cniVersion"].take();
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.uid, pod.uid
    );
    let parameters = BTreeMap::from([
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_CONTAINERID", pod.uid.clone()),
        ("CNI_NETNS", netns.display().to_string()),
        ("CNI_IFNAME", INTERFACE.to_owned()),
        ("CNI_ARGS", arguments),
        ("CNI_PATH", bin.display().to_string()),
        ("FERROVIA_AGENT_SOCKET", lab.layout.agent_socket(node).display().to_string()),
        (crate::name::MARK, lab.layout.name().to_string()),
    ]);
    let mut plugin = tokio::process::Command::new(bin.join(PLUGIN));
    plugin.env_clear().envs(parameters).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = plugin.spawn().context("cannot execute the CNI plugin")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ends early says why on standard output.
        let _ = stdin.write_all(&serde_json::to_vec(&config)?).await;
    }
    let output = child.wait_with_output().await.context("cannot wait for the CNI plugin")?;
    let answer = serde_json::from_slice::<Value>(&output.stdout);
    if !output.status.success() {
        bail!("CNI {command}: {}", complaint(answer.ok().as_ref(), &output));
    }
    if command == "DEL" { Ok(Value::Null) } else { answer.with_context(|| format!("CNI {command}: the answer is no JSON")) }
}

/// What the plugin says went wrong, in its own words if it finds any.
fn complaint(answer: Option<&Value>, output: &std::process::Output) -> String {
    let said = |field: &str| answer.and_then(|answer| answer[field].as_str()).filter(|text| !text.is_empty());
    match (said("msg"), said("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(text), None) | (None, Some(text)) => text.to_owned(),
        (None, None) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    }
}
