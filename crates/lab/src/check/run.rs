//! Making the checks.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use api::annotations::leaves_by_host;
use api::v1::{Subnet, Vpc};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use linux::{Handle, Netns};

use super::expect::{Planned, Target};
use super::{Check, Checked, Intent, Kind, Skipped};
use crate::kubelet::Record;
use crate::probe::{Endpoint, Outcome, Ping};
use crate::{Gateway, Lab, Place};

/// How long something that should work may take, and how long it is tried when it should not.
const PATIENCE: Duration = Duration::from_secs(8);
const IMPATIENCE: Duration = Duration::from_millis(700);
const TRANSFER_PATIENCE: Duration = Duration::from_secs(60);
const TRANSFER: usize = 10_000_000;
const ECHO: usize = 56;

/// How many checks of a kind run at once: those that should fail mostly wait; transfers would starve each other.
const fn width(kind: Kind, expected: bool) -> usize {
    match (kind, expected) {
        (Kind::Transfer, _) => 2,
        (_, true) => 32,
        (_, false) => 256,
    }
}

struct Scene {
    intent: Intent,
    pods: Vec<Endpoint>,
    mtus: Vec<u32>,
    /// MTU of pods where their subnet names none, and of nodes towards them.
    mtu: u32,
    /// Nodes and outside hosts.
    hosts: BTreeMap<String, Endpoint>,
}

impl Lab {
    /// Checks every pod against every other, its gateway, the nodes and the outside hosts.
    ///
    /// # Errors
    /// When the cluster cannot be read or a probe not be opened; what differs from expectation is in the result.
    pub async fn check(&self, client: &Client) -> anyhow::Result<Checked> {
        let scene = self.scene(client).await?;
        let mut pairs: Vec<Check> = Vec::new();
        let plan = scene.intent.plan();
        let phases = [(&[Kind::Tcp, Kind::Udp, Kind::Icmp][..], true), (&[Kind::Mtu], true), (&[Kind::Transfer], true)];
        for (kinds, expected) in phases.into_iter().chain([(&[Kind::Tcp, Kind::Udp, Kind::Icmp][..], false)]) {
            let wanted = plan.iter().filter(|planned| kinds.contains(&planned.kind) && planned.expected == expected);
            let made = futures::stream::iter(wanted.map(|planned| scene.make(planned)));
            pairs.extend(made.buffer_unordered(width(kinds[0], expected)).collect::<Vec<_>>().await);
        }
        pairs.sort_by(|a, b| (&a.from, &a.to, a.address, a.kind).cmp(&(&b.from, &b.to, b.address, b.kind)));
        let differing = pairs.iter().filter(|check| check.expected != check.observed).count();
        let notes = vec![
            "pods of subnets without natOutgoing leave under their own addresses: whether hosts outside answer those is not checked"
                .to_owned(),
            "pods of subnets without a range (protocol Mac) are not checked: their addresses are a server's on the Vlan".to_owned(),
        ];
        let (lab, tunnel, datapath) = (self.layout.name().to_string(), self.parameters.tunnel, self.parameters.datapath);
        let Intent { pods, skipped, .. } = scene.intent;
        Ok(Checked { lab, tunnel, datapath, checks: pairs.len(), differing, skipped, notes, pods, pairs })
    }

