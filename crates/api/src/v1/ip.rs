//! `IP`: one address holder. The record for sticky and reserved addresses, a view for live plain pods.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;

/// The addresses of one NIC, and who holds them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IP",
    root = "Ip",
    plural = "ips",
    singular = "ip",
    shortname = "ip",
    doc = "The addresses of one NIC: a pod's, a virtual machine's, a node's, or the network's own. Created by hand it reserves them.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "V4IP", type_ = "string", json_path = ".spec.v4IpAddress"),
    printcolumn(name = "V6IP", type_ = "string", json_path = ".spec.v6IpAddress"),
    printcolumn(name = "Mac", type_ = "string", json_path = ".spec.macAddress"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet")
)]
#[serde(rename_all = "camelCase")]
pub struct IpSpec {
    /// Name of the pod, or of the virtual machine that it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Subnet that the addresses belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Node on which the holder runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// All addresses: IPv4, IPv6, or both joined by a comma.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub ip_address: Option<String>,
    /// IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip_address: Option<String>,
    /// IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip_address: Option<String>,
    /// MAC address of the NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::MAC)]
    pub mac_address: Option<String>,
    /// Subnets of further NICs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_subnets: Option<Vec<String>>,
    /// Addresses of further NICs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_ip_pair())]
    pub attach_ips: Option<Vec<String>>,
    /// MAC addresses of further NICs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_mac())]
    pub attach_macs: Option<Vec<String>>,
    /// Identifier of the container sandbox.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Workload of the holder: empty for a plain pod, `StatefulSet`, or `VirtualMachine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_type: Option<String>,
}
