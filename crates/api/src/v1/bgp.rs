//! `BgpConf` and `EvpnConf`: how egress gateways announce routes.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;

/// BGP parameters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "BgpConf",
    plural = "bgp-confs",
    singular = "bgp-conf",
    doc = "BGP (RFC 4271) parameters that egress gateways name.",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfSpec {
    /// Own autonomous system number, 1 to 4294967295.
    #[serde(rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub local_asn: Option<u32>,
    /// Autonomous system number of the neighbours, 1 to 4294967295.
    #[serde(rename = "peerASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub peer_asn: Option<u32>,
    /// BGP identifier, written as an IPv4 address; chosen when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IPV4)]
    pub router_id: Option<String>,
    /// Addresses of the neighbours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_ip())]
    pub neighbours: Option<Vec<String>>,
    /// Password of the sessions (RFC 2385).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// How long a silent neighbour counts as alive, such as `90s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DURATION)]
    pub hold_time: Option<String>,
    /// Interval of keep-alive messages, such as `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DURATION)]
    pub keepalive_time: Option<String>,
    /// Wait before a failed connection is tried again, such as `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DURATION)]
    pub connect_time: Option<String>,
    /// Whether neighbours of another autonomous system may be more than one hop away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ebgp_multi_hop: Option<bool>,
    /// Whether neighbours keep the routes while a gateway restarts (RFC 4724).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<bool>,
}

/// EVPN parameters.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "EvpnConf",
    plural = "evpn-confs",
    singular = "evpn-conf",
    doc = "EVPN (RFC 7432) parameters that egress gateways name.",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct EvpnConfSpec {
    /// VXLAN network identifier, 1 to 16777215.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16777215))]
    pub vni: Option<i32>,
    /// Route targets that are imported and exported, such as `65000:100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_route_target())]
    pub route_targets: Option<Vec<String>>,
}
