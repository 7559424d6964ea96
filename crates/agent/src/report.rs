//! What users are told of a pod's NICs, and of the node's gateway: events, and the annotation that says what was attached. Written beside the work, which
//! does not wait for it.

use api::networks::NETWORK_STATUS;
use api::view::PodView;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use linux::IpPrefix;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::attachment::Attachment;

enum Report {
    Problem(Box<Event>),
    Status { namespace: String, pod: String, patch: Value },
}

/// Where reports go.
#[derive(Clone)]
pub(crate) struct Reporter {
    node: String,
    reports: mpsc::Sender<Report>,
}

/// Prepares it, and the future that writes; the caller owns the task that awaits it.
pub(crate) fn reporter(client: kube::Client, node: &str) -> (Reporter, impl Future<Output = ()> + Send + use<>) {
    let (reports, queue) = mpsc::channel(1024);
    (Reporter { node: node.to_owned(), reports }, write(client, queue))
}

impl Reporter {
    /// Tells what could not be done.
    pub(crate) fn problems(&self, attachment: &Attachment, problems: Vec<String>) {
        for problem in problems {
            tracing::warn!(namespace = attachment.namespace, pod = attachment.pod, %problem, "NIC");
            self.send(Report::Problem(Box::new(self.event(attachment, problem))));
        }
    }

    /// Tells, at the node, why pods are not reached, or do not leave, by it. Its events are found by its name, as the kubelet's are.
    pub(crate) fn gateway(&self, problem: String) {
        let node = ObjectReference {
            kind: Some("Node".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        let source = EventSource { component: Some("ferrovia-agent".to_owned()), host: Some(self.node.clone()) };
        self.send(Report::Problem(Box::new(api::event::warning(node, source, "GatewayNotReady", problem, Timestamp::now()))));
    }

    /// Tells what was attached.
    pub(crate) fn status(&self, attachments: &[Attachment]) {
        let Some(first) = attachments.first() else { return };
        let mut metadata = json!({ "annotations": { (NETWORK_STATUS): network_status(attachments).to_string() } });
        if let Some(uid) = &first.uid {
            metadata["uid"] = json!(uid);
        }
        self.send(Report::Status { namespace: first.namespace.clone(), pod: first.pod.clone(), patch: json!({ "metadata": metadata }) });
    }

    fn send(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::warn!("too much to report: some is left out");
        }
    }

    fn event(&self, attachment: &Attachment, message: String) -> Event {
        let object = ObjectReference {
            kind: Some("Pod".to_owned()),
            api_version: Some("v1".to_owned()),
            namespace: Some(attachment.namespace.clone()),
            name: Some(attachment.pod.clone()),
            uid: attachment.uid.clone(),
            ..ObjectReference::default()
        };
        let source = EventSource { component: Some("ferrovia-agent".to_owned()), host: Some(self.node.clone()) };
        api::event::warning(object, source, "NetworkIncomplete", message, Timestamp::now())
    }
}

/// As the de-facto standard has it, version 1.3, section 4.1.4.
fn network_status(attachments: &[Attachment]) -> Value {
    let one = |attachment: &Attachment| {
        let nic = &attachment.nic;
        let name = match nic.provider.split('.').collect::<Vec<_>>().as_slice() {
            [name, namespace, ..] => format!("{namespace}/{name}"),
            _ => attachment.network.clone(),
        };
        let ips: Vec<_> = nic.addresses.iter().map(IpPrefix::address).collect();
        let mut status = json!({
            "name": name, "interface": attachment.ifname, "ips": ips, "mac": nic.mac.to_string(), "mtu": nic.mtu,
            "default": nic.default_route, "dns": {},
        });
        if nic.default_route {
            status["gateway"] = json!(nic.gateways);
        }
        status
    };
    attachments.iter().map(one).collect()
}

async fn write(client: kube::Client, mut queue: mpsc::Receiver<Report>) {
    while let Some(report) = queue.recv().await {
        let written = match report {
            Report::Problem(event) => {
                let api = Api::<Event>::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
                match api.create(&PostParams::default(), &event).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        let patch = json!({ "lastTimestamp": event.last_timestamp });
                        let name = event.metadata.name.as_deref().unwrap_or_default();
                        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
                    }
                    written => written.map(drop),
                }
            }
            Report::Status { namespace, pod, patch } => {
                let api = Api::<PodView>::namespaced(client.clone(), &namespace);
                api.patch(&pod, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
        };
        match written {
            // The pod is gone, or another one has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
            Err(error) => tracing::warn!(%error, "a report on a pod cannot be written"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::tests::attachment;

    #[test]
    fn the_status_names_networks_as_the_list_does() {
        let mut second = attachment("c", "net1");
        (second.nic.provider, second.nic.default_route) = ("d.ns.ovn.net1".to_owned(), false);
        let status = network_status(&[attachment("c", "eth0"), second]);
        assert_eq!((&status[0]["name"], &status[0]["default"], &status[0]["ips"][0]), (&json!("n"), &json!(true), &json!("10.0.0.2")));
        assert_eq!((&status[1]["name"], &status[1]["interface"], status[1].get("gateway")), (&json!("ns/d"), &json!("net1"), None));
    }
}
