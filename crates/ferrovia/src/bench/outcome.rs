//! What a bench has measured, as JSON and for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::observe::{Seen, Stage, Times};
use super::process::Usage;

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub nodes: u32,
    pub subnets: u32,
    pub central: u32,
    pub northd: bool,
    pub fill: Fill,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
}

/// Many pods at once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fill {
    pub pods: u32,
    /// JSON of one of them, as the API server shows it.
    pub pod_bytes: usize,
    pub seconds: f64,
    pub created_per_second: f64,
    pub served_per_second: f64,
    pub traffic: Traffic,
    pub processes: Vec<Usage>,
}

/// Pods that come and go.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Churn {
    pub pods: u32,
    pub seconds: f64,
    pub rate_per_second: f64,
    /// Pods that are there all the time.
    pub alive: usize,
    pub traffic: Traffic,
    pub processes: Vec<Usage>,
}

/// The controller started on a cluster that is as it should be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ColdStart {
    pub pods: usize,
    /// Until it has compared everything.
    pub seconds: f64,
    /// Northbound rows, without those of the marker.
    pub rows_written: usize,
    /// Pods and `IP` objects.
    pub objects_written: usize,
    /// The controller's.
    pub peak_memory: u64,
    pub processes: Vec<Usage>,
}

/// How fast pods went from stage to stage, and what the northbound database had to do for each.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    pub created_to_committed: Option<Latency>,
    pub created_to_patched: Option<Latency>,
    pub created_to_bound: Option<Latency>,
    pub transactions_per_pod: f64,
    pub rows_per_pod: f64,
}

/// In milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Traffic {
    pub fn of(pods: &[Times], before: &Seen, after: &Seen, count: u32) -> Self {
        let latency = |stage: Stage| Latency::of(pods.iter().filter_map(|times| times.until(stage)).collect());
        let per_pod = |all: usize| all as f64 / f64::from(count.max(1));
        Self {
            created_to_committed: latency(Stage::Committed),
            created_to_patched: latency(Stage::Patched),
            created_to_bound: latency(Stage::Bound),
            transactions_per_pod: per_pod(after.transactions - before.transactions),
            rows_per_pod: per_pod(after.rows - before.rows),
        }
    }
}

impl Latency {
    fn of(mut values: Vec<Duration>) -> Option<Self> {
        values.sort();
        let last = values.len().checked_sub(1)?;
        let at = |hundredths: usize| values[(values.len() * hundredths / 100).min(last)].as_secs_f64() * 1e3;
        Some(Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) })
    }
}

/// What was used since `before`. Memory is the peak of the whole life.
pub fn used_since(before: &[Usage], after: &[Usage]) -> Vec<Usage> {
    let earlier = |process: &str| before.iter().find(|usage| usage.process == process).map_or(0.0, |usage| usage.cpu_seconds);
    let used = |usage: &Usage| Usage { cpu_seconds: (usage.cpu_seconds - earlier(&usage.process)).max(0.0), ..usage.clone() };
    after.iter().map(used).collect()
}

impl Outcome {
    /// As people read it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Self { nodes, subnets, central, northd, fill, churn, cold_start } = self;
        let northd = if *northd { ", with ovn-northd" } else { "" };
        let servers = if *central == 1 { "one database server".to_owned() } else { format!("{central} database servers") };
        line(&mut out, &format!("{nodes} nodes, {subnets} subnets, {servers}{northd}; pods of {} bytes", fill.pod_bytes));
        line(&mut out, "");
        line(&mut out, &format!("{} pods at once: served in {:.1} s", fill.pods, fill.seconds));
        line(&mut out, &format!("  created {:.0} pods/s, served {:.0} pods/s", fill.created_per_second, fill.served_per_second));
        fill.traffic.text(&mut out);
        processes(&mut out, &fill.processes);
        if let Some(churn) = churn {
            line(&mut out, "");
            let Churn { pods, rate_per_second, alive, seconds, .. } = churn;
            line(&mut out, &format!("{pods} pods come and as many go, {rate_per_second:.0} a second, among {alive}: {seconds:.1} s"));
            churn.traffic.text(&mut out);
            processes(&mut out, &churn.processes);
        }
        if let Some(cold) = cold_start {
            line(&mut out, "");
            line(&mut out, &format!("controller started on {} pods: everything compared after {:.1} s", cold.pods, cold.seconds));
            let ColdStart { rows_written, objects_written, .. } = cold;
            line(&mut out, &format!("  {rows_written} northbound rows and {objects_written} pods and IP objects written"));
            line(&mut out, &format!("  controller's peak memory {:.0} MiB", mebibytes(cold.peak_memory)));
            processes(&mut out, &cold.processes);
        }
        out
    }
}

impl Traffic {
    fn text(&self, out: &mut String) {
        let stages = [
            ("committed", &self.created_to_committed),
            ("patched", &self.created_to_patched),
            ("in the southbound database", &self.created_to_bound),
        ];
        for (name, latency) in stages {
            if let Some(Latency { p50, p90, p99, max }) = latency {
                line(out, &format!("  created → {name:<27} p50 {p50:>8.1}  p90 {p90:>8.1}  p99 {p99:>8.1}  max {max:>8.1} ms"));
            }
        }
        line(out, &format!("  {:.4} transactions and {:.2} rows per pod", self.transactions_per_pod, self.rows_per_pod));
    }
}

fn processes(out: &mut String, all: &[Usage]) {
    for Usage { process, cpu_seconds, peak_memory } in all {
        line(out, &format!("  {process:<18} {cpu_seconds:>8.2} s of processor  {:>7.0} MiB at most", mebibytes(*peak_memory)));
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_sorted_values() {
        let latency = Latency::of((1..=100).rev().map(Duration::from_millis).collect()).unwrap();
        assert_eq!((latency.p50, latency.p99, latency.max), (51.0, 100.0, 100.0));
        assert!(Latency::of(Vec::new()).is_none());
    }
}
