//! Narrow views of core objects: what the controller and the agents read of them, and nothing else.
//!
//! A typical pod takes 60 KB as a full typed object and 3 KB as a view, and a change of anything not named here
//! makes an equal view, which wakes nobody.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::{Deserialize, Deserializer, Serialize};

use crate::v1;

macro_rules! view {
    ($(#[$doc:meta])* $name:ident of $kind:ty { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        view! {
            $(#[$doc])* $name in <$kind as k8s_openapi::Resource>::Scope,
            <$kind as k8s_openapi::Resource>::GROUP, <$kind as k8s_openapi::Resource>::VERSION,
            <$kind as k8s_openapi::Resource>::API_VERSION, <$kind as k8s_openapi::Resource>::KIND,
            <$kind as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            { $($(#[$field_doc])* $field: $ty,)* }
        }
    };
    ($(#[$doc:meta])* $name:ident in $scope:ty, $group:expr, $version:expr, $api_version:expr, $kind:expr, $plural:expr;
        { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Without `managedFields`, which are half of an object and nobody reads.
            #[serde(deserialize_with = "metadata")]
            pub metadata: ObjectMeta,
            $($(#[$field_doc])* #[serde(default)] pub $field: $ty,)*
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = $scope;
            fn kind(_: &()) -> Cow<'_, str> { $kind.into() }
            fn group(_: &()) -> Cow<'_, str> { $group.into() }
            fn version(_: &()) -> Cow<'_, str> { $version.into() }
            fn api_version(_: &()) -> Cow<'_, str> { $api_version.into() }
            fn plural(_: &()) -> Cow<'_, str> { $plural.into() }
            fn meta(&self) -> &ObjectMeta { &self.metadata }
            fn meta_mut(&mut self) -> &mut ObjectMeta { &mut self.metadata }
        }
    };
}

/// Reads metadata but for `managedFields`: to parse those takes longer than all the rest.
fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Narrow {
        name: Option<String>,
        generate_name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        deletion_grace_period_seconds: Option<i64>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
        finalizers: Option<Vec<String>>,
    }
    let read = Narrow::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        generate_name: read.generate_name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        generation: read.generation,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        deletion_grace_period_seconds: read.deletion_grace_period_seconds,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        finalizers: read.finalizers,
        ..ObjectMeta::default()
    })
}

view! {
    /// A pod: where it runs and whether it still lives.
    PodView of core::Pod {
        /// Placement.
        spec: PodSpecView,
        /// Life cycle.
        status: PodStatusView,
    }
}

view! {
    /// A node: its name, labels, annotations and addresses.
    NodeView of core::Node {
        /// Addresses.
        status: NodeStatusView,
    }
}

view! {
    /// A namespace: its labels and annotations.
    NamespaceView of core::Namespace {}
}

view! {
    /// A StatefulSet: which ordinals its pods have.
    StatefulSetView of apps::StatefulSet {
        /// Number of pods, and the first.
        spec: StatefulSetSpecView,
    }
}

view! {
    /// A virtual machine of KubeVirt, running or not: that it is there.
    VirtualMachineView in k8s_openapi::NamespaceResourceScope,
    KUBEVIRT, "v1", "kubevirt.io/v1", "VirtualMachine", "virtualmachines"; {}
}

view! {
    /// An `IP` object.
    IpView in k8s_openapi::ClusterResourceScope,
    "kubeovn.io", "v1", "kubeovn.io/v1", "IP", "ips"; {
        /// What it holds, and for whom.
        spec: v1::IpSpec,
    }
}

impl From<&IpView> for v1::Ip {
    fn from(view: &IpView) -> Self {
        let mut object = Self::new("", view.spec.clone());
        object.metadata = view.metadata.clone();
        object
    }
}

view! {
    /// A running instance of a virtual machine of KubeVirt: that it is there, and where.
    VirtualMachineInstanceView in k8s_openapi::NamespaceResourceScope,
    KUBEVIRT, "v1", "kubevirt.io/v1", "VirtualMachineInstance", "virtualmachineinstances"; {
        /// Where it runs.
        status: InstanceStatusView,
    }
}

view! {
    /// A `NetworkAttachmentDefinition`.
    NetworkAttachmentDefinitionView in k8s_openapi::NamespaceResourceScope,
    "k8s.cni.cncf.io", "v1", "k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition", "network-attachment-definitions"; {
        /// How the network is configured.
        spec: NetworkAttachmentDefinitionSpecView,
    }
}

/// What is read of `NetworkAttachmentDefinition.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachmentDefinitionSpecView {
    /// CNI configuration, as JSON; see [`crate::networks::Definition::parse`].
    #[serde(default)]
    pub config: Box<str>,
}

/// API group of KubeVirt's kinds.
pub const KUBEVIRT: &str = "kubevirt.io";

/// Label of a pod that was made for a virtual machine to move into: the uid of the migration.
pub const MIGRATION_JOB: &str = "kubevirt.io/migrationJobUID";

/// What is read of `VirtualMachineInstance.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatusView {
    /// Node that the machine runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Its last migration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_state: Option<MigrationStateView>,
}

/// What is read of `VirtualMachineInstance.status.migrationState`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationStateView {
    /// Identity of the migration, which the pod that was made for it has as a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_uid: Option<String>,
    /// Whether it is over.
    #[serde(default)]
    pub completed: bool,
    /// Whether the machine stayed where it was.
    #[serde(default)]
    pub failed: bool,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_timestamp: Option<Time>,
}

/// What is read of `Pod.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpecView {
    /// Node that the pod is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    /// Whether the pod uses its node's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
}

/// What is read of `Pod.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatusView {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Box<str>>,
}

/// What is read of `StatefulSet.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSetSpecView {
    /// Number of pods; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Where the ordinals begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinals: Option<OrdinalsView>,
}

/// What is read of `StatefulSet.spec.ordinals`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrdinalsView {
    /// First ordinal; 0 by default.
    #[serde(default)]
    pub start: u32,
}

/// What is read of `Node.status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusView {
    /// Addresses of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
}

/// One address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP` or `Hostname`.
    #[serde(default, rename = "type")]
    pub kind: Box<str>,
    /// The address.
    #[serde(default)]
    pub address: Box<str>,
}

impl NodeView {
    /// The node's own addresses (`InternalIP`), the first of each family, IPv4 first.
    #[must_use]
    pub fn internal_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for shown in self.status.addresses.iter().filter(|address| &*address.kind == "InternalIP") {
            if let Ok(address) = shown.address.parse::<IpAddr>()
                && addresses.iter().all(|known| known.is_ipv4() != address.is_ipv4())
            {
                addresses.push(address);
            }
        }
        addresses.sort_unstable();
        addresses
    }
}

impl PodView {
    /// Whether the pod needs no network any more: it ended, or uses its node's.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}
