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

use crate::harness::{Lab, ferrovia};

/// How long one pod may take to be ready, whatever happens meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pings from one pod to an address, until told to stop.
pub struct Pings {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32, u32)>,
}

impl Pings {
    /// A hundred a second.
    pub fn start(lab: &Lab, pod: &str, address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, lab, pod, address) = (Arc::clone(&stop), lab.name().to_owned(), pod.to_owned(), address.to_owned());
        let thread = std::thread::spawn(move || {
            let (mut sent, mut received, mut longest) = (0, 0, 0);
            // However soon it is told to stop, what comes after a fault is seen too.
            while !stopped.load(Ordering::Relaxed) || sent < 500 {
                let (report, errors, _) =
                    ferrovia(&["lab", "exec", "--name", &lab, &pod, "--", "ping", "-O", "-i", "0.01", "-c", "100", "-W", "1", &address]);
                let line = report.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{report}{errors}"));
                let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
                (sent, received) = (sent + numbers[0], received + numbers[1]);
                let mut run = 0;
                for line in report.lines() {
                    run = if line.starts_with("no answer yet") { run + 1 } else { 0 };
                    longest = longest.max(run);
                }
            }
            (sent, received, longest)
        });
        Self { stop, thread }
    }

    /// How many were sent, how many were answered, and the longest gap in ms.
    pub fn stop(self) -> (u32, u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, received, longest) = self.thread.join().unwrap();
        (sent, received, longest * 10)
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
    let version = pods.list(&ListParams::default().limit(1)).await.unwrap().metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("load=churn");
    let mut changes = pods.watch(&params, &version).await.unwrap().boxed();
    let mut number = 0;
    while !stopped.load(Ordering::Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                number += 1;
                let name = format!("churn-{number}");
                let now = Instant::now();
                pods.create(&PostParams::default(), &pod(&name, Some(node))).await.unwrap();
                created.insert(name.clone(), now);
                alive.push_back((name, now));
                if alive.len() > 6 {
                    let (oldest, since) = alive.pop_front().unwrap();
                    assert!(!created.contains_key(&oldest) || since.elapsed() < PATIENCE, "pod {oldest} is not ready after {PATIENCE:?}");
                    pods.delete(&oldest, &DeleteParams::default()).await.unwrap();
                }
            }
            change = changes.next() => {
                if let Some(Ok(WatchEvent::Modified(pod))) = &change
                    && is_ready(pod)
                    && let Some(since) = created.remove(&pod.name_any())
                {
                    served.pods.lock().unwrap().push((since, Instant::now()));
                    served.more.notify_all();
                }
                assert!(change.is_some(), "the watch ended");
            }
        }
    }
    let wanted = alive.into_iter().map(|(name, _)| name).collect();
    all_ready(client, &wanted).await
}