    async fn scene(&self, client: &Client) -> anyhow::Result<Scene> {
        let all = ListParams::default();
        let pods = Api::<Pod>::all(client.clone()).list(&all).await.context("cannot list pods")?.items;
        let subnets = Api::<Subnet>::all(client.clone()).list(&all).await.context("cannot list subnets")?.items;
        let vpcs = Api::<Vpc>::all(client.clone()).list(&all).await.context("cannot list VPCs")?.items;
        // The others leave by what only that scheme has.
        let by_hosts =
            |vpc: &Vpc| self.parameters.gateway == Gateway::Localnet && leaves_by_host(vpc.metadata.annotations.as_ref()) == Ok(true);
        let leaving: Vec<String> = vpcs.iter().filter(|vpc| by_hosts(vpc)).map(ResourceExt::name_any).collect();
        let named = |place: Place| (place.to_string(), place.addresses().iter().map(|own| own.address()).collect());
        let (nodes, outside) = (self.parameters.node_places().map(named), self.parameters.outside_places().map(named));
        let mut intent = Intent::new(&pods, &subnets, &leaving, nodes.collect(), outside.collect());
        let mut records = HashMap::new();
        for node in self.parameters.node_places() {
            records.extend(Record::all(&self.layout, node)?.into_iter().map(|record| (record.uid.clone(), record)));
        }
        let (mut endpoints, mut mtus) = (Vec::new(), Vec::new());
        for pod in std::mem::take(&mut intent.pods) {
            let record = records.get(&pod.uid);
            let Some(netns) = record.and_then(|record| record.netns.as_deref()) else {
                intent.skipped.push(Skipped { pod: pod.pod, reason: "it does not run in this lab".to_owned() });
                continue;
            };
            let netns = Netns::named(netns).with_context(|| format!("pod {}", pod.pod))?;
            let link = Handle::open(&netns)?.link("eth0").await?;
            // Of a NIC that is a socket only the machine's record tells.
            let nics = record.iter().flat_map(|record| record.nics.iter().flatten());
            let recorded = nics.filter(|nic| nic.name == "eth0").map(|nic| nic.mtu).next();
            mtus.push(link.map(|link| link.mtu).or(recorded).unwrap_or(self.parameters.tunnel.pod_mtu()));
            endpoints.push(Endpoint::open(&pod.uid, &netns)?);
            intent.pods.push(pod);
        }
        let hosts = self.parameters.node_places().chain(self.parameters.outside_places()).map(|place: Place| {
            let name = place.to_string();
            Endpoint::open(&name, &self.layout.netns(place)?).map(|endpoint| (name, endpoint))
        });
        let hosts = hosts.collect::<anyhow::Result<_>>()?;
        Ok(Scene { intent, pods: endpoints, mtus, mtu: self.parameters.tunnel.pod_mtu(), hosts })
    }
}

impl Scene {
    async fn make(&self, planned: &Planned) -> Check {
        let started = Instant::now();
        let patience = match (planned.expected, planned.kind) {
            (false, _) => IMPATIENCE,
            (true, Kind::Transfer) => TRANSFER_PATIENCE,
            (true, _) => PATIENCE,
        };
        let outcome = tokio::time::timeout(patience, self.probe(planned)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("nothing within {patience:?}")));
        Check {
            from: self.intent.name(&planned.from),
            to: self.intent.name(&planned.to),
            address: planned.address,
            kind: planned.kind,
            expected: planned.expected,
            observed: outcome.is_ok(),
            detail: outcome.err().unwrap_or_default(),
            microseconds: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }

    async fn probe(&self, planned: &Planned) -> Outcome {
        let endpoint = |target: &Target| match target {
            Target::Pod(index) => self.pods.get(*index),
            Target::Node(host) | Target::Outside(host) => self.hosts.get(host),
            Target::Gateway => None,
        };
        let from = endpoint(&planned.from).ok_or_else(|| "nobody is there to ask".to_owned())?;
        let target = endpoint(&planned.to);
        let address = planned.address;
        // Where nothing should arrive, a request that does is a leak, whether or not its reply comes back.
        let ping = Ping { seen_by: target, answered: planned.expected, payload: ECHO };
        match (planned.kind, target) {
            (Kind::Tcp, Some(target)) => from.tcp(target, address, 32).await,
            (Kind::Udp, Some(target)) => from.udp(target, address).await,
            (Kind::Transfer, Some(target)) => from.tcp(target, address, TRANSFER).await,
            (Kind::Mtu, _) => {
                let headers = if address.is_ipv4() { 20 } else { 40 } + linux::icmp::HEADER;
                let of = |target: &Target| if let Target::Pod(index) = target { self.mtus[*index] } else { self.mtu };
                let mtu = usize::try_from(of(&planned.from).min(of(&planned.to))).unwrap_or_default();
                from.ping(address, Ping { payload: mtu.saturating_sub(headers), ..ping }).await
            }
            (Kind::Icmp, _) => from.ping(address, ping).await,
            (_, None) => Err("a gateway answers ICMP only".to_owned()),
        }
    }
}
