//! `Subnet`: a layer-2 domain and the pool of its addresses, carried by one logical switch.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// What is wanted of a subnet.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kubeovn.io",
    version = "v1",
    kind = "Subnet",
    plural = "subnets",
    singular = "subnet",
    shortname = "subnet",
    status = "SubnetStatus",
    derive = "PartialEq",
    derive = "Default",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider"),
    printcolumn(name = "Vpc", type_ = "string", json_path = ".spec.vpc"),
    printcolumn(name = "Vlan", type_ = "string", json_path = ".spec.vlan"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".spec.protocol"),
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidrBlock"),
    printcolumn(name = "Private", type_ = "boolean", json_path = ".spec.private"),
    printcolumn(name = "NAT", type_ = "boolean", json_path = ".spec.natOutgoing"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(name = "GatewayType", type_ = "string", json_path = ".spec.gatewayType"),
    printcolumn(name = "V4Used", type_ = "number", json_path = ".status.v4usingIPs"),
    printcolumn(name = "V4Available", type_ = "number", json_path = ".status.v4availableIPs"),
    printcolumn(name = "V6Used", type_ = "number", json_path = ".status.v6usingIPs"),
    printcolumn(name = "V6Available", type_ = "number", json_path = ".status.v6availableIPs"),
    printcolumn(name = "ExcludeIPs", type_ = "string", json_path = ".spec.excludeIps"),
    printcolumn(name = "U2OInterconnectionIP", type_ = "string", json_path = ".status.u2oInterconnectionIP")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.gateway) || self.gateway == '' || !has(self.cidrBlock) || !self.cidrBlock.split(',').all(c, isCIDR(c.trim())) || !self.gateway.split(',').all(g, isIP(g.trim())) || self.gateway.split(',').all(g, self.cidrBlock.split(',').exists(c, cidr(c.trim()).containsIP(g.trim())))").message("gateway must lie inside cidrBlock").field_path(".gateway"),
    validation = Rule::new("(has(self.cidrBlock) && self.cidrBlock != '') || (has(self.vlan) && self.vlan != '')").message("cidrBlock is required, unless the subnet is on a vlan").field_path(".cidrBlock")
)]
pub struct SubnetSpec {
    /// VPC that the subnet belongs to; `ovn-cluster` when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf || oldSelf == ''").message("a subnet cannot move to another VPC"))]
    pub vpc: Option<String>,
    /// Addresses of the subnet: `v4`, `v6` or `v4,v6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("size(self) <= 96 && self.split(',').all(c, isCIDR(c.trim()))", "must be a CIDR such as 10.16.0.0/16, or one IPv4 and one IPv6 CIDR joined by a comma"))]
    pub cidr_block: Option<String>,
    /// Gateway address per family, inside the CIDR; the first address when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("size(self) <= 96 && (self == '' || self.split(',').all(g, isIP(g.trim())))", "must be an IP address, or one IPv4 and one IPv6 address joined by a comma"))]
    pub gateway: Option<String>,
    /// Addresses never allocated: `a`, or `a..b` for a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("size(self) <= 1024", "at most 1024 entries"))]
    pub exclude_ips: Option<Vec<String>>,
    /// `IPv4`, `IPv6`, `Dual` or `Mac`; computed from the CIDR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['', 'IPv4', 'IPv6', 'Dual', 'Mac']", "must be IPv4, IPv6, Dual or Mac"))]
    pub protocol: Option<String>,
    /// Who carries the NICs: `ovn`, or `<nad>.<namespace>.ovn`, or `<nad>.<namespace>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Whether pods of no other subnet land here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Namespaces whose pods use this subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Namespaces, by label, whose pods use this subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selectors: Option<Vec<LabelSelector>>,
    /// `distributed` or `centralized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['', 'distributed', 'centralized']", "must be distributed or centralized"))]
    pub gateway_type: Option<String>,
    /// Gateway nodes of a centralized subnet: `node1,node2` or `node1:egressIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_node: Option<String>,
    /// Gateway nodes of a centralized subnet, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_node_selectors: Option<Vec<LabelSelector>>,
    /// Whether traffic that leaves the cluster takes the address of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// Exceptions to `natOutgoing`, first match wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_policy_rules: Option<Vec<NatOutgoingPolicyRule>>,
    /// Next hop on the node for traffic that leaves the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_egress_gateway: Option<String>,
    /// Priority of the node's `ip rule` for `externalEgressGateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_routing_priority: Option<i32>,
    /// Table of the node's `ip rule` for `externalEgressGateway`.
    #[serde(default, rename = "policyRoutingTableID", skip_serializing_if = "Option::is_none")]
    pub policy_routing_table_id: Option<i32>,
    /// Whether only the subnet itself and `allowSubnets` may reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<bool>,
    /// CIDRs that may reach a private subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_subnets: Option<Vec<String>>,
    /// Whether traffic inside the subnet passes before its ACLs.
    #[serde(default, rename = "allowEWTraffic", skip_serializing_if = "Option::is_none")]
    pub allow_ew_traffic: Option<bool>,
    /// Access rules of the logical switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acls: Option<Vec<Acl>>,
    /// VLAN of an underlay subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<String>,
    /// Whether an underlay subnet uses OVN's router instead of a physical gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical_gateway: Option<bool>,
    /// Whether a node skips the check that the gateway answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_gateway_check: Option<bool>,
    /// Whether the subnet is withheld from other clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_inter_connection: Option<bool>,
    /// Whether an underlay subnet is connected to the VPC's overlay subnets.
    #[serde(default, rename = "u2oInterconnection", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection: Option<bool>,
    /// Address of the router in an interconnected underlay subnet.
    #[serde(default, rename = "u2oInterconnectionIP", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_ip: Option<String>,
    /// Options of `u2oInterconnection`.
    #[serde(default, rename = "u2oFeatures", skip_serializing_if = "Option::is_none")]
    pub u2o_features: Option<U2oFeatures>,
    /// Whether OVN answers DHCP.
    #[serde(default, rename = "enableDHCP", skip_serializing_if = "Option::is_none")]
    pub enable_dhcp: Option<bool>,
    /// DHCPv4 options, `key=value` joined by commas.
    #[serde(default, rename = "dhcpV4Options", skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options: Option<String>,
    /// DHCPv6 options, `key=value` joined by commas.
    #[serde(default, rename = "dhcpV6Options", skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options: Option<String>,
    /// Whether the router sends IPv6 router advertisements (RFC 4861).
    #[serde(default, rename = "enableIPv6RA", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6_ra: Option<bool>,
    /// Router advertisement options, `key=value` joined by commas.
    #[serde(default, rename = "ipv6RAConfigs", skip_serializing_if = "Option::is_none")]
    pub ipv6_ra_configs: Option<String>,
    /// MTU of the NICs in bytes; 0 or absent for the tunnel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self >= 0 && self <= 65535", "must lie between 0 and 65535"))]
    pub mtu: Option<i32>,
    /// Whether the VPC's load balancers apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_lb: Option<bool>,
    /// Whether a centralized subnet uses all gateway nodes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_ecmp: Option<bool>,
    /// Whether multicast follows IGMP and MLD membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable_multicast_snoop: Option<bool>,
    /// Whether load-balancer addresses come from this underlay subnet.
    #[serde(default, rename = "enableExternalLBAddress", skip_serializing_if = "Option::is_none")]
    pub enable_external_lb_address: Option<bool>,
    /// Route table of the router port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_table: Option<String>,
    /// Name of the tunnel network between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_network: Option<String>,
    /// Virtual addresses that ports of the subnet may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vips: Option<Vec<String>>,
}

