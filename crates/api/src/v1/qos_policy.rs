//! `QoSPolicy`: bandwidth of NAT gateways and of their addresses.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of a bandwidth policy.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "QoSPolicy",
    root = "QosPolicy",
    plural = "qos-policies",
    singular = "qos-policy",
    shortname = "qos",
    status = "QosPolicyStatus",
    doc = "Bandwidth limits that NAT gateways and their external addresses name.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Shared", type_ = "boolean", json_path = ".spec.shared"),
    printcolumn(name = "BindingType", type_ = "string", json_path = ".spec.bindingType")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::fixed("bindingType", "the bindingType of a policy cannot change"),
    validation = Rule::new("(has(self.shared) && self.shared) == (has(oldSelf.shared) && oldSelf.shared)").message("shared cannot change").field_path(".shared")
)]
pub struct QosPolicySpec {
    /// Whether several objects may use the policy, each with the whole bandwidth. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// What the policy applies to: an IptablesEIP (`EIP`) or a VpcNatGateway (`NATGW`). It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "EIP", "NATGW"]))]
    pub binding_type: Option<String>,
    /// The limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub bandwidth_limit_rules: Option<Vec<BandwidthLimitRule>>,
}

/// What is observed of a bandwidth policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QosPolicyStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether several objects may use the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// What the policy applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_type: Option<String>,
    /// The limits in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub bandwidth_limit_rules: Option<Vec<BandwidthLimitRule>>,
}

/// One bandwidth limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.matchType) || self.matchType != 'ip' || (has(self.matchValue) && self.matchValue != '')").message("matchType ip needs a matchValue").field_path(".matchValue")
)]
pub struct BandwidthLimitRule {
    /// Name of the limit, unique in the policy.
    pub name: String,
    /// Interface of the gateway that the limit is on, such as `net1`, for the binding type `NATGW`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Bandwidth in Mbit/s, as a decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DECIMAL)]
    pub rate_max: Option<String>,
    /// Burst in MB, as a decimal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::DECIMAL)]
    pub burst_max: Option<String>,
    /// Order of the limits; the lowest number is asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub priority: Option<i32>,
    /// Direction as the gateway sees it: `ingress` or `egress`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ingress", "egress"]))]
    pub direction: Option<String>,
    /// What the limit applies to: all traffic when empty, or what `matchValue` matches (`ip`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ip"]))]
    pub match_type: Option<String>,
    /// Traffic that the limit applies to: `src` or `dst`, a blank and a prefix, such as `dst 10.16.0.0/16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::QOS_MATCH)]
    pub match_value: Option<String>,
}
