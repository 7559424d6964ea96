//! `lab status`: components, nodes, subnets and pods.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use api::annotations::{LOGICAL_ROUTER, LOGICAL_SWITCH};
use api::v1::Subnet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;

use crate::table::headed;
use crate::wait::{is_ready, key};
use crate::{Component, Datapath, Lab, Place, State, Tunnel, cluster};

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state of a lab.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the lab.
    pub lab: String,
    /// Encapsulation between nodes.
    pub tunnel: Tunnel,
    /// Datapath of the nodes.
    pub datapath: Datapath,
    /// Kubeconfig for programs on this machine.
    pub kubeconfig: String,
    /// Its long-running processes, by place and name.
    pub components: Vec<ComponentStatus>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Subnets of the cluster; empty when the API server does not answer.
    pub subnets: Vec<SubnetStatus>,
    /// Pods of the cluster; empty when the API server does not answer.
    pub pods: Vec<PodStatus>,
    /// Why the API server does not answer, if it does not.
    pub api_error: Option<String>,
}

/// A component.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// What `lab kill` calls it.
    pub name: String,
    /// Where it belongs: `central`, `node1`… or `host`.
    pub place: Place,
    /// `running` or `paused` with `pid`, or `stopped`.
    #[serde(flatten)]
    pub state: State,
    /// Of a database: `leader`, `follower` or `alone`; of `northd`: `released` or `held`; else null.
    pub role: Option<&'static str>,
    /// How often `lab restart` started it again.
    pub restarts: u32,
    /// Its log.
    pub log: String,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Address on the physical network.
    pub address: String,
    /// Its datapath.
    pub datapath: Datapath,
    /// How many pods it has.
    pub pods: usize,
    /// Whether all its components run.
    pub running: bool,
}

/// A subnet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// Its name.
    pub name: String,
    /// Its VPC.
    pub vpc: String,
    /// Its addresses.
    pub cidr: String,
    /// Its gateway.
    pub gateway: String,
    /// How many pods it has.
    pub pods: usize,
}

/// A pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `namespace/name`.
    pub pod: String,
    /// Its node; empty while it has none.
    pub node: String,
    /// Its phase.
    pub phase: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Its VPC; empty while unknown.
    pub vpc: String,
    /// Its subnet; empty while unknown.
    pub subnet: String,
    /// Its addresses.
    pub addresses: Vec<String>,
}

impl Lab {
    /// Reads the state of the lab. An API server that does not answer is part of it.
    ///
    /// # Errors
    /// When the records of components cannot be read.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let components = Component::recorded(&self.layout)?.into_iter().map(|component| ComponentStatus {
            state: component.state(&self.layout),
            role: component.role(&self.layout),
            log: component.log.display().to_string(),
            name: component.name,
            place: component.place,
            restarts: component.restarts,
        });
        let read = async { read(&cluster::client(&self.layout).await?).await };
        let read = tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| anyhow::bail!("no answer within {PATIENCE:?}"));
        let (mut subnets, pods, api_error) = match read {
            Ok((subnets, pods)) => (subnets, pods, None),
            Err(error) => (Vec::new(), Vec::new(), Some(format!("{error:#}"))),
        };
        for subnet in &mut subnets {
            subnet.pods = pods.iter().filter(|pod| pod.subnet == subnet.name).count();
        }
        let components: Vec<_> = components.collect();
        let nodes = self.parameters.node_places().map(|place| NodeStatus {
            name: place.to_string(),
            address: place.address().map(|address| address.to_string()).unwrap_or_default(),
            datapath: self.parameters.datapath_of(place),
            pods: pods.iter().filter(|pod| pod.node == place.to_string()).count(),
            running: components
                .iter()
                .filter(|component| component.place == place)
                .all(|component| matches!(component.state, State::Running { .. })),
        });
        Ok(Status {
            lab: self.layout.name().to_string(),
            tunnel: self.parameters.tunnel,
            datapath: self.parameters.datapath,
            kubeconfig: self.layout.kubeconfig().display().to_string(),
            nodes: nodes.collect(),
            components,
            subnets,
            pods,
            api_error,
        })
    }
}

