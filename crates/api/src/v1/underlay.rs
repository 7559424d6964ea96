//! `ProviderNetwork` and `Vlan`: how subnets are connected to physical networks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What is wanted of a physical network.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "ProviderNetwork",
    plural = "provider-networks",
    singular = "provider-network",
    shortname = "pn",
    status = "ProviderNetworkStatus",
    doc = "A physical network: on each of its nodes, an Open vSwitch bridge with a network interface of the node.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "DefaultInterface", type_ = "string", json_path = ".spec.defaultInterface"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready")
)]
#[serde(rename_all = "camelCase")]
pub struct ProviderNetworkSpec {
    /// Interface that nodes give to the bridge, unless `customInterfaces` names another: at most 15 characters, neither
    /// blanks nor slashes.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[^/\s]+$"))]
    pub default_interface: String,
    /// Nodes that give another interface to the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_interfaces: Option<Vec<CustomInterface>>,
    /// Nodes that are not part of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_nodes: Option<Vec<String>>,
    /// Nodes that are part of the network, by their labels; all when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Whether bridge and interface swap their names, so that what is configured for the interface applies to the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_link_name: Option<bool>,
    /// Whether a node creates a sub-interface such as `eth0.100` that is named here and does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_create_vlan_subinterfaces: Option<bool>,
    /// Whether VLAN sub-interfaces of the interface go on working once the bridge has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_vlan_interfaces: Option<bool>,
    /// VLAN sub-interfaces, such as `eth0.100`, that move to the bridge; all of the interface when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), inner(length(max = 15)))]
    pub vlan_interfaces: Option<Vec<String>>,
}

/// What is observed of a physical network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderNetworkStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether all its nodes are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Nodes whose bridge is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_nodes: Option<Vec<String>>,
    /// Nodes whose bridge is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready_nodes: Option<Vec<String>>,
    /// Vlans on the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlans: Option<Vec<String>>,
}

/// Nodes that give another interface to the bridge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomInterface {
    /// Interface of these nodes: at most 15 characters, neither blanks nor slashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15), regex(pattern = r"^[^/\s]+$"))]
    pub interface: Option<String>,
    /// Names of the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

/// What is wanted of a VLAN.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "Vlan",
    plural = "vlans",
    singular = "vlan",
    shortname = "vlan",
    status = "VlanStatus",
    doc = "A VLAN (IEEE 802.1Q) of a physical network, which subnets name to be connected to it.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "ID", type_ = "string", json_path = ".spec.id"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"),
    printcolumn(name = "conflict", type_ = "boolean", json_path = ".status.conflict")
)]
#[serde(rename_all = "camelCase")]
pub struct VlanSpec {
    /// VLAN identifier, 0 to 4095; 0 for untagged frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4095))]
    pub id: Option<i32>,
    /// Older name of `id`, 0 to 4095.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4095))]
    pub vlan_id: Option<i32>,
    /// ProviderNetwork that the VLAN is on.
    #[schemars(length(min = 1, max = 253))]
    pub provider: String,
    /// Older way to name the interface; not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_interface_name: Option<String>,
}

impl VlanSpec {
    /// The VLAN identifier; 0 for untagged frames. What the schema would have refused is no identifier: such a one counts as 0.
    #[must_use]
    pub fn identifier(&self) -> u16 {
        let id = self.id.filter(|id| *id != 0).or(self.vlan_id);
        id.and_then(|id| u16::try_from(id).ok()).filter(|id| *id < 4096).unwrap_or(0)
    }
}

/// What is observed of a VLAN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VlanStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Whether another Vlan has the same identifier on the same network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<bool>,
    /// Subnets on the VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<Vec<String>>,
}
