//! Labs of network namespaces with real OVS and OVN: how fast one is there, and how fast its pods come and go.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::report::{Report, Row, median, percentile};
use crate::servers::ferrovia;

/// Pods that are on their way at once.
const AT_ONCE: usize = 8;
/// How long pods come and go before, and while, they are counted.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(10);

pub fn measure(report: &mut Report) {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let began = Instant::now();
    let lab = Lab::up(&["--nodes", "3", "-f", examples, "--wait", "60s"]);
    report.add(Row::new("lab of 3 nodes with the examples, until every pod is ready", began.elapsed().as_secs_f64(), "s"));
    drop(lab);

    let lab = Lab::up(&["--nodes", "2"]);
    let churned = Runtime::new().unwrap().block_on(churn(&lab));
    drop(lab);
    let rate = |name: &str, count: usize| Row::new(name, count as f64 / MEASURED.as_secs_f64(), "pods/s");
    report.add(rate("pods created, ready, deleted and gone, 8 at once, 2 nodes", churned.gone));
    let ready = churned.ready;
    if !ready.is_empty() {
        report.add(Row::new("pods created until ready, 8 at once, 2 nodes: median", median(ready.clone()), "ms"));
        report.add(Row::new("pods created until ready, 8 at once, 2 nodes: 99th percentile", percentile(ready, 99), "ms"));
    }
}

/// A lab that is up; gone when dropped.
pub struct Lab(String);

impl Lab {
    pub fn up(arguments: &[&str]) -> Self {
        let lab = Self(format!("be{}", std::process::id() % 100_000));
        lab.run("up", arguments);
        lab
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn layout(&self) -> lab::Layout {
        lab::Layout::new(lab::RUN_FOLDER, self.0.parse().unwrap())
    }

    pub fn run(&self, verb: &str, arguments: &[&str]) {
        let mut command = Command::new(ferrovia());
        let output = command.args(["lab", verb, "--name", &self.0]).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "lab {verb}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run("down", &[]);
    }
}

struct Churned {
    /// Pods gone while it was measured.
    gone: usize,
    /// Milliseconds from creation until ready.
    ready: Vec<f64>,
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "bench": "churn" } },
        "spec": { "containers": [{ "name": "c", "image": "none" }], "terminationGracePeriodSeconds": 0 },
    }))
    .unwrap()
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whoever is ready is deleted, and whoever is gone makes room for the next.
async fn churn(lab: &Lab) -> Churned {
    let client = lab::cluster::client(&lab.layout()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let version = pods.list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut changes = pods.watch(&WatchParams::default().labels("bench=churn"), &version).await.unwrap().boxed();
    let began = Instant::now();
    let (mut created, mut number) = (BTreeMap::new(), 0);
    let mut churned = Churned { gone: 0, ready: Vec::new() };
    let measured = || (WARM_UP..WARM_UP + MEASURED).contains(&began.elapsed());
    while began.elapsed() < WARM_UP + MEASURED {
        while created.len() < AT_ONCE {
            number += 1;
            let name = format!("churn-{number}");
            created.insert(name.clone(), (Instant::now(), false));
            pods.create(&PostParams::default(), &pod(&name)).await.unwrap();
        }
        let change = tokio::time::timeout(Duration::from_secs(30), changes.next()).await.expect("a pod changes within 30 s");
        match change.expect("the watch goes on").unwrap() {
            WatchEvent::Modified(pod) if is_ready(&pod) => {
                let Some((since, ready @ false)) = created.get_mut(&pod.name_any()) else { continue };
                *ready = true;
                if measured() {
                    churned.ready.push(since.elapsed().as_secs_f64() * 1e3);
                }
                pods.delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
            }
            WatchEvent::Deleted(pod) => {
                created.remove(&pod.name_any());
                churned.gone += usize::from(measured());
            }
            _ => {}
        }
    }
    churned
}
