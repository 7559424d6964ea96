//! What gateways that run as pods share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// BFD (RFC 5880) between a gateway and the VPC's router: a gateway that falls silent gets no traffic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Whether sessions are run. The VPC's `bfdPort` must be enabled too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub enabled: Option<bool>,
    /// Shortest interval between packets that is accepted, 1 to 3600000 milliseconds.
    #[serde(rename = "minRX", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600000), extend("default" = 1000))]
    pub min_rx: Option<i32>,
    /// Shortest interval between packets that are sent, 1 to 3600000 milliseconds.
    #[serde(rename = "minTX", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600000), extend("default" = 1000))]
    pub min_tx: Option<i32>,
    /// Packets that may be missing before the gateway counts as gone, 1 to 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255), extend("default" = 3))]
    pub multiplier: Option<i32>,
}

/// The workload that runs a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// API version of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// Kind of the workload: `Deployment` or `StatefulSet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Nodes that run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

/// Compute resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// The most that the container may use, as quantities by resource, such as `memory: 512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, IntOrString>>,
    /// What is set aside for the container, as quantities by resource, such as `cpu: 100m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, IntOrString>>,
    /// Dynamically allocated resources of the pod that the container uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<ResourceClaim>>,
}

/// A dynamically allocated resource that a container uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceClaim {
    /// Name of the claim in the pod.
    pub name: String,
    /// Request of the claim to use; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}
