//! Traffic and churn beside a test: pings between pods, and pods that come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};

use crate::harness::Lab;

/// How long one pod may take to be ready, whatever happens meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pings from one pod to an address, a hundred a second, until told to stop.
pub struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Answered>,
}

/// What became of pings.
#[derive(Debug)]
pub struct Answered {
    pub sent: usize,
    pub answered: usize,
    /// The longest run of pings that nobody answered, in ms.
    pub gap: usize,
}

/// Time between two pings, in ms.
const PACE: usize = 10;
/// Fewest pings that are counted: however soon they are told to stop, what comes after a fault is seen too.
const LEAST: usize = 500;
/// How long after the last ping that counts its answer may come, in pings.
const GRACE: usize = 100;

impl Pings {
    /// Starts to ping, from a pod that `named` names as `ferrovia lab exec` does.
    pub fn start(lab: &Lab, named: &[&str], address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // One ping that never ends by itself: told to end, or after a count, ping(8) gives the last answers no more than
        // twice the longest round trip, and on a busy machine takes for lost what is only late.
        let seconds = format!("0.{PACE:03}");
        let mut running = lab.start(&[&["exec"], named, &["--", "ping", "-n", "-O", "-i", &seconds, address]].concat());
        let thread = std::thread::spawn(move || {
            let answered = Answered::count(running.lines(), &stopped);
            // Nobody reads what it prints any more, which ends it.
            running.ended();
            answered
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn stop(self) -> Answered {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Answered {
    /// Reads what ping(8) prints until it was told to stop and a grace has passed.
    fn count(lines: impl Iterator<Item = String>, stopped: &AtomicBool) -> Self {
        let mut answered = BTreeSet::new();
        let (mut seen, mut sent) = (0, None);
        for line in lines {
            let Some((what, number)) = line.split_once("icmp_seq=") else { continue };
            let number: usize = number.split(' ').next().unwrap().parse().unwrap();
            seen = seen.max(number);
            if !what.starts_with("no answer yet") {
                answered.insert(number);
            }
            if sent.is_none() && seen >= LEAST && stopped.load(Ordering::Relaxed) {
                sent = Some(seen);
            }
            if let Some(sent) = sent
                && seen >= sent + GRACE
            {
                return Self::of(sent, &answered);
            }
        }
        panic!("ping ended by itself after {seen} pings");
    }

    fn of(sent: usize, answered: &BTreeSet<usize>) -> Self {
        let (mut run, mut longest) = (0, 0);
        for number in 1..=sent {
            run = if answered.contains(&number) { 0 } else { run + 1 };
            longest = longest.max(run);
        }
        Self { sent, answered: answered.range(..=sent).count(), gap: longest * PACE }
    }

    pub fn lost(&self) -> usize {
        self.sent - self.answered
    }
}

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, answered, gap } = self;
        write!(f, "{answered} of {sent} pings answered, longest gap {gap} ms")
    }
}

/// A pod that sleeps, on some node or on a certain one.
pub fn pod(name: &str, node: Option<&str>) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"load": "churn"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}], "terminationGracePeriodSeconds": 0},
    }))
    .unwrap()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until every pod that satisfies `wanted` by name is ready; yields their addresses by name.
pub async fn all_ready(client: &Client, wanted: &BTreeSet<String>) -> BTreeMap<String, String> {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        let list = pods.list(&ListParams::default()).await.unwrap();
        let version = list.metadata.resource_version.clone().unwrap();
        let ready: BTreeMap<_, _> = list
            .items
            .iter()
            .filter(|pod| is_ready(pod))
            .map(|pod| (pod.name_any(), pod.status.as_ref().unwrap().pod_ip.clone().unwrap()))
            .collect();
        let missing: Vec<_> = wanted.iter().filter(|name| !ready.contains_key(*name)).collect();
        if missing.is_empty() {
            return ready.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        }
        assert!(Instant::now() < deadline, "not ready: {missing:?}");
        // The next change of any pod is a reason to look again.
        let mut changes = pods.watch(&WatchParams::default().timeout(5), &version).await.unwrap().boxed();
        let _ = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
    }
}

