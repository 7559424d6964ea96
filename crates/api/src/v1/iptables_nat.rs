//! Network address translation in a `VpcNatGateway`: `IptablesEIP` and the rules that use its address.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of an external address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IptablesEIP",
    root = "IptablesEip",
    plural = "iptables-eips",
    singular = "iptables-eip",
    shortname = "eip",
    status = "IptablesEipStatus",
    doc = "An external address of a NAT gateway, which floating IP, DNAT and SNAT rules use.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "ExternalSubnet", type_ = "string", json_path = ".spec.externalSubnet"),
    printcolumn(name = "IP", type_ = "string", json_path = ".status.ip"),
    printcolumn(name = "Mac", type_ = "string", json_path = ".spec.macAddress"),
    printcolumn(name = "Nat", type_ = "string", json_path = ".status.nat"),
    printcolumn(name = "NatGwDp", type_ = "string", json_path = ".spec.natGwDp"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("natGwDp", "the VpcNatGateway that has the address"),
    validation = rules::fixed("natGwDp", "natGwDp of an external address cannot change"),
    validation = rules::fixed("externalSubnet", "externalSubnet of an external address cannot change"),
    validation = rules::fixed("v4ip", "v4ip of an external address cannot change"),
    validation = rules::fixed("v6ip", "v6ip of an external address cannot change")
)]
pub struct IptablesEipSpec {
    /// IPv4 address; chosen from `externalSubnet` when empty. It cannot change.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip: Option<String>,
    /// IPv6 address; chosen from `externalSubnet` when empty. It cannot change.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip: Option<String>,
    /// MAC address of the gateway in `externalSubnet`, as recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::MAC)]
    pub mac_address: Option<String>,
    /// VpcNatGateway that has the address. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub nat_gw_dp: Option<String>,
    /// QoSPolicy that limits the bandwidth of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// Subnet that the address belongs to; the first external one of the gateway when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub external_subnet: Option<String>,
    /// Namespace that the address is meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What is observed of an external address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IptablesEipStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Uses of the address, joined by commas: `fip`, `dnat`, `snat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// QoSPolicy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// When the rule was last written anew because its gateway restarted (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redo: Option<String>,
}

/// What is wanted of a floating IP.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IptablesFIPRule",
    root = "IptablesFipRule",
    plural = "iptables-fip-rules",
    singular = "iptables-fip-rule",
    shortname = "fip",
    status = "IptablesFipRuleStatus",
    doc = "A floating IP: an external address of a NAT gateway that belongs to one internal address, in both directions.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Eip", type_ = "string", json_path = ".spec.eip"),
    printcolumn(name = "V4ip", type_ = "string", json_path = ".status.v4ip"),
    printcolumn(name = "InternalIp", type_ = "string", json_path = ".spec.internalIp"),
    printcolumn(name = "V6ip", type_ = "string", json_path = ".status.v6ip"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "NatGwDp", type_ = "string", json_path = ".status.natGwDp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("eip", "the IptablesEIP whose address is used"),
    validation = rules::required("internalIp", "the address inside the VPC")
)]
pub struct IptablesFipRuleSpec {
    /// IptablesEIP whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub eip: Option<String>,
    /// Address inside the VPC that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP)]
    pub internal_ip: Option<String>,
}

/// What is observed of a floating IP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IptablesFipRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// External IPv4 address in force.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// External IPv6 address in force.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// Name of the VpcNatGateway that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_gw_dp: Option<String>,
    /// When the rule was last written anew because its gateway restarted (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redo: Option<String>,
    /// Address inside the VPC, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_ip: Option<String>,
}

/// What is wanted of a port translation.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IptablesDnatRule",
    plural = "iptables-dnat-rules",
    singular = "iptables-dnat-rule",
    shortname = "dnat",
    status = "IptablesDnatRuleStatus",
    doc = "A port of an external address of a NAT gateway that leads to a port of an internal address.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Eip", type_ = "string", json_path = ".spec.eip"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol"),
    printcolumn(name = "V4ip", type_ = "string", json_path = ".status.v4ip"),
    printcolumn(name = "V6ip", type_ = "string", json_path = ".status.v6ip"),
    printcolumn(name = "InternalIp", type_ = "string", json_path = ".spec.internalIp"),
    printcolumn(name = "ExternalPort", type_ = "string", json_path = ".spec.externalPort"),
    printcolumn(name = "InternalPort", type_ = "string", json_path = ".spec.internalPort"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "NatGwDp", type_ = "string", json_path = ".status.natGwDp"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("eip", "the IptablesEIP whose address is used"),
    validation = rules::required("externalPort", "the port of the external address"),
    validation = rules::required("internalIp", "the address inside the VPC"),
    validation = rules::required("internalPort", "the port of the internal address")
)]
pub struct IptablesDnatRuleSpec {
    /// IptablesEIP whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub eip: Option<String>,
    /// Port of the external address, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::PORT)]
    pub external_port: Option<String>,
    /// `tcp` or `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::TCP_UDP)]
    pub protocol: Option<String>,
    /// Address inside the VPC that the port leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP)]
    pub internal_ip: Option<String>,
    /// Port of the internal address, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::PORT)]
    pub internal_port: Option<String>,
    /// `exclusive`: the port leads to this rule's address alone; `share`: connections spread over the addresses of all rules
    /// that share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["exclusive", "share"]), extend("default" = "exclusive"))]
    pub r#type: Option<String>,
}

/// What is observed of a port translation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IptablesDnatRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// External IPv4 address in force.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// External IPv6 address in force.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// Name of the VpcNatGateway that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_gw_dp: Option<String>,
    /// When the rule was last written anew because its gateway restarted (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redo: Option<String>,
    /// Port of the external address, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_port: Option<String>,
    /// Protocol in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Address inside the VPC, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_ip: Option<String>,
    /// Port of the internal address, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_port: Option<String>,
}

/// What is wanted of a source translation.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IptablesSnatRule",
    plural = "iptables-snat-rules",
    singular = "iptables-snat-rule",
    shortname = "snat",
    status = "IptablesSnatRuleStatus",
    doc = "Internal addresses that leave through an external address of a NAT gateway.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "EIP", type_ = "string", json_path = ".spec.eip"),
    printcolumn(name = "V4ip", type_ = "string", json_path = ".status.v4ip"),
    printcolumn(name = "V6ip", type_ = "string", json_path = ".status.v6ip"),
    printcolumn(name = "InternalCIDR", type_ = "string", json_path = ".spec.internalCIDR"),
    printcolumn(name = "NatGwDp", type_ = "string", json_path = ".status.natGwDp"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("eip", "the IptablesEIP whose address is used"),
    validation = rules::required("internalCIDR", "the addresses inside the VPC")
)]
pub struct IptablesSnatRuleSpec {
    /// IptablesEIP whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub eip: Option<String>,
    /// Addresses inside the VPC that take the external one: a prefix, or one per family joined by a comma.
    #[serde(rename = "internalCIDR", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::cidr_pair())]
    pub internal_cidr: Option<String>,
}

/// What is observed of a source translation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IptablesSnatRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// External IPv4 address in force.
    #[serde(rename = "v4ip", skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// External IPv6 address in force.
    #[serde(rename = "v6ip", skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// Name of the VpcNatGateway that carries it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_gw_dp: Option<String>,
    /// When the rule was last written anew because its gateway restarted (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redo: Option<String>,
    /// Addresses inside the VPC, as in force.
    #[serde(rename = "internalCIDR", skip_serializing_if = "Option::is_none")]
    pub internal_cidr: Option<String>,
}
