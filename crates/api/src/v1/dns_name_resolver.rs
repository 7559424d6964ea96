//! `DNSNameResolver`: the addresses of a DNS name, for policies that name it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What is wanted of a followed name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "DNSNameResolver",
    root = "DnsNameResolver",
    plural = "dnsnameresolvers",
    singular = "dnsnameresolver",
    shortname = "dnr",
    status = "DnsNameResolverStatus",
    doc = "The addresses that a DNS name resolves to, as the name servers see them, for network policies that name it.",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct DnsNameResolverSpec {
    /// Name to follow, in lower case with a final dot, such as `www.example.com.`; `*.example.com.` for all names below. It
    /// cannot change.
    #[schemars(length(max = 254), regex(pattern = r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.){2,}$"))]
    #[x_kube(validation = ("self == oldSelf", "the name cannot change"))]
    pub name: String,
}

/// What is observed of a followed name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsNameResolverStatus {
    /// Names that were resolved, and their addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolved_names: Option<Vec<ResolvedName>>,
}

/// A name that was resolved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedName {
    /// The name, with a final dot.
    #[schemars(length(max = 254), regex(pattern = r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.){2,}$"))]
    pub dns_name: String,
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Look-ups that failed since the last one that did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution_failures: Option<i32>,
    /// Addresses of the name.
    pub resolved_addresses: Vec<ResolvedAddress>,
}

/// An address of a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedAddress {
    /// The address.
    pub ip: String,
    /// When a look-up last gave the address (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub last_lookup_time: String,
    /// How long the address may be used after that look-up, in seconds.
    pub ttl_seconds: i32,
}
