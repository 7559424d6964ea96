//! `Vpc`: an isolated layer-3 domain, carried by one logical router.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What is wanted of a VPC.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "Vpc",
    plural = "vpcs",
    singular = "vpc",
    shortname = "vpc",
    status = "VpcStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "EnableExternal", type_ = "boolean", json_path = ".status.enableExternal"),
    printcolumn(name = "EnableBfd", type_ = "boolean", json_path = ".status.enableBfd"),
    printcolumn(name = "Standby", type_ = "boolean", json_path = ".status.standby"),
    printcolumn(name = "Subnets", type_ = "string", json_path = ".status.subnets"),
    printcolumn(name = "ExtraExternalSubnets", type_ = "string", json_path = ".status.extraExternalSubnets"),
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces"),
    printcolumn(name = "DefaultSubnet", type_ = "string", json_path = ".status.defaultLogicalSwitch"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VpcSpec {
    /// Namespaces whose pods belong to this VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Subnet of pods that choose none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_subnet: Option<String>,
    /// Routes by destination or source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub static_routes: Option<Vec<StaticRoute>>,
    /// Routes by match expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_routes: Option<Vec<PolicyRoute>>,
    /// VPCs that this one is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc_peerings: Option<Vec<VpcPeering>>,
    /// Whether the router is connected to the external subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_external: Option<bool>,
    /// Further external subnets that the router is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_external_subnets: Option<Vec<String>>,
    /// Whether routes to external gateways follow BFD (RFC 5880).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_bfd: Option<bool>,
    /// Router port that runs BFD sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_port: Option<BfdPort>,
}

/// A static route of the logical router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticRoute {
    /// `policyDst` (default) matches the destination, `policySrc` the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['', 'policyDst', 'policySrc']", "must be policyDst or policySrc"))]
    pub policy: Option<String>,
    /// Prefix that the route matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Address of the next hop.
    #[serde(default, rename = "nextHopIP", skip_serializing_if = "Option::is_none")]
    pub next_hop_ip: Option<String>,
    /// `ecmp_symmetric_reply`, or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecmp_mode: Option<String>,
    /// BFD session that guards the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_id: Option<String>,
    /// Route table; empty for the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table: Option<String>,
}

/// A policy route of the logical router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRoute {
    /// 0 to 32,767; the highest matching priority wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self >= 0 && self <= 32767", "must lie between 0 and 32767"))]
    pub priority: Option<i32>,
    /// OVN match expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#match: Option<String>,
    /// `allow`, `drop` or `reroute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['allow', 'drop', 'reroute']", "must be allow, drop or reroute"))]
    pub action: Option<String>,
    /// Next hops of `reroute`, comma-separated.
    #[serde(default, rename = "nextHopIP", skip_serializing_if = "Option::is_none")]
    pub next_hop_ip: Option<String>,
}

/// A connection to another VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcPeering {
    /// Name of the other VPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_vpc: Option<String>,
    /// Address and prefix length of this side of the link.
    #[serde(default, rename = "localConnectIP", skip_serializing_if = "Option::is_none")]
    pub local_connect_ip: Option<String>,
}

/// Router port that runs BFD sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BfdPort {
    /// Whether the port exists.
    #[serde(default)]
    pub enabled: bool,
    /// Address of the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Nodes that may host the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// What is observed of a VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VpcStatus {
    /// Why the VPC is or is not as wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the router exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<bool>,
    /// Whether this is the default VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Subnet of pods that choose none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_logical_switch: Option<String>,
    /// Name of the logical router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<String>,
    /// Names of the load balancers by protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_load_balancer: Option<String>,
    /// UDP load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_load_balancer: Option<String>,
    /// SCTP load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp_load_balancer: Option<String>,
    /// TCP load balancer with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_session_load_balancer: Option<String>,
    /// UDP load balancer with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_session_load_balancer: Option<String>,
    /// SCTP load balancer with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp_session_load_balancer: Option<String>,
    /// Subnets of the VPC, sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<String>>,
    /// VPCs connected to this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_peerings: Option<Vec<String>>,
    /// Whether the router is connected to the external subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_external: Option<bool>,
    /// Further external subnets connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_external_subnets: Option<Vec<String>>,
    /// Whether BFD guards the routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_bfd: Option<bool>,
    /// State of the BFD port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_port: Option<BfdPortStatus>,
}

/// State of the BFD port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BfdPortStatus {
    /// Name of the router port.
    pub name: Option<String>,
    /// Address of the port.
    pub ip: Option<String>,
    /// Nodes that host the port.
    pub nodes: Option<Vec<String>>,
}
