//! `VpcDns`: name servers inside a VPC.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of the name servers of a VPC.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "VpcDns",
    plural = "vpc-dnses",
    singular = "vpc-dns",
    shortname = "vpc-dns",
    status = "VpcDnsStatus",
    doc = "CoreDNS inside a VPC that is not the default one, so that its pods resolve the names of services.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Active", type_ = "boolean", json_path = ".status.active"),
    printcolumn(name = "Vpc", type_ = "string", json_path = ".spec.vpc"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "Corefile", type_ = "string", json_path = ".spec.corefile")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("vpc", "the VPC that is served"),
    validation = rules::required("subnet", "the subnet that the servers are in")
)]
pub struct VpcDnsSpec {
    /// VPC that is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub vpc: Option<String>,
    /// Subnet of the VPC that the servers are in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub subnet: Option<String>,
    /// Number of servers, 1 to 3; 0 or absent for the default of 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3))]
    pub replicas: Option<i32>,
    /// ConfigMap with the Corefile.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "vpc-dns-corefile"))]
    pub corefile: Option<String>,
}

/// What is observed of the name servers of a VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcDnsStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether this object is the one that serves its VPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}
