//! `VpcNatGateway`: pods between a VPC and external networks that translate addresses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gateway::{Bfd, Workload};
use super::rules;

/// What is wanted of a NAT gateway.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "VpcNatGateway",
    plural = "vpc-nat-gateways",
    singular = "vpc-nat-gateway",
    shortname = "vpc-nat-gw",
    status = "VpcNatGatewayStatus",
    doc = "Pods between a VPC and external networks that translate addresses as the Iptables rules say.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "Vpc", type_ = "string", json_path = ".spec.vpc"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "IPs", type_ = "string", json_path = ".status.lanIp"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "BFD", type_ = "boolean", json_path = ".spec.bfd.enabled"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VpcNatGatewaySpec {
    /// VPC that the gateway serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Subnet of the VPC that the gateway's inner interface is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Subnets of the gateway's outer interfaces; the default external one when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_subnets: Option<Vec<String>>,
    /// Address of the inner interface, one per family joined by a comma; chosen when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub lan_ip: Option<String>,
    /// Number of pods, at least 1. More than one share the traffic, and the others take over when one fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// BFD between the pods and the VPC's router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Namespace of the pods; that of the controller when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, `key: value`, of the nodes that may run the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 512)))]
    #[x_kube(validation = rules::each_label())]
    pub selector: Option<Vec<String>>,
    /// Taints of nodes that the pods tolerate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Where the pods should and should not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Annotations of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// QoSPolicy that limits the bandwidth of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// Whether the outer interfaces have no address of their own.
    #[serde(rename = "noDefaultEIP", skip_serializing_if = "Option::is_none")]
    pub no_default_eip: Option<bool>,
    /// Routes of the pods towards the VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub routes: Option<Vec<GatewayRoute>>,
    /// Subnets of the VPC whose traffic leaves through the gateway, when it has several replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_subnets: Option<Vec<String>>,
    /// Prefixes of the VPC whose traffic leaves through the gateway, when it has several replicas.
    #[serde(rename = "internalCIDRs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_cidr())]
    pub internal_cidrs: Option<Vec<String>>,
    /// Announcement of the external addresses through BGP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp_speaker: Option<BgpSpeaker>,
}

/// What is observed of a NAT gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcNatGatewayStatus {
    /// Whether all pods are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Number of pods wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Addresses of the inner interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lan_ip: Option<String>,
    /// QoSPolicy in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// Subnets of the outer interfaces, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_subnets: Option<Vec<String>>,
    /// Subnets whose traffic leaves through the gateway, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_subnets: Option<Vec<String>>,
    /// Prefixes whose traffic leaves through the gateway, as in force.
    #[serde(rename = "internalCIDRs", skip_serializing_if = "Option::is_none")]
    pub internal_cidrs: Option<Vec<String>>,
    /// Labels of the nodes that may run the pods, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<Vec<String>>,
    /// Taints that the pods tolerate, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Where the pods run, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The workload of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

/// A route of a gateway's pods towards the VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRoute {
    /// Prefix that the route matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP_OR_CIDR)]
    pub cidr: Option<String>,
    /// Address of the next hop, or `gateway` for the gateway of the inner subnet.
    #[serde(rename = "nextHopIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP_OR_GATEWAY)]
    pub next_hop_ip: Option<String>,
}

/// Announcement of external addresses through BGP (RFC 4271).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpSpeaker {
    /// Whether a speaker runs beside the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Own autonomous system number, 1 to 4294967295.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub asn: Option<u32>,
    /// Autonomous system number of the neighbours, 1 to 4294967295.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub remote_asn: Option<u32>,
    /// Addresses of the neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_ip())]
    pub neighbors: Option<Vec<String>>,
    /// How long a silent neighbour counts as alive, such as `90s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DURATION)]
    pub hold_time: Option<String>,
    /// BGP identifier, written as an IPv4 address; chosen when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub router_id: Option<String>,
    /// Password of the sessions (RFC 2385).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whether neighbours keep the routes while the speaker restarts (RFC 4724).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_graceful_restart: Option<bool>,
    /// Further arguments of the speaker's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_args: Option<Vec<String>>,
}
