//! Network address translation by a VPC's router: `OvnEip` and the rules that use its address.

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
    kind = "OvnEip",
    plural = "ovn-eips",
    singular = "ovn-eip",
    shortname = "oeip",
    status = "OvnEipStatus",
    doc = "An external address of a VPC's router, which OVN floating IP, DNAT and SNAT rules use.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "V4IP", type_ = "string", json_path = ".status.v4Ip"),
    printcolumn(name = "V6IP", type_ = "string", json_path = ".status.v6Ip"),
    printcolumn(name = "Mac", type_ = "string", json_path = ".status.macAddress"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(name = "Nat", type_ = "string", json_path = ".status.nat"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "ExternalSubnet", type_ = "string", json_path = ".spec.externalSubnet")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::fixed("externalSubnet", "externalSubnet of an external address cannot change"),
    validation = rules::fixed("v4Ip", "v4Ip of an external address cannot change"),
    validation = rules::fixed("v6Ip", "v6Ip of an external address cannot change"),
    validation = rules::fixed("macAddress", "macAddress of an external address cannot change")
)]
pub struct OvnEipSpec {
    /// Subnet that the address belongs to; the default external one when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub external_subnet: Option<String>,
    /// IPv4 address; chosen when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip: Option<String>,
    /// IPv6 address; chosen when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip: Option<String>,
    /// MAC address; chosen when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::MAC)]
    pub mac_address: Option<String>,
    /// Use of the address: of a router port (`lrp`), of a port of the external switch on a node (`lsp`), or for translation
    /// (`nat`, also when empty).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "lrp", "lsp", "nat"]))]
    pub r#type: Option<String>,
}

/// What is observed of an external address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvnEipStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Use of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// Translations that use the address, joined by commas: `fip`, `dnat`, `snat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// IPv4 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// IPv6 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// MAC address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// What is wanted of a floating IP.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "OvnFip",
    plural = "ovn-fips",
    singular = "ovn-fip",
    shortname = "ofip",
    status = "OvnFipStatus",
    doc = "A floating IP: an external address of a VPC's router that belongs to one internal address, in both directions.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Vpc", type_ = "string", json_path = ".status.vpc"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "V4Eip", type_ = "string", json_path = ".status.v4Eip"),
    printcolumn(name = "V6Eip", type_ = "string", json_path = ".status.v6Eip"),
    printcolumn(name = "V4Ip", type_ = "string", json_path = ".status.v4Ip"),
    printcolumn(name = "V6Ip", type_ = "string", json_path = ".status.v6Ip"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "IpType", type_ = "string", json_path = ".spec.ipType"),
    printcolumn(name = "IpName", type_ = "string", json_path = ".spec.ipName")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("ovnEip", "the OvnEip whose address is used"),
    validation = Rule::new("(has(self.ipName) && self.ipName != '') || (has(self.v4Ip) && self.v4Ip != '') || (has(self.v6Ip) && self.v6Ip != '')").message("the address inside is missing: ipName, v4Ip or v6Ip").field_path(".ipName")
)]
pub struct OvnFipSpec {
    /// OvnEip whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ovn_eip: Option<String>,
    /// What `ipName` names: a Vip (`vip`) or an IP (`ip`, also when empty).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "vip", "ip"]))]
    pub ip_type: Option<String>,
    /// Vip or IP whose address is inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ip_name: Option<String>,
    /// VPC of the address inside, when it is given by `v4Ip` or `v6Ip` and not by `ipName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// IPv4 address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip: Option<String>,
    /// IPv6 address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip: Option<String>,
    /// Where addresses are translated: on the node of the address inside (`distributed`) or on the gateway nodes
    /// (`centralized`); as the VPC has it when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "distributed", "centralized"]))]
    pub r#type: Option<String>,
}

/// What is observed of a floating IP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvnFipStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// VPC of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// External IPv4 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_eip: Option<String>,
    /// External IPv6 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_eip: Option<String>,
    /// IPv4 address inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// IPv6 address inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// MAC address of the NIC that has the address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

