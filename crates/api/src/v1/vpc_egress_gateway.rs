//! `VpcEgressGateway`: pods through which chosen traffic of a VPC leaves the cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gateway::{Bfd, Resources, Workload};
use super::observability::Observability;
use super::rules;
use crate::Condition;

/// What is wanted of an egress gateway.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "VpcEgressGateway",
    plural = "vpc-egress-gateways",
    singular = "vpc-egress-gateway",
    namespaced,
    shortname = "vpc-egress-gw",
    shortname = "veg",
    status = "VpcEgressGatewayStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.labelSelector"),
    doc = "Pods through which chosen traffic of a VPC leaves the cluster, under their external addresses or its own.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Vpc", type_ = "string", json_path = ".spec.vpc"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "bfd", type_ = "boolean", json_path = ".spec.bfd.enabled"),
    printcolumn(name = "External Subnet", type_ = "string", json_path = ".spec.externalSubnet"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "Internal IPs", type_ = "string", json_path = ".status.internalIPs", priority = 1),
    printcolumn(name = "External IPs", type_ = "string", json_path = ".status.externalIPs", priority = 1),
    printcolumn(name = "Working Nodes", type_ = "string", json_path = ".status.workload.nodes", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.internalIPs) || size(self.internalIPs) == 0 || size(self.internalIPs) >= self.replicas").message("internalIPs must have an entry per replica").field_path(".internalIPs"),
    validation = Rule::new("!has(self.externalIPs) || size(self.externalIPs) == 0 || size(self.externalIPs) >= self.replicas").message("externalIPs must have an entry per replica").field_path(".externalIPs"),
    validation = Rule::new("!(has(self.internalIPs) && size(self.internalIPs) != 0 && has(self.internalIPPool) && size(self.internalIPPool) > 0)").message("internalIPs and internalIPPool exclude each other").field_path(".internalIPs"),
    validation = Rule::new("!(has(self.externalIPs) && size(self.externalIPs) != 0 && has(self.externalIPPool) && size(self.externalIPPool) > 0)").message("externalIPs and externalIPPool exclude each other").field_path(".externalIPs"),
    validation = ("(has(self.policies) && size(self.policies) != 0) || (has(self.selectors) && size(self.selectors) != 0)", "one policy or one selector is needed, or no traffic uses the gateway")
)]
pub struct VpcEgressGatewaySpec {
    /// VPC whose traffic leaves; the default one when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Number of pods, 0 to 10. More than one share the traffic, and the others take over when one fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10), extend("default" = 1))]
    pub replicas: Option<i32>,
    /// Prefix of the workload's name, which goes on with that of the gateway. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*[-\.]?$"))]
    #[x_kube(validation = ("self == oldSelf", "the prefix cannot change"))]
    pub prefix: Option<String>,
    /// Image of the pods; the controller's choice when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Subnet of the VPC that the inner interfaces are in; the VPC's default one when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal_subnet: Option<String>,
    /// Subnet that the outer interfaces are in.
    #[schemars(length(min = 1, max = 253))]
    pub external_subnet: String,
    /// Addresses of the inner interfaces, one entry per pod, both families joined by a comma; chosen when empty. It excludes
    /// `internalIPPool`.
    #[serde(rename = "internalIPs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_ip_pair())]
    pub internal_ips: Option<Vec<String>>,
    /// Addresses of the outer interfaces, one entry per pod, both families joined by a comma; chosen when empty. It excludes
    /// `externalIPPool`.
    #[serde(rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_ip_pair())]
    pub external_ips: Option<Vec<String>>,
    /// IPPool that the addresses of the inner interfaces come from.
    #[serde(rename = "internalIPPool", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub internal_ip_pool: Option<String>,
    /// IPPool that the addresses of the outer interfaces come from.
    #[serde(rename = "externalIPPool", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub external_ip_pool: Option<String>,
    /// Traffic that leaves through the gateway, by subnet and prefix. One policy or selector is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub policies: Option<Vec<EgressPolicy>>,
    /// Pods whose traffic leaves through the gateway. One policy or selector is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selectors: Option<Vec<EgressSelector>>,
    /// Gateway pod that traffic takes: any (`Cluster`), or the one on its own node while there is one (`Local`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Local", "Cluster"]), extend("default" = "Cluster"))]
    pub traffic_policy: Option<String>,
    /// BFD between the pods and the VPC's router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// BgpConf with which the pods announce routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp_conf: Option<String>,
    /// EvpnConf with which the pods announce routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evpn_conf: Option<String>,
    /// Nodes that may run the pods: those that one of the entries selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<Vec<EgressNodeSelector>>,
    /// Taints of nodes that the pods tolerate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Whether two pods on one node are forbidden (`Required`) or avoided (`Preferred`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Required", "Preferred"]), extend("default" = "Required"))]
    pub pod_anti_affinity: Option<String>,
    /// Compute resources of each pod; the controller's choice when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Bandwidth of each pod; unlimited when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Metrics and logs of the connections that pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
}

