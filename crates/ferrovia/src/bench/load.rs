//! What is done to the cluster: pods created by the thousand, pods that come and go, the controller started anew.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use api::v1;
use api::view::{NamespaceView, NodeView, PodView};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::objects::{Shape, marker, pod_status};
use super::observe::{Ledger, Seen, Stage};
use super::outcome::{Churn, ColdStart, Fill, Traffic, used_since};
use super::process::Usage;
use super::stack::Stack;

/// Requests under way at once while the cluster is filled.
const AT_ONCE: usize = 64;
/// How long a restarted controller is looked at after it has compared everything.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// The cluster to work on.
pub struct Load {
    pub client: kube::Client,
    pub ledger: Arc<Ledger>,
    pub shape: Shape,
    /// Pods that are there, the oldest first.
    alive: VecDeque<Pod>,
    bound: bool,
}

#[derive(Clone)]
struct Pod {
    name: String,
    number: u32,
}

impl Load {
    pub fn new(client: kube::Client, ledger: Arc<Ledger>, shape: Shape, bound: bool) -> Self {
        Self { client, ledger, shape, alive: VecDeque::new(), bound }
    }

    /// Nodes, namespaces and subnets. Pods will be of `pod_bytes` as the API server shows them when they are created.
    pub async fn prepare(&mut self, pod_bytes: usize) -> anyhow::Result<()> {
        let shape = self.shape;
        let all = |count: u32, object: fn(&Shape, u32) -> Value| (0..count).map(move |number| object(&shape, number));
        create_all::<NodeView>(&self.client, all(shape.nodes, Shape::node_object)).await.context("nodes")?;
        create_all::<NamespaceView>(&self.client, all(shape.subnets, Shape::namespace_object)).await.context("namespaces")?;
        create_all::<v1::Subnet>(&self.client, all(shape.subnets, Shape::subnet_object)).await.context("subnets")?;
        let body = serde_json::to_vec(&shape.pod("pod-0", 0))?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let shown = self.client.request_text(pods_of(&shape.namespace(0)).create(&dry, body)?).await.context("a pod on trial")?;
        self.shape.padding = pod_bytes.saturating_sub(shown.len());
        Ok(())
    }

    /// Waits until the subnets have their switches, as pods created before would go elsewhere.
    pub async fn subnets_are_there(&self) -> anyhow::Result<()> {
        // One is the default subnet's.
        let wanted = self.shape.subnets as usize + 1;
        self.ledger.until("every subnet has its switch", |seen| seen.switches >= wanted).await
    }

    /// Creates pods, and their `IP` objects, as a controller has left them, and starts one that must make their network again.
    pub async fn restore(&mut self, pods: u32, stack: &mut Stack) -> anyhow::Result<Fill> {
        let began = Instant::now();
        let added = named(pods);
        let created = stream::iter(&added).map(|pod| self.create_recorded(pod)).buffer_unordered(AT_ONCE);
        created.try_for_each(|()| async { Ok(()) }).await?;
        let created = began.elapsed();
        self.alive.extend(added);
        let (before, used, began) = (self.ledger.seen(), stack.usage()?, Instant::now());
        stack.start_controller().await?;
        self.quiet().await?;
        self.filled(pods, created, began.elapsed(), &before, used_since(&used, &stack.usage()?)).await
    }

    /// Creates pods as fast as the API server takes them, and waits until all of them are served.
    pub async fn fill(&mut self, pods: u32, stack: &mut Stack) -> anyhow::Result<Fill> {
        let (before, used, began) = (self.ledger.seen(), stack.usage()?, Instant::now());
        let added = named(pods);
        let created = stream::iter(&added).map(|pod| self.create(pod.clone())).buffer_unordered(AT_ONCE);
        created.try_for_each(|()| async { Ok(()) }).await.context("pods")?;
        let created = began.elapsed();
        self.alive.extend(added);
        self.served(pods as usize).await?;
        self.filled(pods, created, began.elapsed(), &before, used_since(&used, &stack.usage()?)).await
    }

