//! `SwitchLBRule` and `RouterLBRule`: load balancers beside Kubernetes services.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of a load balancer in a VPC.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "SwitchLBRule",
    root = "SwitchLbRule",
    plural = "switch-lb-rules",
    singular = "switch-lb-rule",
    shortname = "slr",
    status = "SwitchLbRuleStatus",
    doc = "A load balancer inside a VPC, with an address of its own choice.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "vip", type_ = "string", json_path = ".spec.vip"),
    printcolumn(name = "port(s)", type_ = "string", json_path = ".status.ports"),
    printcolumn(name = "service", type_ = "string", json_path = ".status.service"),
    printcolumn(name = "age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("vip", "the address of the load balancer")
)]
pub struct SwitchLbRuleSpec {
    /// Address of the load balancer, one per family joined by a comma.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub vip: Option<String>,
    /// Namespace of the pods behind the rule and of its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, `key:value`, of the pods behind the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 512)))]
    #[x_kube(validation = rules::each_label())]
    pub selector: Option<Vec<String>>,
    /// Addresses behind the rule, instead of `selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_ip_pair())]
    pub endpoints: Option<Vec<String>>,
    /// Ports of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ports: Option<Vec<LbPort>>,
    /// `ClientIP`: connections of one client go to one endpoint; `None`, also when empty: each goes to any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "None", "ClientIP"]))]
    pub session_affinity: Option<String>,
}

/// What is observed of a load balancer in a VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SwitchLbRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Ports in force, such as `80/TCP`, joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Service of the rule, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// What is wanted of a load balancer at the edge of a VPC.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "RouterLBRule",
    root = "RouterLbRule",
    plural = "router-lb-rules",
    singular = "router-lb-rule",
    shortname = "rlr",
    status = "RouterLbRuleStatus",
    doc = "A load balancer at the edge of a VPC, with the external address of an OvnEip.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "ovnEip", type_ = "string", json_path = ".spec.ovnEip"),
    printcolumn(name = "vpc", type_ = "string", json_path = ".spec.vpc"),
    printcolumn(name = "port(s)", type_ = "string", json_path = ".status.ports"),
    printcolumn(name = "service", type_ = "string", json_path = ".status.service"),
    printcolumn(name = "age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::required("ovnEip", "the OvnEip whose address is used")
)]
pub struct RouterLbRuleSpec {
    /// VPC that has the load balancer; the default one when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// OvnEip whose address is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ovn_eip: Option<String>,
    /// Namespace of the pods behind the rule and of its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, `key:value`, of the pods behind the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = 512)))]
    #[x_kube(validation = rules::each_label())]
    pub selector: Option<Vec<String>>,
    /// Addresses behind the rule, instead of `selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_ip_pair())]
    pub endpoints: Option<Vec<String>>,
    /// Ports of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ports: Option<Vec<LbPort>>,
    /// `ClientIP`: connections of one client go to one endpoint; `None`, also when empty: each goes to any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "None", "ClientIP"]))]
    pub session_affinity: Option<String>,
}

/// What is observed of a load balancer at the edge of a VPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouterLbRuleStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Ports in force, such as `80/TCP`, joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Service of the rule, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A port of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LbPort {
    /// Name of the port, unique in the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port of the load balancer, 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Port of the endpoints, 1 to 65535; 0 or absent for the same as `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub target_port: Option<i32>,
    /// `TCP`, `UDP` or `SCTP`; `TCP` when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "TCP", "UDP", "SCTP"]))]
    pub protocol: Option<String>,
}
