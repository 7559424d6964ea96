//! Live migration of a virtual machine from one node to another, as KubeVirt's objects tell of it: what its controller and its handlers on
//! the nodes would do, in one place.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use api::v1;
use api::view::MIGRATION_JOB;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use linux::Netns;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::instances::{self, instance_of, instances};
use crate::kubelet::{Record, now};
use crate::machine::{self, Message, Moved, Target};
use crate::probe::{Endpoint, Ping, Streamed};
use crate::{Lab, Place, wait};

/// How long the pod may take that a machine moves to, and what follows from its arrival.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to reach the machine, if it can.
const REACHED: Duration = Duration::from_secs(1);
/// Time between two echo requests.
const PACE: Duration = Duration::from_millis(10);
/// Signal by which a migration is called off.
const TERM: i32 = 15;

/// What a migration is asked for with.
#[derive(Clone, Debug)]
pub struct Migrate {
    /// Namespace of the machine.
    pub namespace: String,
    /// Name of its instance.
    pub name: String,
    /// Where it is to run.
    pub node: Place,
    /// Bytes a second for its memory, if not as many as go.
    pub bandwidth: Option<u64>,
}

/// A migration that is over.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Migrated {
    /// Namespace and name of the machine.
    pub machine: String,
    /// Node that it ran on.
    pub from: String,
    /// Node that it runs on.
    pub to: String,
    /// Pod that it runs in.
    pub pod: String,
    /// How long QEMU says that it stood still, in milliseconds.
    pub downtime: u64,
    /// How long QEMU says that its memory took, in milliseconds.
    pub memory: u64,
    /// From the beginning until nothing of it was left where it ran, in milliseconds.
    pub total: u64,
    /// What became of a node's echo requests to it, if nodes reach it.
    pub pings: Option<Pings>,
}

/// Echo requests, one each 10 ms.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pings {
    /// Sent.
    pub sent: usize,
    /// Answered.
    pub answered: usize,
    /// The longest run without an answer, in milliseconds.
    pub gap: u64,
}

impl fmt::Display for Migrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, from, to, downtime, memory, total, .. } = self;
        write!(
            f,
            "{machine} moved from {from} to {to} in {total} ms, of which its memory took {memory}; it stood still for {downtime} ms"
        )?;
        match self.pings {
            Some(Pings { sent, answered, gap }) => write!(f, ", and was silent for {gap} ms: {answered} of {sent} pings answered"),
            None => write!(f, "; nodes do not reach it, so that its network was not measured"),
        }
    }
}

/// The migrations of a namespace.
fn migrations(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind())
}

fn kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "VirtualMachineInstanceMigration"))
}