/// An access rule of the logical switch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acl {
    /// `to-lport` or `from-lport`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['to-lport', 'from-lport']", "must be to-lport or from-lport"))]
    pub direction: Option<String>,
    /// 0 to 32,767; the highest matching priority wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self >= 0 && self <= 32767", "must lie between 0 and 32767"))]
    pub priority: Option<i32>,
    /// OVN match expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#match: Option<String>,
    /// `allow`, `allow-related`, `allow-stateless`, `drop`, `reject` or `pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['allow', 'allow-related', 'allow-stateless', 'drop', 'reject', 'pass']", "must be allow, allow-related, allow-stateless, drop, reject or pass"))]
    pub action: Option<String>,
}

/// Options of `u2oInterconnection`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct U2oFeatures {
    /// Whether only traffic to overlay subnets takes the logical router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_only_routing: Option<bool>,
}

/// An exception to `natOutgoing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatOutgoingPolicyRule {
    /// `nat` or `forward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self in ['nat', 'forward']", "must be nat or forward"))]
    pub action: Option<String>,
    /// Traffic that the rule applies to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#match: Option<NatOutgoingPolicyMatch>,
}

/// Traffic that an exception to `natOutgoing` applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NatOutgoingPolicyMatch {
    /// Source prefixes, comma-separated.
    #[serde(default, rename = "srcIPs", skip_serializing_if = "Option::is_none")]
    pub src_ips: Option<String>,
    /// Destination prefixes, comma-separated.
    #[serde(default, rename = "dstIPs", skip_serializing_if = "Option::is_none")]
    pub dst_ips: Option<String>,
}