async fn read(client: &Client) -> anyhow::Result<(Vec<SubnetStatus>, Vec<PodStatus>)> {
    let all = ListParams::default();
    let subnets = Api::<Subnet>::all(client.clone()).list(&all).await.context("cannot list subnets")?;
    let pods = Api::<Pod>::all(client.clone()).list(&all).await.context("cannot list pods")?;
    let subnets = subnets.into_iter().map(|subnet| SubnetStatus {
        name: subnet.name_any(),
        vpc: subnet.spec.vpc_name().to_owned(),
        cidr: subnet.spec.cidr_block.unwrap_or_default(),
        gateway: subnet.spec.gateway.unwrap_or_default(),
        pods: 0,
    });
    let pods = pods.into_iter().map(|pod| {
        let annotation = |name: &str| pod.annotations().get(name).cloned().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        PodStatus {
            pod: key(&pod),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            ready: is_ready(&pod) && status.phase.as_deref() != Some("Succeeded"),
            vpc: annotation(LOGICAL_ROUTER),
            subnet: annotation(LOGICAL_SWITCH),
            phase: status.phase.unwrap_or_default(),
            addresses: status.pod_ips.into_iter().flatten().map(|ip| ip.ip).collect(),
        }
    });
    let (mut subnets, mut pods): (Vec<_>, Vec<_>) = (subnets.collect(), pods.collect());
    subnets.sort_by(|a: &SubnetStatus, b| (&a.vpc, &a.name).cmp(&(&b.vpc, &b.name)));
    pods.sort_by(|a: &PodStatus, b| a.pod.cmp(&b.pod));
    Ok((subnets, pods))
}

impl Status {
    /// The state as tables: components, then the topology from VPC to pod.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text =
            format!("lab {}: {} tunnels, {} datapath, {}\n\n", self.lab, self.tunnel.as_str(), self.datapath.as_str(), self.kubeconfig);
        let components = self.components.iter().map(|component| {
            let (state, pid) = match component.state {
                State::Running { pid } => ("running", pid.to_string()),
                State::Paused { pid } => ("paused", pid.to_string()),
                State::Stopped => ("stopped", String::new()),
            };
            let role = component.role.unwrap_or_default().to_owned();
            vec![component.place.to_string(), component.name.clone(), state.to_owned(), role, pid, component.restarts.to_string()]
        });
        rows(&mut text, &["place", "component", "state", "role", "pid", "restarts"], components);
        let nodes = self.nodes.iter().map(|node| {
            let state = if node.running { "running" } else { "degraded" };
            vec![node.name.clone(), node.address.clone(), node.datapath.as_str().to_owned(), node.pods.to_string(), state.to_owned()]
        });
        rows(&mut text, &["node", "address", "datapath", "pods", "state"], nodes);
        if let Some(error) = &self.api_error {
            let _ = writeln!(text, "the API server does not answer: {error}");
            return text;
        }
        let subnets = self.subnets.iter().map(|subnet| {
            vec![subnet.vpc.clone(), subnet.name.clone(), subnet.cidr.clone(), subnet.gateway.clone(), subnet.pods.to_string()]
        });
        rows(&mut text, &["VPC", "subnet", "CIDR", "gateway", "pods"], subnets);
        let mut pods: Vec<_> = self.pods.iter().collect();
        pods.sort_by_key(|pod| (&pod.vpc, &pod.subnet, &pod.pod));
        let pods = pods.into_iter().map(|pod| {
            let state = if pod.ready { "ready" } else { &pod.phase };
            vec![pod.vpc.clone(), pod.subnet.clone(), pod.pod.clone(), pod.addresses.join(" "), pod.node.clone(), state.to_owned()]
        });
        rows(&mut text, &["VPC", "subnet", "pod", "addresses", "node", "state"], pods);
        text
    }
}

fn rows(text: &mut String, header: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = headed(header.iter().map(|name| (*name).to_owned()));
    rows.for_each(|row| {
        table.add_row(row);
    });
    let _ = writeln!(text, "{table}\n");
}
