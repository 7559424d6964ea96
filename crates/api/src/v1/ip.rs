//! `IP`: one address holder. The record for sticky and reserved addresses, a view for live plain pods.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The addresses of one NIC, and who holds them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IP",
    root = "Ip",
    plural = "ips",
    singular = "ip",
    shortname = "ip",
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Namespace of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Subnet that the addresses belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Node on which the holder runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// All addresses, `v4,v6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4_ip_address: Option<String>,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6_ip_address: Option<String>,
    /// MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Subnets of further NICs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_subnets: Option<Vec<String>>,
    /// Addresses of further NICs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_ips: Option<Vec<String>>,
    /// MAC addresses of further NICs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_macs: Option<Vec<String>>,
    /// Container (sandbox) identifier.
    #[serde(default, rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Kind of workload: empty for a pod, `StatefulSet`, `VirtualMachine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_type: Option<String>,
}
