//! The life of one pod: network, containers, status, and its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::networks;
use api::v1::Subnet;
use api::view::MIGRATION_JOB;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Preconditions};
use linux::process::Process;
use linux::{Netns, netns};
use tokio::sync::watch;

use super::container::{self, Doing};
use super::record::{ContainerRecord, PodRecord};
use super::report::{Report, now};
use super::{Node, cni, kill, volumes};
use crate::machine;
use crate::runtime::Runtime;

/// The first and the longest pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// `runtimeClassName` of pods that are virtual machines.
const MACHINE: &str = "vm";
/// Behind the provider of a NIC, in the annotation that has its MAC.
const MAC: &str = ".kubernetes.io/mac_address";
/// How long processes have to end when the pod does not say.
const GRACE: i64 = 30;

/// What the API says of a pod.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    /// The pod as it is now.
    Pod(Box<Pod>),
    /// It is there no more.
    Gone,
}

pub(crate) struct Worker {
    node: Arc<Node>,
    wants: watch::Receiver<Want>,
    record: PodRecord,
    doing: Vec<Doing>,
    reported: Option<Report>,
}

/// What can happen to a container.
enum Happening {
    /// A virtual machine is ready.
    Ready(usize, Process),
    Ended(usize, i32),
    RestartDue(usize),
}

type Happenings = FuturesUnordered<BoxFuture<'static, Happening>>;

fn ended(index: usize, status: i32) -> BoxFuture<'static, Happening> {
    Box::pin(async move { Happening::Ended(index, status) })
}

