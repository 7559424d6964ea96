//! The Kubernetes API as Ferrovia reads and writes it: the `kubeovn.io/v1` kinds with their admission rules,
//! the annotation keys with typed parsers, and narrow views of core objects.
//!
//! No I/O happens here, and no networking decisions are made.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
// The derive of custom resources repeats our attributes: one `printcolumn` per column.
#![allow(clippy::duplicated_attributes)]

pub mod annotations;
pub mod cidr;
pub mod condition;
pub mod event;
pub mod mac;
pub mod networks;
pub mod offload;
pub mod provider_network;
pub mod routes;
mod transit;
pub mod tuning;
pub mod v1;
mod vhost;
pub mod view;

pub use cidr::{Cidrs, CidrsError};
pub use condition::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use mac::{MacAddr, MacAddrError};
pub use offload::{Device, DeviceId, DeviceIdError};
pub use transit::{EGRESS_NETWORK, Egress, HostRanges, Transit, TransitError, egress_port, gateway_nodes, host_links};
pub use vhost::VhostUser;

/// API group of every kind in [`v1`].
pub const GROUP: &str = "kubeovn.io";

/// Value of `external_ids:vendor` on every northbound row that belongs to us.
pub const VENDOR: &str = "kube-ovn";

/// Finalizer that keeps an object until its addresses and rows are gone.
pub const FINALIZER: &str = "kubeovn.io/kube-ovn-controller";

/// Name of the default VPC and of its logical router.
pub const DEFAULT_VPC: &str = "ovn-cluster";

/// Name of the default subnet and of its logical switch.
pub const DEFAULT_SUBNET: &str = "ovn-default";

/// Name of the subnet of the default VPC in which each node has an address.
pub const JOIN_SUBNET: &str = "join";

/// Name of a node's port in the subnet [`JOIN_SUBNET`], and of its `IP` object.
#[must_use]
pub fn node_port(node: &str) -> String {
    format!("node-{node}")
}

/// Name of the port by which the router of a VPC has an address in a subnet on a Vlan (`u2oInterconnection`), and of its `IP` object.
#[must_use]
pub fn interconnection_port(vpc: &str, subnet: &str) -> String {
    format!("u2o-interconnection.{vpc}.{subnet}")
}

/// When an object was created, in seconds since 1970. One that has no time yet counts as the youngest.
#[must_use]
pub fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

/// Provider of a NIC that OVN carries.
pub const OVN_PROVIDER: &str = "ovn";