    async fn filled(&self, pods: u32, created: Duration, took: Duration, before: &Seen, processes: Vec<Usage>) -> anyhow::Result<Fill> {
        let pod_bytes = match self.alive.front() {
            Some(pod) => self.size(pod).await?,
            None => 0,
        };
        Ok(Fill {
            pods,
            pod_bytes,
            seconds: took.as_secs_f64(),
            created_per_second: f64::from(pods) / created.as_secs_f64(),
            served_per_second: f64::from(pods) / took.as_secs_f64(),
            traffic: Traffic::of(&self.ledger.take(), before, &self.ledger.seen(), pods),
            processes,
        })
    }

    /// Pods come and go at a rate, so that their number stays.
    pub async fn churn(&mut self, rate: u32, seconds: u32, stack: &mut Stack) -> anyhow::Result<Churn> {
        // What the cluster was filled with is done with, down to the last object that nobody waits for.
        self.quiet().await?;
        let (before, used, began) = (self.ledger.seen(), stack.usage()?, Instant::now());
        let pods = rate * seconds;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests: JoinSet<anyhow::Result<()>> = JoinSet::new();
        for number in 0..pods {
            pace.tick().await;
            let pod = Pod { name: format!("churn-{number}"), number };
            self.alive.push_back(pod.clone());
            let (load, new) = (self.handle(), pod);
            requests.spawn(async move { load.create(new).await });
            // Younger ones may still be on their way.
            if let Some(old) = (self.alive.len() > rate as usize).then(|| self.alive.pop_front()).flatten() {
                let load = self.handle();
                requests.spawn(async move { load.delete(&old).await });
            }
            while let Some(done) = requests.try_join_next() {
                done??;
            }
        }
        let offered = began.elapsed();
        while let Some(done) = requests.join_next().await {
            done??;
        }
        self.served(pods as usize).await?;
        let ports = self.alive.len();
        self.ledger.until("the ports of deleted pods are gone", |seen| seen.ports == ports).await?;
        let took = began.elapsed();
        Ok(Churn {
            pods,
            seconds: took.as_secs_f64(),
            rate_per_second: f64::from(pods) / offered.as_secs_f64(),
            alive: ports,
            traffic: Traffic::of(&self.ledger.take(), &before, &self.ledger.seen(), pods),
            processes: used_since(&used, &stack.usage()?),
        })
    }

    /// Starts the controller anew on what is there.
    pub async fn cold_start(&mut self, stack: &mut Stack) -> anyhow::Result<ColdStart> {
        self.quiet().await?;
        let before = self.ledger.seen().rows;
        self.mark(0).await?;
        stack.stop_controller().await?;
        let first = self.ledger.seen();
        let marker_rows = first.rows - before;

        let (_, object) = marker(1);
        create_all::<v1::Subnet>(&self.client, [object].into_iter()).await?;
        let (used, began) = (stack.usage()?, Instant::now());
        stack.start_controller().await?;
        self.marked(1).await?;
        let took = began.elapsed();
        let processes = stack.usage()?;
        tokio::time::sleep(AFTERWARDS).await;
        let peak = stack.usage()?;
        stack.stop_controller().await?;
        let last = self.ledger.seen();
        Ok(ColdStart {
            pods: self.alive.len(),
            seconds: took.as_secs_f64(),
            rows_written: (last.rows - first.rows).saturating_sub(marker_rows),
            objects_written: last.written - first.written,
            peak_memory: peak.iter().find(|usage| usage.process == "controller").map_or(0, |usage| usage.peak_memory),
            processes: used_since(&used, &processes),
        })
    }

    /// Waits until nothing is left to write.
    async fn quiet(&self) -> anyhow::Result<()> {
        let pods = self.alive.len();
        self.ledger.until("every pod has its port and its IP object", |seen| seen.ports == pods && seen.ips == pods).await
    }

    async fn mark(&self, number: u32) -> anyhow::Result<()> {
        let (_, object) = marker(number);
        create_all::<v1::Subnet>(&self.client, [object].into_iter()).await?;
        self.marked(number).await
    }

    async fn marked(&self, number: u32) -> anyhow::Result<()> {
        let (name, _) = marker(number);
        self.ledger.until("the marker is in the northbound database", |seen| seen.marker == name).await
    }

