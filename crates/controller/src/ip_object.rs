//! `IP` objects as they are written: one per NIC.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use api::annotations::{NODE_LABEL, RESERVED_LABEL, SUBNET_LABEL, join};
use api::v1;
use serde_json::{Value, json};
use topology::input::{STATEFUL_SET, VIRTUAL_MACHINE};
use topology::{Identity, IpHolder, PodKey, Workload};

/// A fingerprint of what the controller writes of an `IP` object. Whole objects of all pods would take half a gigabyte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content(u64);

impl Content {
    /// Of an object as it is.
    pub(crate) fn of(object: &v1::Ip) -> Self {
        let spec = &object.spec;
        let label = |key: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let fields = [
            &spec.pod_name,
            &spec.namespace,
            &spec.subnet,
            &spec.node_name,
            &spec.ip_address,
            &spec.v4_ip_address,
            &spec.v6_ip_address,
            &spec.mac_address,
            &spec.pod_type,
        ];
        let mut hasher = DefaultHasher::new();
        for text in fields.into_iter().map(Option::as_deref).chain([label(SUBNET_LABEL), label(NODE_LABEL)]) {
            text.unwrap_or_default().hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// The object that shows a NIC. One that a user made keeps its mark.
pub(crate) fn wanted(name: &str, holder: &PodKey, shown: &IpHolder, kept: bool) -> v1::Ip {
    let IpHolder { node, nic } = shown;
    let family = |v4: bool| nic.addresses.iter().find(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).unwrap_or_default();
    let pod_type = match &nic.identity {
        Identity::Workload(Workload::StatefulSet(_)) => STATEFUL_SET,
        Identity::Workload(Workload::VirtualMachine(_)) => VIRTUAL_MACHINE,
        Identity::Pod(_) | Identity::Reserved => "",
    };
    let node = node.as_deref().unwrap_or_default().to_owned();
    // A reservation for nobody names no pod.
    let named = |text: &str| (!holder.namespace.is_empty()).then(|| text.to_owned());
    let spec = v1::IpSpec {
        pod_name: named(&holder.name),
        namespace: named(&holder.namespace),
        subnet: Some(nic.subnet.to_string()),
        node_name: Some(node.clone()),
        ip_address: Some(join(&nic.addresses)),
        v4_ip_address: Some(family(true)),
        v6_ip_address: Some(family(false)),
        mac_address: Some(nic.mac.to_string()),
        pod_type: Some(pod_type.to_owned()),
        ..v1::IpSpec::default()
    };
    let mut object = v1::Ip::new(name, spec);
    let mut labels = BTreeMap::from([(SUBNET_LABEL.to_owned(), nic.subnet.to_string()), (NODE_LABEL.to_owned(), node)]);
    if kept {
        labels.insert(RESERVED_LABEL.to_owned(), "false".to_owned());
    }
    object.metadata.labels = Some(labels);
    object
}

/// The merge patch that makes the object with this uid like `wanted`.
pub(crate) fn patch(wanted: &v1::Ip, uid: &str) -> Value {
    json!({ "metadata": { "uid": uid, "labels": wanted.metadata.labels }, "spec": wanted.spec })
}