/// What is observed of an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VpcEgressGatewayStatus {
    /// Whether all pods are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub ready: Option<bool>,
    /// `Pending` before work began, `Processing` during it, `Completed` after it.
    #[schemars(extend("enum" = ["Pending", "Processing", "Completed"]), extend("default" = "Pending"))]
    pub phase: String,
    /// Number of pods wanted, 0 to 10, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub replicas: Option<i32>,
    /// Selector of the pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// Addresses of the inner interfaces.
    #[serde(rename = "internalIPs", skip_serializing_if = "Option::is_none")]
    pub internal_ips: Option<Vec<String>>,
    /// Addresses of the outer interfaces.
    #[serde(rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    pub external_ips: Option<Vec<String>>,
    /// Why the gateway is, or is not, as wanted: one entry per aspect, such as `Ready`.
    pub conditions: Vec<Condition>,
    /// The workload of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

/// Traffic that leaves through an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicy {
    /// Whether the traffic takes the external address of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub snat: Option<bool>,
    /// Prefixes of the VPC whose traffic leaves through the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_ip_or_cidr())]
    pub ip_blocks: Option<Vec<String>>,
    /// Subnets of the VPC whose traffic leaves through the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<String>>,
}

/// Pods whose traffic leaves through an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressSelector {
    /// Namespaces of the pods, by their labels; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("has(self.matchLabels) || has(self.matchExpressions)", "namespaceSelector needs matchLabels or matchExpressions"))]
    pub namespace_selector: Option<LabelSelector>,
    /// The pods, by their labels; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("has(self.matchLabels) || has(self.matchExpressions)", "podSelector needs matchLabels or matchExpressions"))]
    pub pod_selector: Option<LabelSelector>,
}

/// Nodes that may run the pods of an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressNodeSelector {
    /// Labels of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Conditions on the labels of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<NodeSelectorRequirement>>,
    /// Conditions on the fields of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_fields: Option<Vec<NodeSelectorRequirement>>,
}

/// Bandwidth of each pod of an egress gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Bandwidth towards the VPC: a number of Mbit/s, or bits per second with a unit, such as `100M` or `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 2147483647, "maxLength" = 32, "pattern" = r"^([0-9]+|([0-9]+(\.[0-9]+)?|\.[0-9]+)(M|Mi|G|Gi))$"))]
    pub ingress: Option<IntOrString>,
    /// Bandwidth out of the VPC: a number of Mbit/s, or bits per second with a unit, such as `100M` or `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 0, "maximum" = 2147483647, "maxLength" = 32, "pattern" = r"^([0-9]+|([0-9]+(\.[0-9]+)?|\.[0-9]+)(M|Mi|G|Gi))$"))]
    pub egress: Option<IntOrString>,
}
