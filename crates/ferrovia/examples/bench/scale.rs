//! The control plane at scale, by `ferrovia bench control-plane`: every part is a process, so that its memory and time are its own.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::report::{Report, Row};
use crate::servers::ferrovia;

pub fn measure(report: &mut Report) {
    churn(report);
    cold_start(report);
}

/// Pods that come and go, as fast as a large cluster's do on a bad day.
fn churn(report: &mut Report) {
    let outcome = bench(&["--nodes=100", "--pods=10000", "--subnets=20", "--rate=200", "--seconds=15", "--recorded"]);
    let traffic = &outcome["churn"]["traffic"];
    let latency = |stage: &str, part: &str| traffic[stage][part].as_f64().unwrap();
    let name = "200 pods/s come and go, from creation";
    report.add(Row::new(format!("{name} to commit: median"), latency("createdToCommitted", "p50"), "ms"));
    report.add(Row::new(format!("{name} to commit: 99th percentile"), latency("createdToCommitted", "p99"), "ms").at_most(250.0));
    report.add(Row::new(format!("{name} to patch: 99th percentile"), latency("createdToPatched", "p99"), "ms"));
    let rows = traffic["rowsPerPod"].as_f64().unwrap();
    report.add(Row::new("the same: northbound rows per pod that comes and one that goes", rows, "rows").at_most(4.0));
}

/// A converged cluster on which the controller starts anew.
fn cold_start(report: &mut Report) {
    let outcome = bench(&["--nodes=1000", "--pods=150000", "--subnets=100", "--recorded", "--cold-start"]);
    let value = |path: &str| outcome.pointer(path).unwrap().as_f64().unwrap();
    let bytes = value("/fill/podBytes");
    assert!(bytes >= 6144.0, "pods of {bytes} bytes");
    let name = "cold start on 150,000 pods of 7 KB";
    report.add(Row::new(format!("{name}: until all is compared"), value("/coldStart/seconds"), "s").at_most(15.0));
    report.add(Row::new("the same: northbound rows written", value("/coldStart/rowsWritten"), "rows").exactly(0.0));
    report.add(Row::new("the same: pods and IP objects written", value("/coldStart/objectsWritten"), "").exactly(0.0));
    report.add(
        Row::new("the same: peak memory of the controller", value("/coldStart/peakMemory") / f64::from(1 << 20), "MiB").at_most(1024.0),
    );
    report.add(Row::new("150,000 recorded pods, northbound database empty: until it is complete", value("/fill/seconds"), "s"));
}

fn bench(arguments: &[&str]) -> Value {
    let mut command = Command::new(ferrovia());
    command.args(["bench", "control-plane", "--json"]).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "bench control-plane {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
