//! What the kubelet tells the API: the status of pods, and events.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::Node;
use super::container::Doing;
use super::record::PodRecord;

/// Now, as Kubernetes spells it.
pub(crate) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What is reported of a pod; equal reports are sent once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) phase: &'static str,
    /// Why it is not running, if it is not.
    pub(crate) reason: Option<(&'static str, String)>,
    pub(crate) record: PodRecord,
    pub(crate) doing: Vec<Doing>,
}

impl Report {
    fn status(&self, node_address: &str) -> Value {
        let time = now();
        let truth = |value: bool| if value { "True" } else { "False" };
        let running = self.phase == "Running";
        let ready = running && self.doing.iter().all(|doing| *doing == Doing::Running);
        let (reason, message) = self.reason.clone().unwrap_or_default();
        let condition = |kind: &str, value: bool| {
            let mut condition = json!({"type": kind, "status": truth(value), "lastTransitionTime": time});
            if !value && !reason.is_empty() {
                condition["reason"] = reason.into();
                condition["message"] = message.clone().into();
            }
            condition
        };
        let statuses = self.record.containers.iter().zip(&self.doing).map(|(container, doing)| {
            let state = match doing {
                Doing::Waiting => json!({"waiting": {"reason": if reason.is_empty() { "ContainerCreating" } else { reason }, "message": message}}),
                Doing::Starting | Doing::Running => json!({"running": {"startedAt": self.record.since}}),
                Doing::Ended { status } => {
                    json!({"terminated": {"exitCode": status, "reason": if *status == 0 { "Completed" } else { "Error" }, "finishedAt": time}})
                }
            };
            json!({
                "name": container.name, "ready": *doing == Doing::Running && running, "started": *doing == Doing::Running, "state": state,
                "restartCount": container.restarts, "image": "host", "imageID": "host",
                "containerID": format!("ferrovia://{}-{}", self.record.uid, container.name),
            })
        });
        let mut status = json!({
            "phase": self.phase,
            "hostIP": node_address,
            "hostIPs": [{"ip": node_address}],
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", true),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
            "containerStatuses": statuses.collect::<Vec<_>>(),
        });
        if !self.record.since.is_empty() {
            status["startTime"] = self.record.since.clone().into();
        }
        if let Some(first) = self.record.addresses.first() {
            status["podIP"] = first.to_string().into();
            status["podIPs"] = self.record.addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        }
        status
    }
}

impl Node {
    /// Writes a pod's status.
    pub(crate) async fn report(&self, report: &Report) -> kube::Result<()> {
        let address = self.place.address().map(|address| address.to_string()).unwrap_or_default();
        let record = &report.record;
        let pods = Api::<Pod>::namespaced(self.client.clone(), &record.namespace);
        // The uid makes the server refuse when another pod has taken the name.
        let patch = json!({"metadata": {"uid": record.uid}, "status": report.status(&address)});
        pods.patch_status(&record.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
    }

    /// Tells people what went wrong with a pod. That this fails is only logged.
    pub(crate) async fn event(&self, pod: &Pod, reason: &str, message: &str) {
        let (namespace, name, uid) = (pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default());
        tracing::warn!(pod = %format_args!("{namespace}/{name}"), reason, message);
        let time = now();
        let event = json!({
            "metadata": {"name": format!("{name}.{:016x}", Timestamp::now().as_nanosecond()), "namespace": namespace},
            "involvedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": uid},
            "type": "Warning", "reason": reason, "message": message, "count": 1, "firstTimestamp": time, "lastTimestamp": time,
            "source": {"component": "kubelet", "host": self.place.to_string()},
            "reportingComponent": "kubelet", "reportingInstance": self.place.to_string(),
        });
        let created = match serde_json::from_value::<Event>(event) {
            Ok(event) => Api::namespaced(self.client.clone(), &namespace).create(&PostParams::default(), &event).await.map(|_| ()),
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        if let Err(error) = created {
            tracing::warn!(%error, "cannot record an event");
        }
    }
}
