//! `Vpc`: an isolated layer-3 domain, carried by one logical router.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of a VPC.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "Vpc",
    plural = "vpcs",
    singular = "vpc",
    shortname = "vpc",
    status = "VpcStatus",
    doc = "An isolated layer-3 domain: a logical router, the subnets that it connects, its routes and its ways out. Addresses of different VPCs may overlap.",
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
    /// Namespaces whose pods belong to this VPC. A namespace is in one VPC at most; those of no VPC are in the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Subnet of the pods in `namespaces` that choose none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_subnet: Option<String>,
    /// Routes by destination or source prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub static_routes: Option<Vec<StaticRoute>>,
    /// Routes by match expression. They come before static routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub policy_routes: Option<Vec<PolicyRoute>>,
    /// Links to other VPCs. Both ends must name each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub vpc_peerings: Option<Vec<VpcPeering>>,
    /// Whether the router has a port in the external subnet, as OVN NAT needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_external: Option<bool>,
    /// Further external subnets that the router has ports in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_external_subnets: Option<Vec<String>>,
    /// Whether routes to external gateways follow BFD sessions (RFC 5880): a gateway that does not answer gets no traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_bfd: Option<bool>,
    /// Router port that runs the BFD sessions of egress gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_port: Option<BfdPort>,
}

/// What is observed of a VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether the logical router exists.
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
    /// Name of the load balancer of TCP services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_load_balancer: Option<String>,
    /// Name of the load balancer of UDP services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_load_balancer: Option<String>,
    /// Name of the load balancer of SCTP services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp_load_balancer: Option<String>,
    /// Name of the load balancer of TCP services with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_session_load_balancer: Option<String>,
    /// Name of the load balancer of UDP services with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_session_load_balancer: Option<String>,
    /// Name of the load balancer of SCTP services with session affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp_session_load_balancer: Option<String>,
    /// Subnets of the VPC, sorted by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<String>>,
    /// VPCs that this one is linked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc_peerings: Option<Vec<String>>,
    /// Whether the router has a port in the external subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_external: Option<bool>,
    /// Further external subnets that the router has ports in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_external_subnets: Option<Vec<String>>,
    /// Whether routes to external gateways follow BFD sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_bfd: Option<bool>,
    /// State of the BFD port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_port: Option<BfdPortStatus>,
}

/// A route of the logical router by destination or source prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticRoute {
    /// What `cidr` is compared with: the destination (`policyDst`, also when empty) or the source (`policySrc`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "policyDst", "policySrc"]))]
    pub policy: Option<String>,
    /// Prefix or address that the route matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP_OR_CIDR)]
    pub cidr: Option<String>,
    /// Address of the next hop.
    #[serde(rename = "nextHopIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP)]
    pub next_hop_ip: Option<String>,
    /// `ecmp_symmetric_reply`: replies return through the next hop that a connection came from. Empty for plain equal-cost
    /// multipath.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ecmp_symmetric_reply"]))]
    pub ecmp_mode: Option<String>,
    /// BFD session that the route depends on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_id: Option<String>,
    /// Route table that the route is in; empty for the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_table: Option<String>,
}

/// A route of the logical router by match expression.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.action) || self.action != 'reroute' || (has(self.nextHopIP) && self.nextHopIP != '')").message("action reroute needs a nextHopIP").field_path(".nextHopIP")
)]
pub struct PolicyRoute {
    /// 0 to 32767; of the routes that match, the one with the highest priority wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 32767))]
    pub priority: Option<i32>,
    /// OVN match expression, such as `ip4.src == 10.0.1.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<String>,
    /// What happens to a packet: `allow` routes it as usual, `drop` discards it, `reroute` sends it to `nextHopIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["allow", "drop", "reroute"]))]
    pub action: Option<String>,
    /// Next hops of `reroute`, joined by commas. The other actions ignore it.
    #[serde(rename = "nextHopIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    #[x_kube(validation = rules::ip_list())]
    pub next_hop_ip: Option<String>,
}

/// A link to another VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcPeering {
    /// Name of the other VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_vpc: Option<String>,
    /// Address of this side of the link with its prefix length, such as 169.254.0.1/30; one per family, joined by a comma.
    #[serde(rename = "localConnectIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::cidr_pair())]
    pub local_connect_ip: Option<String>,
}

/// Router port that runs BFD sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.enabled) || !self.enabled || (has(self.ip) && self.ip != '')").message("an enabled BFD port needs an ip").field_path(".ip")
)]
pub struct BfdPort {
    /// Whether the port exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub enabled: Option<bool>,
    /// Address of the port: one, or one per family joined by a comma. It must not be used elsewhere in the VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub ip: Option<String>,
    /// Nodes that may host the port; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// State of the BFD port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BfdPortStatus {
    /// Name of the router port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// Nodes that host the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}
