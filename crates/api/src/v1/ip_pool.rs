//! `IPPool`: a part of a subnet's addresses, set aside for chosen pods.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::Condition;

/// What is wanted of a pool.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "IPPool",
    root = "IpPool",
    plural = "ippools",
    singular = "ippool",
    shortname = "ippool",
    status = "IpPoolStatus",
    doc = "A part of a subnet's addresses, set aside for the pods of chosen namespaces or for those that ask for it by name.",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "enableAddressSet", type_ = "boolean", json_path = ".spec.enableAddressSet"),
    printcolumn(name = "IPs", type_ = "string", json_path = ".spec.ips"),
    printcolumn(name = "V4Used", type_ = "number", json_path = ".status.v4UsingIPs"),
    printcolumn(name = "V4Available", type_ = "number", json_path = ".status.v4AvailableIPs"),
    printcolumn(name = "V6Used", type_ = "number", json_path = ".status.v6UsingIPs"),
    printcolumn(name = "V6Available", type_ = "number", json_path = ".status.v6AvailableIPs")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = rules::fixed("subnet", "a pool cannot move to another subnet")
)]
pub struct IpPoolSpec {
    /// Subnet that the addresses belong to. It cannot change.
    #[schemars(length(max = 253))]
    pub subnet: String,
    /// Namespaces whose pods get their addresses from this pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Addresses of the pool: single ones, prefixes, or ranges such as 10.16.0.10..10.16.0.20, of both families if the subnet
    /// has both.
    #[schemars(length(max = 1024), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_range_or_cidr())]
    pub ips: Vec<String>,
    /// Whether an OVN address set holds the pool, for match expressions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub enable_address_set: Option<bool>,
}

/// What is observed of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Number of IPv4 addresses that can still be given out.
    #[serde(rename = "v4AvailableIPs", skip_serializing_if = "Option::is_none")]
    pub v4_available_ips: Option<f64>,
    /// IPv4 addresses that can still be given out, as ranges joined by commas.
    #[serde(rename = "v4AvailableIPRange", skip_serializing_if = "Option::is_none")]
    pub v4_available_ip_range: Option<String>,
    /// Number of IPv4 addresses in use.
    #[serde(rename = "v4UsingIPs", skip_serializing_if = "Option::is_none")]
    pub v4_using_ips: Option<f64>,
    /// IPv4 addresses in use, as ranges joined by commas.
    #[serde(rename = "v4UsingIPRange", skip_serializing_if = "Option::is_none")]
    pub v4_using_ip_range: Option<String>,
    /// Number of IPv6 addresses that can still be given out.
    #[serde(rename = "v6AvailableIPs", skip_serializing_if = "Option::is_none")]
    pub v6_available_ips: Option<f64>,
    /// IPv6 addresses that can still be given out, as ranges joined by commas.
    #[serde(rename = "v6AvailableIPRange", skip_serializing_if = "Option::is_none")]
    pub v6_available_ip_range: Option<String>,
    /// Number of IPv6 addresses in use.
    #[serde(rename = "v6UsingIPs", skip_serializing_if = "Option::is_none")]
    pub v6_using_ips: Option<f64>,
    /// IPv6 addresses in use, as ranges joined by commas.
    #[serde(rename = "v6UsingIPRange", skip_serializing_if = "Option::is_none")]
    pub v6_using_ip_range: Option<String>,
}