    /// Waits until that many pods on the ledger are served.
    async fn served(&self, pods: usize) -> anyhow::Result<()> {
        let stages: &[Stage] = if self.bound { &[Stage::Patched, Stage::Bound] } else { &[Stage::Patched, Stage::Committed] };
        self.ledger.until("every pod is served", |seen| stages.iter().all(|stage| seen.stages[*stage as usize] >= pods)).await
    }

    fn handle(&self) -> Self {
        Self { client: self.client.clone(), ledger: Arc::clone(&self.ledger), shape: self.shape, alive: VecDeque::new(), bound: self.bound }
    }

    async fn create(&self, Pod { name, number }: Pod) -> anyhow::Result<()> {
        let namespace = self.shape.namespace(number);
        let body = serde_json::to_vec(&self.shape.pod(&name, number))?;
        let request = pods_of(&namespace);
        self.ledger.creating(&namespace, &name);
        let create = request.create(&PostParams::default(), body)?;
        let shown: PodView = self.client.request(create).await.with_context(|| format!("pod {namespace}/{name}"))?;
        if shown.status.phase.as_deref() == Some("Running") {
            return Ok(());
        }
        // A real API server does not take a status from who creates; the kubelet says it afterwards.
        let status = Patch::Merge(json!({ "status": pod_status(&name, number) }));
        let patch = request.patch_subresource("status", &name, &PatchParams::default(), &status)?;
        self.client.request::<IgnoredAny>(patch).await.with_context(|| format!("status of pod {namespace}/{name}"))?;
        Ok(())
    }

    async fn create_recorded(&self, Pod { name, number }: &Pod) -> anyhow::Result<()> {
        let (pod, ip) = (self.shape.recorded_pod(name, *number), self.shape.ip_object(name, *number));
        let namespace = self.shape.namespace(*number);
        let create = pods_of(&namespace).create(&PostParams::default(), serde_json::to_vec(&pod)?)?;
        self.client.request::<IgnoredAny>(create).await.with_context(|| format!("pod {namespace}/{name}"))?;
        create_all::<v1::Ip>(&self.client, std::iter::once(ip)).await.with_context(|| format!("IP object of pod {namespace}/{name}"))
    }

    async fn delete(&self, Pod { name, number }: &Pod) -> anyhow::Result<()> {
        let namespace = self.shape.namespace(*number);
        let request = pods_of(&namespace).delete(name, &DeleteParams::default().grace_period(0))?;
        self.client.request::<IgnoredAny>(request).await.with_context(|| format!("pod {namespace}/{name}"))?;
        Ok(())
    }

    /// Bytes of a pod as the API server shows it.
    async fn size(&self, Pod { name, number }: &Pod) -> anyhow::Result<usize> {
        let request = pods_of(&self.shape.namespace(*number)).get(name, &kube::api::GetParams::default())?;
        Ok(self.client.request_text(request).await?.len())
    }
}

fn named(pods: u32) -> Vec<Pod> {
    (0..pods).map(|number| Pod { name: format!("pod-{number}"), number }).collect()
}

/// Installs our kinds.
pub async fn install(client: &kube::Client) -> anyhow::Result<()> {
    let kinds = v1::crds().iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    create_at(client, path, kinds.into_iter()).await.context("kinds of kubeovn.io")
}

fn pods_of(namespace: &str) -> Request {
    Request::new(PodView::url_path(&(), Some(namespace)))
}

async fn create_all<K: Resource<DynamicType = ()>>(client: &kube::Client, objects: impl Iterator<Item = Value>) -> anyhow::Result<()> {
    create_at(client, &K::url_path(&(), None), objects.map(|object| object.to_string())).await
}

/// Creates objects whose answers do not matter, as long as they are no refusals.
async fn create_at(client: &kube::Client, path: &str, objects: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let request = Request::new(path);
    let created = objects.map(|object| {
        let create = request.create(&PostParams::default(), object.into_bytes());
        async { anyhow::Ok(client.request::<IgnoredAny>(create?).await.map(drop)?) }
    });
    stream::iter(created).buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await
}