fn pause(attempt: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST_PAUSE)
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, uid: String, wants: watch::Receiver<Want>) -> Self {
        let record = PodRecord::load(&node.lab.layout, node.place, &uid).unwrap_or(PodRecord { uid, ..PodRecord::default() });
        Self { node, wants, record, doing: Vec::new(), reported: None }
    }

    /// Lives the pod's life, to the end of its deletion.
    pub(crate) async fn run(mut self) {
        if let Some(pod) = self.pod().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            if !is_over(&pod) {
                self.live(&pod).await;
            }
            let mut wants = self.wants.clone();
            tokio::select! {
                biased;
                _ = wants.wait_for(is_ending) => {}
                // The pod is over, if it is not ending: it needs no network any more, but its status stays.
                () = async {
                    self.again(Self::disconnect).await;
                    std::future::pending::<()>().await;
                } => {}
            }
        }
        self.again(Self::disconnect).await;
        self.again(Self::forget).await;
    }

    fn pod(&self) -> Option<Box<Pod>> {
        match &*self.wants.borrow() {
            Want::Pod(pod) => Some(pod.clone()),
            Want::Gone => None,
        }
    }

    /// Until the pod is to end, or has succeeded or failed.
    async fn live(&mut self, pod: &Pod) {
        let spec = pod.spec.clone().unwrap_or_default();
        if self.record.name.is_empty() {
            self.record.namespace = pod.namespace().unwrap_or_default();
            self.record.name = pod.name_any();
            let host = spec.host_network == Some(true);
            self.record.netns = (!host).then(|| self.node.lab.layout.name().pod_netns(&self.record.uid));
            self.record.containers = spec
                .containers
                .iter()
                .map(|container| ContainerRecord { name: container.name.clone(), ..ContainerRecord::default() })
                .collect();
        }
        self.doing = vec![Doing::Waiting; self.record.containers.len()];
        let is_machine = spec.runtime_class_name.as_deref() == Some(MACHINE);
        if let Some(message) = is_machine.then(|| no_machine(&spec)).flatten() {
            self.node.event(pod, "InvalidMachine", &message).await;
            self.report("Pending", Some(("InvalidMachine", message))).await;
            return;
        }
        let mut wants = self.wants.clone();
        tokio::select! {
            biased;
            _ = wants.wait_for(is_ending) => {}
            () = async {
                let netns = self.connect(pod, is_machine).await;
                self.run_containers(pod, &netns).await;
            } => {}
        }
    }

    /// Makes the pod's namespace and has the CNI plugin connect it, as often as it takes.
    async fn connect(&mut self, pod: &Pod, is_machine: bool) -> Netns {
        let mut attempt = 0;
        loop {
            match self.try_connect(pod, is_machine).await {
                Ok(netns) => return netns,
                Err(error) => {
                    let message = format!("{error:#}");
                    self.node.event(pod, "FailedCreatePodSandBox", &message).await;
                    self.report("Pending", Some(("FailedCreatePodSandBox", message))).await;
                    tokio::time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
            }
        }
    }

    async fn try_connect(&mut self, pod: &Pod, is_machine: bool) -> anyhow::Result<Netns> {
        let node = self.node.clone();
        let (layout, place) = (&node.lab.layout, node.place);
        let Some(name) = self.record.netns.clone() else {
            self.record.addresses = place.address().map(IpAddr::from).into_iter().collect();
            self.connected()?;
            return layout.netns(place);
        };
        if self.record.connected {
            return Ok(Netns::named(&name)?);
        }
        // Recorded first: whatever happens now, someone knows what to remove.
        self.record.save(layout, place)?;
        volumes::make(layout, place, &self.record.uid, pod)?;
        let sandbox = Runtime::new(node.lab.clone(), place).sandbox(&self.record.uid).await?;
        let made = cni::add(&self.node.lab, place, &self.record).await?;
        self.record.addresses = cni::addresses(&made);
        if is_machine {
            // Read before the links lose it, and recorded with the pod: whoever comes next finds the links without.
            let mut nics = machine::nics(machine::read(sandbox.netns()).await?, &made)?;
            self.ask(&mut nics).await?;
            self.record.nics = Some(nics);
        }
        self.connected()?;
        Ok(sandbox.netns().clone())
    }

    /// Where DHCP and a router answer a NIC, its guest asks, as one would that nobody tells.
    async fn ask(&self, nics: &mut [machine::Nic]) -> anyhow::Result<()> {
        let client = &self.node.client;
        // What the plugin acted on may not have come by the watch yet.
        let pod =
            Api::<Pod>::namespaced(client.clone(), &self.record.namespace).get(&self.record.name).await.context("cannot read the pod")?;
        for nic in nics {
            let is_mac = |(key, value): &(&String, &String)| value.eq_ignore_ascii_case(&nic.mac) && key.ends_with(MAC);
            let Some(provider) = pod.annotations().iter().find(is_mac).and_then(|(key, _)| key.strip_suffix(MAC)) else { continue };
            let note = |name| pod.annotations().get(&networks::key(provider, name)).filter(|value| !value.is_empty());
            let Some(subnet) = note("logical_switch") else { continue };
            let subnet = Api::<Subnet>::all(client.clone()).get(subnet).await.with_context(|| format!("cannot read subnet {subnet}"))?;
            let has = |v4: bool| nic.addresses.iter().any(|address| address.addr().is_ipv4() == v4);
            let answered = |options| subnet.spec.enable_dhcp == Some(true) || note(options).is_some();
            if nic.addresses.is_empty() {
                // Whoever gives addresses on the Vlan is asked.
                nic.dhcp.v4 = true;
                continue;
            }
            nic.dhcp = machine::Dhcp { v4: has(true) && answered("dhcp-v4-options"), v6: has(false) && answered("dhcp-v6-options") };
            nic.advertised = subnet.spec.enable_ipv6_ra == Some(true);
        }
        Ok(())
    }

    fn connected(&mut self) -> anyhow::Result<()> {
        if !self.record.connected {
            self.record.connected = true;
            self.record.since = now();
        }
        self.save()
    }

    fn save(&self) -> anyhow::Result<()> {
        self.record.save(&self.node.lab.layout, self.node.place)
    }

    /// Runs the containers until all have ended for good.
    async fn run_containers(&mut self, pod: &Pod, netns: &Netns) {
        let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone()).unwrap_or_else(|| "Always".to_owned());
        let mut happenings = Happenings::new();
        for index in 0..self.doing.len() {
            let known = &self.record.containers[index];
            let next = match (known.process, known.ended) {
                (None, None) => self.start(pod, netns, index).await,
                (Some(recorded), _) => match recorded.adopt() {
                    Some(process) => self.watch(index, Some(process), netns),
                    None => ended(index, container::UNKNOWN_STATUS),
                },
                (None, Some(status)) => ended(index, status),
            };
            happenings.push(next);
        }
        loop {
            if let Some(phase) = over(&self.doing, &policy) {
                self.report(phase, None).await;
                return;
            }
            self.report("Running", None).await;
            match happenings.next().await {
                // A pod without containers.
                None => std::future::pending().await,
                Some(Happening::RestartDue(index)) => {
                    self.record.containers[index].restarts += 1;
                    let next = self.start(pod, netns, index).await;
                    happenings.push(next);
                }
                Some(Happening::Ready(index, process)) => {
                    self.record.containers[index].ready = true;
                    let next = self.watch(index, Some(process), netns);
                    happenings.push(next);
                }
                Some(Happening::Ended(index, status)) => {
                    self.ended_early(pod, index).await;
                    self.doing[index] = Doing::Ended { status };
                    self.record.containers[index].process = None;
                    self.record.containers[index].ended = Some(status);
                    if restarts(&policy, status) {
                        let pause = pause(u32::try_from(self.record.containers[index].restarts).unwrap_or_default());
                        happenings.push(Box::pin(async move {
                            tokio::time::sleep(pause).await;
                            Happening::RestartDue(index)
                        }));
                    }
                }
            }
            if let Err(error) = self.save() {
                tracing::warn!(%error, "cannot record a pod");
            }
        }
    }

    async fn start(&mut self, pod: &Pod, netns: &Netns, index: usize) -> BoxFuture<'static, Happening> {
        let Some(container) = pod.spec.as_ref().and_then(|spec| spec.containers.get(index)) else { return ended(index, 0) };
        self.record.containers[index].env = container::environment(&self.node.lab, &self.record, container);
        self.record.containers[index].ready = false;
        let (lab, place) = (&self.node.lab, self.node.place);
        let started = match &self.record.nics {
            // Whoever was made for a machine to move into boots none: it may run elsewhere.
            Some(nics) => {
                let moves_here = pod.labels().contains_key(MIGRATION_JOB);
                container::start_machine(lab, place, &self.record, nics, container, netns, moves_here).await.map(Some)
            }
            None => container::start(lab, place, &self.record, container, netns),
        };
        let happening = match started {
            Ok(process) => self.watch(index, process, netns),
            Err(error) => {
                self.node.event(pod, "Failed", &format!("container {}: {error:#}", container.name)).await;
                ended(index, 127)
            }
        };
        if let Err(error) = self.save() {
            tracing::warn!(%error, "cannot record a pod");
        }
        happening
    }

    /// Tells why a virtual machine ended before it was ready.
    async fn ended_early(&self, pod: &Pod, index: usize) {
        let container = &self.record.containers[index];
        if self.record.nics.is_none() || container.ready {
            return;
        }
        let log = self.record.log(&self.node.lab.layout, self.node.place, &container.name);
        let why = machine::last_line(&log).unwrap_or_else(|| format!("{} says nothing", log.display()));
        self.node
            .event(pod, "Failed", &format!("container {}: its virtual machine ended before it was ready: {why}", container.name))
            .await;
    }

    /// Waits for a container's process; one without a command sleeps for ever. A virtual machine has to be ready first.
    fn watch(&mut self, index: usize, process: Option<Process>, netns: &Netns) -> BoxFuture<'static, Happening> {
        let boots = self.record.nics.is_some() && !self.record.containers[index].ready;
        self.doing[index] = if boots { Doing::Starting } else { Doing::Running };
        self.record.containers[index].process = process.as_ref().and_then(container::record);
        self.record.containers[index].ended = None;
        match process {
            Some(process) if boots => {
                let netns = netns.clone();
                Box::pin(async move {
                    match container::ready(&process, &netns).await {
                        true => Happening::Ready(index, process),
                        false => Happening::Ended(index, container::ended(process).await),
                    }
                })
            }
            Some(process) => Box::pin(async move { Happening::Ended(index, container::ended(process).await) }),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Reports, unless that was the last report; again and again until the API server takes it.
    async fn report(&mut self, phase: &'static str, reason: Option<(&'static str, String)>) {
        let report = Report { phase, reason, record: self.record.clone(), doing: self.doing.clone() };
        if self.reported.as_ref() == Some(&report) {
            return;
        }
        for attempt in 0.. {
            match self.node.report(&report).await {
                Ok(()) => break,
                // It is gone, or is another pod by now: the watch will say.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => break,
                Err(error) => {
                    tracing::warn!(pod = self.record.name, %error, "cannot report a pod's status");
                    tokio::time::sleep(pause(attempt)).await;
                }
            }
        }
        self.reported = Some(report);
    }

    /// Does one step of the pod's end, as often as it takes.
    async fn again(&mut self, step: impl AsyncFn(&mut Self) -> anyhow::Result<()>) {
        let mut attempt = 0;
        while let Err(error) = step(self).await {
            let message = format!("{error:#}");
            match self.pod() {
                Some(pod) => self.node.event(&pod, "FailedKillPod", &message).await,
                None => tracing::warn!(pod = self.record.name, message, "cannot remove a pod"),
            }
            tokio::time::sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    /// Ends the pod's processes and takes its network away. A second time does nothing.
    async fn disconnect(&mut self) -> anyhow::Result<()> {
        let grace = match &*self.wants.borrow() {
            Want::Pod(pod) => pod.metadata.deletion_grace_period_seconds.unwrap_or(GRACE),
            Want::Gone => 0,
        };
        kill::all(&self.record.uid, Duration::from_secs(u64::try_from(grace).unwrap_or_default())).await?;
        // Without a file nothing was made, or it has been removed.
        let (layout, place) = (&self.node.lab.layout, self.node.place);
        if let Some(name) = PodRecord::load(layout, place, &self.record.uid).and(self.record.netns.as_ref()) {
            // Also when ADD did not get as far as an answer: DEL of what is not there succeeds.
            cni::del(&self.node.lab, place, &self.record).await?;
            netns::delete(name)?;
        }
        volumes::remove(layout, place, &self.record.uid)?;
        self.record.remove(layout, place);
        Ok(())
    }

    /// Lets the API forget the pod.
    async fn forget(&mut self) -> anyhow::Result<()> {
        let Some(pod) = self.pod() else { return Ok(()) };
        let pods = Api::<Pod>::namespaced(self.node.client.clone(), &pod.namespace().unwrap_or_default());
        let uid = Some(self.record.uid.clone());
        let parameters = DeleteParams::default().grace_period(0).preconditions(Preconditions { uid, resource_version: None });
        match pods.delete(&pod.name_any(), &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            done => Ok(done.map(|_| ())?),
        }
    }
}

fn is_ending(want: &Want) -> bool {
    match want {
        Want::Gone => true,
        Want::Pod(pod) => pod.metadata.deletion_timestamp.is_some(),
    }
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Why a pod cannot be a virtual machine.
fn no_machine(spec: &PodSpec) -> Option<String> {
    match spec.containers.len() {
        _ if spec.host_network == Some(true) => Some("a virtual machine cannot use its node's network".to_owned()),
        1 => None,
        count => Some(format!("a virtual machine has one container, and this pod has {count}")),
    }
}

fn restarts(policy: &str, status: i32) -> bool {
    policy == "Always" || (policy == "OnFailure" && status != 0)
}

/// The final phase, once no container runs or will run again.
fn over(doing: &[Doing], policy: &str) -> Option<&'static str> {
    let ended: Option<Vec<i32>> =
        doing.iter().map(|doing| if let Doing::Ended { status } = doing { Some(*status) } else { None }).collect();
    let ended = ended.filter(|ended| !ended.is_empty() && !ended.iter().any(|status| restarts(policy, *status)))?;
    Some(if ended.iter().all(|status| *status == 0) { "Succeeded" } else { "Failed" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_over_when_no_container_will_run_again() {
        let ended = |status| Doing::Ended { status };
        assert_eq!(over(&[ended(0), ended(0)], "Never"), Some("Succeeded"));
        assert_eq!(over(&[ended(0), ended(1)], "Never"), Some("Failed"));
        assert_eq!(over(&[ended(0), ended(1)], "OnFailure"), None);
        assert_eq!(over(&[ended(0)], "Always"), None);
        assert_eq!(over(&[ended(0), Doing::Running], "Never"), None);
        assert_eq!(over(&[], "Never"), None);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!((pause(0), pause(2), pause(40)), (PAUSE, PAUSE * 4, LONGEST_PAUSE));
    }
}