/// Calls the migrations of a machine off that are under way.
///
/// # Errors
/// When there is none.
pub async fn abort(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let all = migrations(client, namespace);
    let mut found = all.list(&ListParams::default()).await?.items;
    found.retain(|migration| migration.data["spec"]["vmiName"] == name && !is_over(migration));
    ensure!(!found.is_empty(), "virtual machine {namespace}/{name} does not migrate");
    for migration in found {
        all.delete(&migration.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}

fn is_over(migration: &DynamicObject) -> bool {
    matches!(migration.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// A machine, where it runs, and where it is to run.
struct Move<'a> {
    lab: &'a Lab,
    client: &'a Client,
    asked: &'a Migrate,
    instance: DynamicObject,
    source: Pod,
    from: String,
}

/// The migration's object, and the pod that was made for it.
struct Job {
    name: String,
    uid: String,
    pod: String,
}

impl Lab {
    /// Moves a virtual machine to another node while it runs. It is called off by `stop`, and when its object is deleted.
    ///
    /// # Errors
    /// When there is no such machine or node; or with why it runs where it did, and nothing is left of it elsewhere.
    pub async fn migrate(&self, client: &Client, asked: &Migrate, stop: CancellationToken) -> anyhow::Result<Migrated> {
        let begun = Instant::now();
        let a_move = Move::of(self, client, asked).await?;
        let job = a_move.announce().await?;
        let moved = a_move.carry_out(&job, &stop).await;
        a_move.conclude(&job, moved, begun).await
    }
}

impl<'a> Move<'a> {
    async fn of(lab: &'a Lab, client: &'a Client, asked: &'a Migrate) -> anyhow::Result<Self> {
        let Migrate { namespace, name, node, .. } = asked;
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let Some(instance) = instances(client, namespace).get_opt(name).await? else {
            bail!(
                "{}",
                match pods.get_opt(name).await? {
                    Some(pod) if instance_of(&pod).is_some() => {
                        format!("{namespace}/{name} is a pod of virtual machine {}", instance_of(&pod).unwrap_or_default())
                    }
                    Some(pod) if pod.spec.as_ref().is_some_and(|spec| spec.runtime_class_name.as_deref() == Some("vm")) => {
                        format!(
                            "pod {namespace}/{name} is its own virtual machine: only one of a VirtualMachineInstance can have another pod"
                        )
                    }
                    Some(_) => format!("pod {namespace}/{name} is a container, and no virtual machine"),
                    None => format!("there is no virtual machine {namespace}/{name}"),
                }
            );
        };
        let from = instance.data["status"]["nodeName"].as_str();
        let from = from.with_context(|| format!("virtual machine {namespace}/{name} does not run yet"))?.to_owned();
        ensure!(from != node.to_string(), "virtual machine {namespace}/{name} runs on {node} already");
        let there = Api::<Node>::all(client.clone()).get_opt(&node.to_string()).await?;
        let there = there.with_context(|| format!("there is no node {node}"))?;
        let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ensure!(ready, "node {node} is not ready");
        let all = migrations(client, namespace).list(&ListParams::default()).await?.items;
        let other = all.iter().find(|migration| migration.data["spec"]["vmiName"] == *name && !is_over(migration));
        if let Some(other) = other {
            bail!("virtual machine {namespace}/{name} migrates already: {}; --abort calls it off", other.name_any());
        }
        let on_node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(from.as_str());
        let found = pods.list(&ListParams::default()).await?.items;
        let mut found = found.into_iter().filter(|pod| instance_of(pod) == Some(name) && on_node(pod) && is_running(pod));
        let source = found.next().with_context(|| format!("virtual machine {namespace}/{name} has no pod that is ready on {from}"))?;
        Ok(Self { lab, client, asked, instance, source, from })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.asked.namespace)
    }

    /// Makes the migration's object, and the pod that the machine is to move to.
    async fn announce(&self) -> anyhow::Result<Job> {
        let Migrate { namespace, name, node, .. } = self.asked;
        let mut migration = DynamicObject::new("", &kind());
        migration.metadata.name = None;
        migration.metadata.generate_name = Some(format!("{name}-migration-"));
        migration.data = json!({ "spec": { "vmiName": name } });
        let migration = migrations(self.client, namespace).create(&PostParams::default(), &migration).await?;
        let (job, uid) = (migration.name_any(), migration.uid().unwrap_or_default());
        let mut pod = instances::pod(&self.instance, uid.get(..5).unwrap_or_default())?;
        pod.annotations_mut().insert("kubevirt.io/migrationJobName".to_owned(), job.clone());
        pod.labels_mut().insert(MIGRATION_JOB.to_owned(), uid.clone());
        if let Some(spec) = &mut pod.spec {
            spec.node_name = Some(node.to_string());
        }
        let made = self.pods().create(&PostParams::default(), &pod).await.context("cannot make the pod that it is to move to");
        let job = Job { name: job, uid, pod: pod.name_any() };
        match made {
            Ok(_) => Ok(job),
            Err(error) => {
                self.say_of_job(&job, "Failed").await?;
                Err(error)
            }
        }
    }

    async fn say_of_job(&self, job: &Job, phase: &str) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({ "status": { "phase": phase } }));
        let said = migrations(self.client, &self.asked.namespace).patch_status(&job.name, &PatchParams::default(), &patch).await;
        match said {
            // It was called off.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            said => Ok(said.map(drop)?),
        }
    }

    async fn say(&self, status: serde_json::Value) -> anyhow::Result<()> {
        Ok(instances::say(self.client, &self.asked.namespace, &self.asked.name, &status).await?)
    }

    /// Moves the machine; yields what QEMU says, and the connection to the process that it left, which stays until that is dropped.
    async fn carry_out(&self, job: &Job, stop: &CancellationToken) -> anyhow::Result<(Moved, machine::Client, Option<Streamed>)> {
        let called_off = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.deleted(job) => {}
            }
        };
        let mut called_off = std::pin::pin!(called_off);
        let target = tokio::select! {
            () = &mut called_off => bail!("it was called off"),
            target = self.target(job) => target?,
        };
        let source = self.source.uid().unwrap_or_default();
        self.say(json!({ "migrationState": {
            "migrationUid": job.uid, "sourceNode": self.from, "sourcePod": self.source.name_any(), "targetNode": self.asked.node.to_string(),
            "targetPod": job.pod, "startTimestamp": now(), "endTimestamp": null, "completed": false, "failed": false,
        } }))
        .await?;
        self.say_of_job(job, "Running").await?;
        let netns = Netns::named(&self.lab.layout.name().pod_netns(&source))?;
        let mut client = machine::Client::connect(&netns)?.context("its process does not run")?;
        client.ready().await?;
        let watching = self.watch().await;
        let arrived = CancellationToken::new();
        let pings = async {
            match &watching {
                Some((node, address)) => node.stream(*address, PACE, arrived.cancelled()).await.ok(),
                None => None,
            }
        };
        let moving = async {
            let moved = async {
                client.say(Message::Move(target)).await?;
                loop {
                    let message = tokio::select! {
                        () = &mut called_off, if !stop.is_cancelled() => None,
                        message = client.next() => Some(message?),
                    };
                    match message {
                        // What has gone too far for that goes on.
                        None => {
                            stop.cancel();
                            client.say(Message::Signal(TERM)).await?;
                        }
                        Some(Message::Moved(moved)) => return Ok(moved),
                        Some(Message::Failed(why)) => bail!("{why}"),
                        Some(_) => {}
                    }
                }
            };
            let moved = moved.await;
            if moved.is_ok() {
                self.arrived(job).await?;
            }
            arrived.cancel();
            moved
        };
        let (moved, pings) = tokio::join!(moving, pings);
        Ok((moved?, client, pings))
    }

    /// Until the migration's object is deleted.
    async fn deleted(&self, job: &Job) {
        let all = migrations(self.client, &self.asked.namespace);
        let gone = |object: Option<&DynamicObject>| object.is_none_or(|object| object.metadata.deletion_timestamp.is_some());
        if await_condition(all, &job.name, gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the pod that the machine is to move to.
    async fn target(&self, job: &Job) -> anyhow::Result<Target> {
        let fields = watcher::Config::default().fields(&format!("metadata.name={}", job.pod));
        let mut events = std::pin::pin!(watcher(self.pods(), fields));
        let mut last = None;
        let ready = async {
            while let Some(event) = events.try_next().await.context("cannot watch pods")? {
                match event {
                    watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => {
                        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
                        let is_gone = pod.metadata.deletion_timestamp.is_some() || phase.as_deref() == Some("Failed");
                        last = Some(pod.clone());
                        match (is_gone, wait::is_ready(&pod)) {
                            (true, _) => bail!("pod {} has ended: {}", job.pod, wait::why(self.client, &pod).await),
                            (false, true) => return Ok(pod),
                            _ => {}
                        }
                    }
                    watcher::Event::Delete(_) => bail!("pod {} was deleted", job.pod),
                    _ => {}
                }
            }
            Err(anyhow!("the watch of pods ended"))
        };
        let pod = match tokio::time::timeout(PATIENCE, ready).await {
            Ok(pod) => pod?,
            Err(_) => {
                let why = match &last {
                    Some(pod) => wait::why(self.client, pod).await,
                    None => "nobody has seen it".to_owned(),
                };
                bail!("pod {} is not ready after {PATIENCE:?}: {why}", job.pod)
            }
        };
        let uid = pod.uid().unwrap_or_default();
        let record = Record { uid: uid.clone(), ..Record::default() };
        let memory = record.memory(&self.lab.layout, self.asked.node);
        Ok(Target { memory, netns: self.lab.layout.name().pod_netns(&uid), bandwidth: self.asked.bandwidth })
    }

    /// A node from which the machine is reached: neither of the two, if there is one.
    async fn watch(&self) -> Option<(Endpoint, IpAddr)> {
        let address: IpAddr = self.source.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        let ends = [self.from.clone(), self.asked.node.to_string()];
        let mut nodes: Vec<Place> = self.lab.parameters.node_places().collect();
        nodes.sort_by_key(|node| ends.contains(&node.to_string()));
        let node = *nodes.first()?;
        let endpoint = Endpoint::open(&node.to_string(), &self.lab.layout.netns(node).ok()?).ok()?;
        let ping = Ping { seen_by: None, answered: true, payload: 16 };
        let reached = tokio::time::timeout(REACHED, endpoint.ping(address, ping)).await;
        matches!(reached, Ok(Ok(()))).then_some((endpoint, address))
    }

    /// Tells that the machine has arrived, and waits until its port is there.
    async fn arrived(&self, job: &Job) -> anyhow::Result<()> {
        let node = self.asked.node.to_string();
        self.say(json!({ "nodeName": node, "migrationState": { "completed": true, "failed": false, "endTimestamp": now() } })).await?;
        self.say_of_job(job, "Succeeded").await?;
        let ips = Api::<v1::Ip>::all(self.client.clone());
        let port = format!("{}.{}", self.asked.name, self.asked.namespace);
        let there = |ip: Option<&v1::Ip>| ip.is_some_and(|ip| ip.spec.node_name.as_deref() == Some(&node));
        let moved = tokio::time::timeout(PATIENCE, await_condition(ips, &port, there)).await;
        moved.map_err(|_| anyhow!("it has moved, and after {PATIENCE:?} its port has not; does the controller run?"))?.map(drop)?;
        Ok(())
    }

    /// Takes away the pod that the machine does not run in.
    async fn conclude(
        &self,
        job: &Job,
        moved: anyhow::Result<(Moved, machine::Client, Option<Streamed>)>,
        begun: Instant,
    ) -> anyhow::Result<Migrated> {
        let Migrate { namespace, name, node, .. } = self.asked;
        match moved {
            Ok((Moved { downtime, total: memory }, client, pings)) => {
                drop(client);
                self.remove(&self.source.name_any()).await?;
                Ok(Migrated {
                    machine: format!("{namespace}/{name}"),
                    from: self.from.clone(),
                    to: node.to_string(),
                    pod: job.pod.clone(),
                    downtime,
                    memory,
                    total: begun.elapsed().as_millis() as u64,
                    pings: pings.map(|s| Pings { sent: s.sent, answered: s.answered, gap: s.gap.as_millis() as u64 }),
                })
            }
            Err(why) => {
                let state = json!({ "migrationUid": job.uid, "completed": true, "failed": true, "endTimestamp": now() });
                let told = self.say(json!({ "migrationState": state })).await;
                let told = told.and(self.say_of_job(job, "Failed").await);
                let removed = self.remove(&job.pod).await;
                told.and(removed).with_context(|| format!("after it was to be given up: {why:#}"))?;
                Err(why.context(format!("virtual machine {namespace}/{name} stays on {}", self.from)))
            }
        }
    }

    async fn remove(&self, pod: &str) -> anyhow::Result<()> {
        match self.pods().delete(pod, &DeleteParams::default().grace_period(1)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            deleted => drop(deleted?),
        }
        let gone = tokio::time::timeout(PATIENCE, await_condition(self.pods(), pod, |pod: Option<&Pod>| pod.is_none())).await;
        gone.map_err(|_| anyhow!("pod {pod} is still there after {PATIENCE:?}"))?.map(drop)?;
        Ok(())
    }
}

fn is_running(pod: &Pod) -> bool {
    let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    running && pod.metadata.deletion_timestamp.is_none() && wait::is_ready(pod)
}
