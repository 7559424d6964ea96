//! `SecurityGroup`: stateful access rules of the NICs that name it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// What is wanted of a security group.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "SecurityGroup",
    plural = "security-groups",
    singular = "security-group",
    shortname = "sg",
    status = "SecurityGroupStatus",
    doc = "Stateful access rules of the NICs that name the group. What no rule allows is dropped.",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupSpec {
    /// Whether members of the group reach each other before any rule is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_same_group_traffic: Option<bool>,
    /// Rules for traffic towards a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub ingress_rules: Option<Vec<SecurityGroupRule>>,
    /// Rules for traffic from a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub egress_rules: Option<Vec<SecurityGroupRule>>,
    /// Order among groups, 0 or 1: the rules of tier 0 are asked first, and `pass` in them leads to tier 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub tier: Option<i32>,
}

/// What is observed of a security group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupStatus {
    /// Name of the OVN port group of the members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_group: Option<String>,
    /// Whether members of the group reach each other, as in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_same_group_traffic: Option<bool>,
    /// Digest of the ingress rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_md5: Option<String>,
    /// Digest of the egress rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_md5: Option<String>,
    /// Whether the ingress rules are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_last_sync_success: Option<bool>,
    /// Whether the egress rules are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_last_sync_success: Option<bool>,
}

/// A rule of a security group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.portRangeMin) || !has(self.portRangeMax) || self.portRangeMin <= self.portRangeMax").message("portRangeMin must not be above portRangeMax").field_path(".portRangeMin"),
    validation = Rule::new("!has(self.sourcePortRangeMin) || !has(self.sourcePortRangeMax) || self.sourcePortRangeMin <= self.sourcePortRangeMax").message("sourcePortRangeMin must not be above sourcePortRangeMax").field_path(".sourcePortRangeMin"),
    validation = rules::explained("!has(self.ipVersion) || self.ipVersion == '' || !has(self.remoteAddress) || self.remoteAddress == '' || self.remoteAddress.contains(':') == (self.ipVersion == 'ipv6')", "'remoteAddress ' + self.remoteAddress + ' must be of ipVersion ' + self.ipVersion", "remoteAddress"),
    validation = rules::explained("!has(self.ipVersion) || self.ipVersion == '' || !has(self.localAddress) || self.localAddress == '' || self.localAddress.contains(':') == (self.ipVersion == 'ipv6')", "'localAddress ' + self.localAddress + ' must be of ipVersion ' + self.ipVersion", "localAddress"),
    validation = Rule::new("!has(self.remoteType) || self.remoteType != 'securityGroup' || (has(self.remoteSecurityGroup) && self.remoteSecurityGroup != '')").message("remoteType securityGroup needs a remoteSecurityGroup").field_path(".remoteSecurityGroup"),
    validation = Rule::new("!has(self.remoteType) || self.remoteType != 'address' || (has(self.remoteAddress) && self.remoteAddress != '')").message("remoteType address needs a remoteAddress").field_path(".remoteAddress")
)]
pub struct SecurityGroupRule {
    /// Family of the addresses: `ipv4` or `ipv6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "ipv4", "ipv6"]))]
    pub ip_version: Option<String>,
    /// `all`, `icmp`, `tcp` or `udp`; `all` when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "all", "icmp", "tcp", "udp"]))]
    pub protocol: Option<String>,
    /// 1 to 16384; the lowest number is asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16384))]
    pub priority: Option<i32>,
    /// What the other end is given by: `address` or `securityGroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "address", "securityGroup"]))]
    pub remote_type: Option<String>,
    /// Address or prefix of the other end, for the remote type `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP_OR_CIDR)]
    pub remote_address: Option<String>,
    /// Group that the other end is a member of, for the remote type `securityGroup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub remote_security_group: Option<String>,
    /// Address or prefix of this end; any of the member when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::ONE))]
    #[x_kube(validation = rules::IP_OR_CIDR)]
    pub local_address: Option<String>,
    /// First destination port of `tcp` and `udp`, 1 to 65535; 0 or absent with `portRangeMax` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port_range_min: Option<i32>,
    /// Last destination port of `tcp` and `udp`, 1 to 65535; not below `portRangeMin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port_range_max: Option<i32>,
    /// First source port of `tcp` and `udp`, 1 to 65535; 0 or absent with `sourcePortRangeMax` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub source_port_range_min: Option<i32>,
    /// Last source port of `tcp` and `udp`, 1 to 65535; not below `sourcePortRangeMin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub source_port_range_max: Option<i32>,
    /// What happens to matching traffic: `allow`, `drop`, or `pass` to leave it to the next tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "allow", "drop", "pass"]))]
    pub policy: Option<String>,
}