/// What is wanted of a port translation.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "OvnDnatRule",
    plural = "ovn-dnat-rules",
    singular = "ovn-dnat-rule",
    shortname = "odnat",
    status = "OvnDnatRuleStatus",
    doc = "A port of an external address of a VPC's router that leads to a port of an internal address.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Vpc", type_ = "string", json_path = ".status.vpc"),
    printcolumn(name = "Eip", type_ = "string", json_path = ".spec.ovnEip"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".status.protocol"),
    printcolumn(name = "V4Eip", type_ = "string", json_path = ".status.v4Eip"),
    printcolumn(name = "V6Eip", type_ = "string", json_path = ".status.v6Eip"),
    printcolumn(name = "V4Ip", type_ = "string", json_path = ".status.v4Ip"),
    printcolumn(name = "V6Ip", type_ = "string", json_path = ".status.v6Ip"),
    printcolumn(name = "InternalPort", type_ = "string", json_path = ".status.internalPort"),
    printcolumn(name = "ExternalPort", type_ = "string", json_path = ".status.externalPort"),
    printcolumn(name = "IpName", type_ = "string", json_path = ".spec.ipName"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("ovnEip", "the OvnEip whose address is used"),
    validation = Rule::new("(has(self.ipName) && self.ipName != '') || (has(self.v4Ip) && self.v4Ip != '') || (has(self.v6Ip) && self.v6Ip != '')").message("the address inside is missing: ipName, v4Ip or v6Ip").field_path(".ipName"),
    validation = rules::required("externalPort", "the port of the external address"),
    validation = rules::required("internalPort", "the port of the address inside")
)]
pub struct OvnDnatRuleSpec {
    /// OvnEip whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ovn_eip: Option<String>,
    /// Port of the external address, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::PORT)]
    pub external_port: Option<String>,
    /// What `ipName` names: a Vip (`vip`) or an IP (`ip`, also when empty).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "vip", "ip"]))]
    pub ip_type: Option<String>,
    /// Vip or IP whose address is inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ip_name: Option<String>,
    /// VPC of the address inside, when it is given by `v4Ip` or `v6Ip` and not by `ipName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// IPv4 address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub v4_ip: Option<String>,
    /// IPv6 address inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6)]
    pub v6_ip: Option<String>,
    /// Port of the address inside, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::PORT)]
    pub internal_port: Option<String>,
    /// `tcp`, `udp` or `sctp`; `tcp` when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::TCP_UDP_SCTP)]
    pub protocol: Option<String>,
}

/// What is observed of a port translation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvnDnatRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// VPC of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// External IPv4 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_eip: Option<String>,
    /// External IPv6 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_eip: Option<String>,
    /// IPv4 address inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_ip: Option<String>,
    /// IPv6 address inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_ip: Option<String>,
    /// Vip or IP whose address is inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_name: Option<String>,
    /// Port of the external address, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_port: Option<String>,
    /// Port of the address inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_port: Option<String>,
    /// Protocol in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What is wanted of a source translation.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "OvnSnatRule",
    plural = "ovn-snat-rules",
    singular = "ovn-snat-rule",
    shortname = "osnat",
    status = "OvnSnatRuleStatus",
    doc = "Internal addresses that leave through an external address of a VPC's router.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Vpc", type_ = "string", json_path = ".status.vpc"),
    printcolumn(name = "V4Eip", type_ = "string", json_path = ".status.v4Eip"),
    printcolumn(name = "V6Eip", type_ = "string", json_path = ".status.v6Eip"),
    printcolumn(name = "V4IpCidr", type_ = "string", json_path = ".status.v4IpCidr"),
    printcolumn(name = "V6IpCidr", type_ = "string", json_path = ".status.v6IpCidr"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("ovnEip", "the OvnEip whose address is used"),
    validation = Rule::new("!has(self.vpcSubnet) || self.vpcSubnet == '' || !has(self.ipName) || self.ipName == ''").message("vpcSubnet and ipName exclude each other").field_path(".vpcSubnet"),
    validation = Rule::new("(has(self.vpcSubnet) && self.vpcSubnet != '') || (has(self.ipName) && self.ipName != '') || (has(self.v4IpCidr) && self.v4IpCidr != '') || (has(self.v6IpCidr) && self.v6IpCidr != '')").message("the addresses inside are missing: vpcSubnet, ipName, v4IpCidr or v6IpCidr").field_path(".vpcSubnet")
)]
pub struct OvnSnatRuleSpec {
    /// OvnEip whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ovn_eip: Option<String>,
    /// Subnet whose addresses take the external one. It excludes `ipName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub vpc_subnet: Option<String>,
    /// IP whose address takes the external one. It excludes `vpcSubnet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ip_name: Option<String>,
    /// VPC of the addresses inside, when they are given by `v4IpCidr` or `v6IpCidr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// IPv4 address or prefix inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4_OR_CIDR)]
    pub v4_ip_cidr: Option<String>,
    /// IPv6 address or prefix inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV6_OR_CIDR)]
    pub v6_ip_cidr: Option<String>,
}

/// What is observed of a source translation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OvnSnatRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the object is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// VPC of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// External IPv4 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_eip: Option<String>,
    /// External IPv6 address in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_eip: Option<String>,
    /// IPv4 address or prefix inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4_ip_cidr: Option<String>,
    /// IPv6 address or prefix inside, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6_ip_cidr: Option<String>,
}