/// Pods that come and go.
pub struct Churn {
    stop: Arc<AtomicBool>,
    served: Arc<Served>,
    thread: JoinHandle<BTreeMap<String, String>>,
}

/// When each pod was created, and when it was ready.
#[derive(Default)]
struct Served {
    pods: Mutex<Vec<(Instant, Instant)>>,
    more: Condvar,
}

/// What became of them.
pub struct Churned {
    /// When each was created, and when it was ready.
    pub served: Vec<(Instant, Instant)>,
    /// Those that are left, with their addresses.
    pub left: BTreeMap<String, String>,
}

impl Churn {
    /// Five new ones a second on one node, of which the last six stay.
    pub fn start(lab: &Lab, node: &'static str) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(Served::default()));
        let (stopped, tell, layout) = (Arc::clone(&stop), Arc::clone(&served), lab.layout());
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let client = lab::cluster::client(&layout).await.unwrap();
                churn(&client, node, &stopped, &tell).await
            })
        });
        Self { stop, served, thread }
    }

    /// How long after `began` the first pod that was created after it is ready, if that takes no longer than `limit`.
    pub fn served_after(&self, began: Instant, limit: Duration) -> Option<Duration> {
        let took = |pods: &Vec<(Instant, Instant)>| {
            pods.iter().filter(|(created, _)| *created > began).map(|(_, ready)| ready.duration_since(began)).min()
        };
        let pods = self.served.pods.lock().unwrap();
        let left = limit.saturating_sub(began.elapsed());
        let (pods, _) = self.served.more.wait_timeout_while(pods, left, |pods| took(pods).is_none()).unwrap();
        took(&pods).filter(|took| *took <= limit)
    }

    /// Waits until the last ones are ready.
    pub fn stop(self) -> Churned {
        self.stop.store(true, Ordering::Relaxed);
        let left = self.thread.join().unwrap();
        Churned { served: std::mem::take(&mut self.served.pods.lock().unwrap()), left }
    }
}

async fn churn(client: &Client, node: &str, stopped: &AtomicBool, served: &Served) -> BTreeMap<String, String> {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut alive: VecDeque<(String, Instant)> = VecDeque::new();
    let mut created: BTreeMap<String, Instant> = BTreeMap::new();
    let params = WatchParams::default().labels("load=churn");
    // The API server may be away for a while: then nothing is created, and afterwards everything is looked at again.
    let follow =
        || async { pods.watch(&params, "0").await.map(|changes| changes.boxed()).unwrap_or_else(|_| futures::stream::empty().boxed()) };
    let mut changes = follow().await;
    let mut number = 0;
    while !stopped.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                let name = format!("churn-{}", number + 1);
                let now = Instant::now();
                match pods.create(&PostParams::default(), &pod(&name, Some(node))).await {
                    Ok(_) => {}
                    // It was created, and the answer lost.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(_) => continue,
                }
                number += 1;
                created.insert(name.clone(), now);
                alive.push_back((name, now));
                if alive.len() > 6 {
                    let (oldest, since) = alive.pop_front().unwrap();
                    assert!(!created.contains_key(&oldest) || since.elapsed() < PATIENCE, "pod {oldest} is not ready after {PATIENCE:?}");
                    match pods.delete(&oldest, &DeleteParams::default()).await {
                        Ok(_) => {}
                        Err(kube::Error::Api(status)) if status.code == 404 => {}
                        Err(_) => alive.push_front((oldest, since)),
                    }
                }
            }
            change = changes.next() => match change {
                Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                    if is_ready(&pod) && let Some(since) = created.remove(&pod.name_any()) {
                        served.pods.lock().unwrap().push((since, Instant::now()));
                        served.more.notify_all();
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    ticks.tick().await;
                    changes = follow().await;
                }
            }
        }
    }
    let wanted = alive.into_iter().map(|(name, _)| name).collect();
    all_ready(client, &wanted).await
}
