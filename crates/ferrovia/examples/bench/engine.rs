//! The real rules of the network on clusters of 1,000 and of 100,000 pods: what one more pod costs, and what each holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::annotations;
use api::view::PodView;
use engine::Age;
use serde_json::{Value, json};
use topology::{Pod, PodKey, input};

use crate::cluster::Cluster;
use crate::memory::held;
use crate::report::{Report, Row, median};

const SMALL: usize = 1_000;
const LARGE: usize = 100_000;
/// Pods of one subnet, and of the namespace that uses it: the cost of one must not depend on how many subnets there are.
const PER_SUBNET: usize = 500;
/// Single changes, of which the median is taken.
const CHANGES: usize = 500;

pub fn measure(report: &mut Report) {
    let small = Costs::measured(SMALL);
    let large = Costs::measured(LARGE);
    let seconds = |name: &str, took: Duration| Row::new(format!("engine, 100,000 pods: {name}"), took.as_secs_f64(), "s");
    report.add(seconds("cold start, rules and allocator", large.rules));
    report.add(Row::new("engine, 100,000 pods: rules run by a cold start, per pod", large.runs, "runs"));
    report.add(seconds("from facts to the operations of one transaction", large.diff));
    // 1 GiB for 150,000 pods, as the design has it for the whole controller.
    let row = Row::new("engine, 100,000 pods: heap of inputs, rules, allocator and replica, per pod", large.heap, "B");
    report.add(row.at_most(7158.0));
    for (change, (few, many)) in Change::ALL.into_iter().zip(small.changes.iter().zip(&large.changes)) {
        let name = change.name();
        let row = Row::new(format!("engine, 100,000 pods: {name}"), many.micros, "us");
        report.add(row.against("among 1,000", few.micros));
        for (what, many, few) in
            [("rules run", many.runs, few.runs), ("elements read", many.reads, few.reads), ("rows written", many.rows, few.rows)]
        {
            let row = Row::new(format!("engine, {name}: {what}, as among 1,000 pods"), many as f64, "");
            report.add(row.against("among 1,000", few as f64).exactly(few as f64));
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Record,
    Relabel,
    Delete,
}

impl Change {
    const ALL: [Self; 4] = [Self::Add, Self::Record, Self::Relabel, Self::Delete];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add a pod",
            Self::Record => "annotate a pod with its record",
            Self::Relabel => "relabel a pod",
            Self::Delete => "delete a pod",
        }
    }
}

/// What one change costs: the time in microseconds, its median; counts, which must be the same each time.
struct Cost {
    micros: f64,
    runs: u64,
    reads: u64,
    rows: u64,
}

struct Costs {
    rules: Duration,
    diff: Duration,
    runs: f64,
    heap: f64,
    changes: Vec<Cost>,
}

impl Costs {
    fn measured(pods: usize) -> Self {
        let before = held();
        let views: Vec<(PodKey, Option<Pod>, Age)> = (0..pods).map(|i| input::pod(&view(i, &json!({})))).collect();
        let mut cluster = Cluster::default();
        cluster.lay_out(pods / PER_SUBNET);
        let began = Instant::now();
        for (key, pod, age) in views {
            cluster.engine.set::<Pod>(&key, pod, age);
        }
        let (runs, _) = cluster.settle();
        let rules = began.elapsed();
        let began = Instant::now();
        let operations = cluster.difference().0;
        let diff = began.elapsed();
        cluster.commit(operations);
        let heap = (held() - before) as f64 / pods as f64;

        let mut changes = Vec::new();
        for change in Change::ALL {
            let mut times = Vec::new();
            let mut counts = BTreeSet::new();
            for i in pods..pods + CHANGES {
                let input = cluster.input(change, i);
                let began = Instant::now();
                let (key, pod, age) = input;
                cluster.engine.set::<Pod>(&key, pod, age);
                let (runs, reads) = cluster.settle();
                let (operations, rows) = cluster.difference();
                times.push(began.elapsed().as_secs_f64() * 1e6);
                counts.insert((runs, reads, rows));
                cluster.commit(operations);
            }
            assert_eq!(counts.len(), 1, "{}, {pods} pods: runs, reads and rows vary: {counts:?}", change.name());
            let (runs, reads, rows) = counts.pop_first().unwrap();
            changes.push(Cost { micros: median(times), runs, reads, rows });
        }
        Self { rules, diff, runs: runs as f64 / pods as f64, heap, changes }
    }
}

fn view(i: usize, more: &Value) -> PodView {
    let mut metadata = json!({ "name": format!("pod-{i}"), "namespace": format!("n{}", i / PER_SUBNET), "uid": format!("uid-{i}") });
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

impl Cluster {
    /// One VPC, and for each subnet a namespace that uses it; one subnet more, for the pods that come later.
    fn lay_out(&mut self, subnets: usize) {
        self.vpc();
        for i in 0..=subnets {
            self.namespace(&format!("n{i}"));
            let cidr = format!("10.{}.{}.0/22", i / 64, i % 64 * 4);
            self.subnet(&format!("s{i}"), &json!({ "cidrBlock": cidr, "namespaces": [format!("n{i}")] }));
        }
        self.settle();
    }

    /// The input of a change of pod `i`.
    fn input(&self, change: Change, i: usize) -> (PodKey, Option<Pod>, Age) {
        let added = input::pod(&view(i, &json!({})));
        match change {
            Change::Add => added,
            Change::Delete => (added.0, None, added.2),
            Change::Record => input::pod(&view(i, &json!({ "annotations": self.record(&added.0) }))),
            Change::Relabel => {
                input::pod(&view(i, &json!({ "annotations": self.record(&added.0), "labels": { "app": format!("web-{i}") } })))
            }
        }
    }

    /// The annotations that the controller writes on a pod.
    fn record(&self, key: &PodKey) -> BTreeMap<&'static str, String> {
        let held = self.ipam.holding(&key.port()).unwrap();
        let subnet = held.subnet.to_string();
        BTreeMap::from([
            (annotations::ALLOCATED, "true".to_owned()),
            (annotations::IP_ADDRESS, annotations::join(&held.addresses)),
            (annotations::MAC_ADDRESS, held.mac.to_string()),
            (annotations::LOGICAL_SWITCH, subnet),
        ])
    }
}