/// An exception to `natOutgoing` in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatOutgoingPolicyRuleStatus {
    /// Identifier of the rule: 12 hexadecimal digits.
    #[serde(default, rename = "ruleID")]
    pub rule_id: String,
    /// `nat` or `forward`.
    #[serde(default)]
    pub action: String,
    /// Traffic that the rule applies to.
    #[serde(default)]
    pub r#match: NatOutgoingPolicyMatch,
}

/// What is observed of a subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// Why the subnet is or is not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// IPv4 addresses that can still be allocated.
    #[serde(default, rename = "v4availableIPs", skip_serializing_if = "Option::is_none")]
    pub v4_available_ips: Option<f64>,
    /// The same as ranges.
    #[serde(default, rename = "v4availableIPrange", skip_serializing_if = "Option::is_none")]
    pub v4_available_ip_range: Option<String>,
    /// IPv4 addresses held.
    #[serde(default, rename = "v4usingIPs", skip_serializing_if = "Option::is_none")]
    pub v4_using_ips: Option<f64>,
    /// The same as ranges.
    #[serde(default, rename = "v4usingIPrange", skip_serializing_if = "Option::is_none")]
    pub v4_using_ip_range: Option<String>,
    /// IPv6 addresses that can still be allocated.
    #[serde(default, rename = "v6availableIPs", skip_serializing_if = "Option::is_none")]
    pub v6_available_ips: Option<f64>,
    /// The same as ranges.
    #[serde(default, rename = "v6availableIPrange", skip_serializing_if = "Option::is_none")]
    pub v6_available_ip_range: Option<String>,
    /// IPv6 addresses held.
    #[serde(default, rename = "v6usingIPs", skip_serializing_if = "Option::is_none")]
    pub v6_using_ips: Option<f64>,
    /// The same as ranges.
    #[serde(default, rename = "v6usingIPrange", skip_serializing_if = "Option::is_none")]
    pub v6_using_ip_range: Option<String>,
    /// Gateway node in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate_gateway: Option<String>,
    /// Northbound DHCPv4 options row.
    #[serde(default, rename = "dhcpV4OptionsUUID", skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options_uuid: Option<String>,
    /// Northbound DHCPv6 options row.
    #[serde(default, rename = "dhcpV6OptionsUUID", skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options_uuid: Option<String>,
    /// Address of the router in an interconnected underlay subnet.
    #[serde(default, rename = "u2oInterconnectionIP", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_ip: Option<String>,
    /// MAC of that router port.
    #[serde(default, rename = "u2oInterconnectionMAC", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_mac: Option<String>,
    /// VPC interconnected with.
    #[serde(default, rename = "u2oInterconnectionVPC", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_vpc: Option<String>,
    /// Address of the multicast querier.
    #[serde(default, rename = "mcastQuerierIP", skip_serializing_if = "Option::is_none")]
    pub mcast_querier_ip: Option<String>,
    /// MAC of the multicast querier.
    #[serde(default, rename = "mcastQuerierMAC", skip_serializing_if = "Option::is_none")]
    pub mcast_querier_mac: Option<String>,
    /// Rules in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_policy_rules: Option<Vec<NatOutgoingPolicyRuleStatus>>,
}
