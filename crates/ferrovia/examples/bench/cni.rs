//! CNI as a container runtime sees it, from the start of the plugin's process to its end, in a lab of one node whose kubelet
//! stands aside; and Debian's reference plugins by the same means on the same node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use lab::executions::Executions;
use lab::runtime::{Attachment, Network, Runtime, Verb};
use lab::{Component, Place};
use serde_json::json;

use crate::lab::Lab;
use crate::report::{Report, Row, median, percentile};

/// Attachments that are timed.
const PODS: usize = 100;
/// Attachments that are under way at once.
const AT_ONCE: usize = 10;
/// Pods of a node that is full.
const FULL: usize = 250;
/// How long an agent that nobody asks for anything is watched.
const IDLE: Duration = Duration::from_secs(30);
const OTHERS: &str = "bridge and host-local";

pub fn measure(report: &mut Report) {
    let lab = Lab::up(&["--nodes", "1"]);
    lab.run("kill", &["kubelet"]);
    let opened = lab::Lab::open(lab.layout()).unwrap();
    let runtime = Runtime::new(opened, Place::Node(1));
    tokio::runtime::Runtime::new().unwrap().block_on(all(report, &runtime));
}

async fn all(report: &mut Report, runtime: &Runtime) {
    let client = lab::cluster::client(&runtime.lab().layout).await.unwrap();
    let network = runtime.network().unwrap();
    let pods = runtime.admit(&client, (0..PODS).map(pod).collect()).await.unwrap();
    let agent = agent(runtime);

    // The node's first pod makes its subnet known there.
    verb(runtime, Verb::Add, &network, &pods[..1], 1).await;
    verb(runtime, Verb::Del, &network, &pods[..1], 1).await;

    let mut executions = Executions::of(agent).unwrap();
    let serial = verb(runtime, Verb::Add, &network, &pods, 1).await;
    let executed = executions.until_now().unwrap();
    drop(executions);
    let removed = verb(runtime, Verb::Del, &network, &pods, 1).await;
    let parallel = verb(runtime, Verb::Add, &network, &pods, AT_ONCE).await;
    let before = cpu_seconds(agent);
    tokio::time::sleep(IDLE).await;
    let idle = (cpu_seconds(agent) - before) / IDLE.as_secs_f64() * 100.0;

    let more = runtime.admit(&client, (PODS..FULL).map(pod).collect()).await.unwrap();
    verb(runtime, Verb::Add, &network, &more, AT_ONCE).await;
    let (resident, shared) = (mebibytes(agent, "status", "VmRSS"), mebibytes(agent, "smaps_rollup", "Pss"));
    let removed_at_once = verb(runtime, Verb::Del, &network, &[pods, more].concat(), AT_ONCE).await;

    let (other, other_at_once, other_removed) = reference(runtime).await;
    let time = |name: &str, value: f64| Row::new(name, value, "ms");
    let [serial_p50, parallel_p50] = [&serial, &parallel].map(|times| median(times.clone()));
    report.add(time("CNI ADD with ovn-installed, serial: median", serial_p50).at_most(45.0));
    report.add(time("the same: 99th percentile", percentile(serial, 99)));
    report.add(time("CNI ADD, serial, and the reference plugins: median", serial_p50).against(OTHERS, median(other)).ratio_at_most(2.0));
    report.add(time("CNI ADD with ovn-installed, 10 in parallel: median", parallel_p50).at_most(80.0));
    report.add(time("the same: 99th percentile", percentile(parallel, 99)).at_most(200.0));
    let row = time("CNI ADD, 10 in parallel, and the reference plugins: median", parallel_p50);
    report.add(row.against(OTHERS, median(other_at_once)).ratio_at_most(2.0));
    report.add(time("CNI DEL, serial: median", median(removed.clone())).against(OTHERS, median(other_removed)));
    report.add(time("the same: 99th percentile", percentile(removed, 99)).at_most(50.0));
    report.add(time("CNI DEL, 10 in parallel: 99th percentile", percentile(removed_at_once, 99)));
    report.add(Row::new("processes started by the agent in 100 ADDs", executed.processes as f64, "").exactly(0.0));
    report.add(Row::new("agent with 100 pods and nothing to do: of one core, over 30 s", idle, "%").at_most(0.2));
    report.add(Row::new("agent with 250 pods: resident memory", resident, "MiB").at_most(40.0));
    report.add(Row::new("the same: pages that others map too divided among them (PSS)", shared, "MiB"));
}

/// Debian's reference plugins on the same node: ADD in turn, ADD at once, DEL in turn.
async fn reference(runtime: &Runtime) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let addresses = runtime.lab().layout.place(runtime.node()).join("host-local");
    let network = Network::of(
        "1.0.0",
        "reference",
        vec![json!({
            "type": "bridge",
            "bridge": "reference0",
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": addresses,
                "ranges": [[{ "subnet": "10.99.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        })],
    );
    let mut attachments = Vec::new();
    for number in 0..PODS {
        let container = format!("reference-{number:04}");
        let sandbox = runtime.sandbox(&container).await.unwrap();
        attachments.push(Attachment::of_pod("default", &container, &container, sandbox.name()));
    }
    verb(runtime, Verb::Add, &network, &attachments[..1], 1).await;
    verb(runtime, Verb::Del, &network, &attachments[..1], 1).await;
    let serial = verb(runtime, Verb::Add, &network, &attachments, 1).await;
    let removed = verb(runtime, Verb::Del, &network, &attachments, 1).await;
    let parallel = verb(runtime, Verb::Add, &network, &attachments, AT_ONCE).await;
    verb(runtime, Verb::Del, &network, &attachments, AT_ONCE).await;
    attachments.iter().for_each(|attachment| attachment.delete_sandbox().unwrap());
    (serial, parallel, removed)
}

/// One verb for each attachment, some of them at once; yields how long each took, in ms.
async fn verb(runtime: &Runtime, verb: Verb, network: &Network, attachments: &[Attachment], at_once: usize) -> Vec<f64> {
    let calls = stream::iter(attachments).map(async |attachment| {
        let answer = match verb {
            Verb::Add => runtime.add(network, attachment).await,
            _ => runtime.del(network, attachment).await,
        };
        let answer = answer.unwrap();
        answer.ok().unwrap();
        answer.took.as_secs_f64() * 1e3
    });
    let times: Vec<f64> = calls.buffer_unordered(at_once).collect().await;
    assert_eq!(times.len(), attachments.iter().map(|attachment| &attachment.container).collect::<BTreeSet<_>>().len());
    times
}

fn pod(number: usize) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": format!("p{number}"), "namespace": "default" },
        "spec": { "containers": [{ "name": "c", "image": "none" }], "terminationGracePeriodSeconds": 0 },
    }))
    .unwrap()
}

fn agent(runtime: &Runtime) -> u32 {
    let layout = &runtime.lab().layout;
    Component::find(layout, "agent@node1").unwrap().process(layout).expect("the agent runs").pid()
}

/// User and system time that a process has taken: proc_pid_stat(5), fields 14 and 15, in hundredths of a second.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// A field that the kernel gives in kibibytes.
fn mebibytes(pid: u32, file: &str, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("no {field} in {file}")) / 1024.0
}
