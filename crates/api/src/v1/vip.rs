//! `Vip`: an address of a subnet that belongs to no single pod.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of a virtual IP.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "Vip",
    plural = "vips",
    singular = "vip",
    shortname = "vip",
    status = "VipStatus",
    doc = "An address of a subnet that belongs to no single pod: reserved for later, shared by several pods, or the address of a load balancer.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "V4IP", type_ = "string", json_path = ".status.v4ip"),
    printcolumn(name = "V6IP", type_ = "string", json_path = ".status.v6ip"),
    printcolumn(name = "Mac", type_ = "string", json_path = ".status.mac"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::fixed("subnet", "a virtual IP cannot move to another subnet"),
    validation = rules::fixed("v4ip", "the IPv4 address of a virtual IP cannot change"),
    validation = rules::fixed("v6ip", "the IPv6 address of a virtual IP cannot change"),
    validation = rules::fixed("macAddress", "the MAC address of a virtual IP cannot change")
)]
pub struct VipSpec {
    /// Namespace of the pods that may hold the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Subnet that the address belongs to; the default one when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub subnet: Option<String>,
    /// Use of the address: empty for one that pods hold or share, `switch_lb_vip` for a load balancer in the subnet,
    /// `kube_host_vm_vip` for a virtual machine that is a Kubernetes node.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "switch_lb_vip", "kube_host_vm_vip"]))]
    pub r#type: Option<String>,
    /// IPv4 address; chosen when empty. It cannot change.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip: Option<String>,
    /// IPv6 address; chosen when empty. It cannot change.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip: Option<String>,
    /// MAC address; chosen when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::MAC)]
    pub mac_address: Option<String>,
    /// Labels, `key:value`, of the pods that may hold the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 512)))]
    #[x_kube(validation = rules::each_label())]
    pub selector: Option<Vec<String>>,
    /// Further subnets that the address is announced in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_subnets: Option<Vec<String>>,
}

/// What is observed of a virtual IP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VipStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Use of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// IPv4 address in force.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// IPv6 address in force.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// MAC address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Labels, `key:value`, of the pods that may hold the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Vec<String>>,
}
