//! Metrics and logs of the connections that pass an egress gateway.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gateway::Resources;
use super::rules;

/// Metrics and logs of an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// What is reported of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// Metrics of the interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_metrics: Option<Switch>,
    /// ServiceMonitor through which Prometheus finds the metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitor>,
    /// Compute resources of the container that reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// What is reported of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conntrack {
    /// Metrics of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Switch>,
    /// Log of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<ConntrackLog>,
}

/// Something that is on or off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// Whether it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// Metadata of a ServiceMonitor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitor {
    /// Labels of the ServiceMonitor, by which Prometheus selects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the ServiceMonitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Log of connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackLog {
    /// Whether connections are logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What is logged of a connection: its `start`, its `end`, or both; both when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2), extend("items" = { "type": "string", "enum": ["start", "end"] }))]
    pub events: Option<Vec<String>>,
    /// Which connections are logged; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<ConntrackFilters>,
    /// How much is logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<LogRateLimit>,
}

/// How much is logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogRateLimit {
    /// Records per second in the long run, 1 to 100000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub records_per_second: Option<i32>,
    /// Records that may come at once, 1 to 1000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub burst: Option<i32>,
}

/// Which connections are logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackFilters {
    /// Connections to log; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub include: Option<Vec<ConntrackFilter>>,
    /// Connections not to log, of those that `include` chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub exclude: Option<Vec<ConntrackFilter>>,
}

/// Connections that fit all of the terms given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackFilter {
    /// Address families: `ipv4`, `ipv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2), extend("items" = { "type": "string", "enum": ["ipv4", "ipv6"] }))]
    pub address_families: Option<Vec<String>>,
    /// Translations: of the source (`snat`), the destination (`dnat`) or both (`snat_dnat`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3), extend("items" = { "type": "string", "enum": ["snat", "dnat", "snat_dnat"] }))]
    pub nat_types: Option<Vec<String>>,
    /// Protocols: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 6), extend("items" = { "type": "string", "enum": ["tcp", "udp", "sctp", "icmp", "icmpv6", "other"] }))]
    pub protocols: Option<Vec<String>>,
    /// The connection as the gateway received it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<ConntrackTuple>,
    /// The connection as the gateway sent it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated: Option<ConntrackTuple>,
}

/// Addresses and ports of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackTuple {
    /// Prefixes of the source.
    #[serde(rename = "sourceCIDRs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_cidr())]
    pub source_cidrs: Option<Vec<String>>,
    /// Prefixes of the destination.
    #[serde(rename = "destinationCIDRs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_cidr())]
    pub destination_cidrs: Option<Vec<String>>,
    /// Ports of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub source_ports: Option<Vec<PortRange>>,
    /// Ports of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub destination_ports: Option<Vec<PortRange>>,
}

/// Ports from `start` to `end`, both included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.start <= self.end").message("start must not be above end").field_path(".start")
)]
pub struct PortRange {
    /// First port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub start: i32,
    /// Last port, 1 to 65535; not below `start`.
    #[schemars(range(min = 1, max = 65535))]
    pub end: i32,
}
