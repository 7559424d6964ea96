//! `Subnet`: a layer-2 domain and the pool of its addresses, carried by one logical switch.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::{Condition, DEFAULT_VPC};

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
    doc = "A layer-2 domain of a VPC and the pool that its addresses come from: a logical switch, its gateway, its way out and who may reach it.",
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
    validation = rules::fixed("vpc", "a subnet cannot move to another VPC"),
    validation = rules::inside("gateway", "cidrBlock"),
    validation = rules::inside("u2oInterconnectionIP", "cidrBlock"),
    validation = Rule::new("(has(self.cidrBlock) && self.cidrBlock != '') || (has(self.vlan) && self.vlan != '')").message("cidrBlock is required, unless the subnet is on a vlan").field_path(".cidrBlock"),
    validation = Rule::new("!has(self.externalEgressGateway) || self.externalEgressGateway == '' || !has(self.natOutgoing) || !self.natOutgoing").message("externalEgressGateway and natOutgoing exclude each other").field_path(".externalEgressGateway"),
    validation = Rule::new("!has(self.externalEgressGateway) || self.externalEgressGateway == '' || (has(self.policyRoutingPriority) && self.policyRoutingPriority >= 1 && self.policyRoutingPriority < 32766)").message("externalEgressGateway needs a policyRoutingPriority from 1 to 32765, before the main table's").field_path(".policyRoutingPriority"),
    validation = Rule::new("!has(self.externalEgressGateway) || self.externalEgressGateway == '' || (has(self.policyRoutingTableID) && self.policyRoutingTableID >= 1 && !(self.policyRoutingTableID in [253, 254, 255]))").message("externalEgressGateway needs a policyRoutingTableID of its own, and not the kernel's 253 to 255").field_path(".policyRoutingTableID"),
    validation = Rule::new("!has(self.logicalGateway) || !self.logicalGateway || !has(self.u2oInterconnection) || !self.u2oInterconnection").message("logicalGateway and u2oInterconnection exclude each other").field_path(".logicalGateway")
)]
pub struct SubnetSpec {
    /// VPC that the subnet belongs to; `ovn-cluster` when empty. It cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub vpc: Option<String>,
    /// Prefix that addresses come from: IPv4, IPv6, or one of each joined by a comma. Optional only on a vlan whose addresses
    /// a foreign DHCP server gives out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::cidr_pair(), validation = rules::room_for_hosts())]
    pub cidr_block: Option<String>,
    /// Address of the gateway, one per family joined by a comma, inside `cidrBlock`; its first address when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub gateway: Option<String>,
    /// Addresses that are never given out: single ones, prefixes, or ranges such as 10.16.0.10..10.16.0.20. The gateway
    /// always is one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_range_or_cidr())]
    pub exclude_ips: Option<Vec<String>>,
    /// `IPv4`, `IPv6` or `Dual`, as computed from `cidrBlock`; `Mac` for a subnet without addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "IPv4", "IPv6", "Dual", "Mac"]))]
    pub protocol: Option<String>,
    /// Who carries the NICs: `ovn` (also when empty), `NAD.NAMESPACE.ovn` for an attachment through OVN, or `NAD.NAMESPACE`
    /// for one that only takes addresses from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Whether pods that no other subnet claims land here. Only `ovn-default` may be the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// Namespaces whose pods use this subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Namespaces, by their labels, whose pods use this subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selectors: Option<Vec<LabelSelector>>,
    /// Where traffic leaves the VPC: on each pod's own node (`distributed`, also when empty) or on the gateway nodes
    /// (`centralized`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["", "distributed", "centralized"]))]
    pub gateway_type: Option<String>,
    /// Gateway nodes of a centralized subnet, joined by commas; `node:address` gives the address that the node uses for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_node: Option<String>,
    /// Gateway nodes of a centralized subnet, by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_node_selectors: Option<Vec<LabelSelector>>,
    /// Whether traffic that leaves the cluster takes the address of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// Exceptions to `natOutgoing`; the first one that matches decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub nat_outgoing_policy_rules: Option<Vec<NatOutgoingPolicyRule>>,
    /// Next hop, one per family joined by a comma, to which nodes send traffic that leaves the cluster. It excludes
    /// `natOutgoing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub external_egress_gateway: Option<String>,
    /// Priority of the nodes' rule that leads to `externalEgressGateway`; lower numbers come first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub policy_routing_priority: Option<i32>,
    /// Number of the nodes' route table that holds `externalEgressGateway`.
    #[serde(rename = "policyRoutingTableID", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub policy_routing_table_id: Option<i32>,
    /// Whether only the subnet itself and `allowSubnets` may reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<bool>,
    /// Prefixes that may reach a private subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::PAIR)))]
    #[x_kube(validation = rules::each_cidr_pair())]
    pub allow_subnets: Option<Vec<String>>,
    /// Whether traffic inside the subnet passes before its ACLs are asked.
    #[serde(rename = "allowEWTraffic", skip_serializing_if = "Option::is_none")]
    pub allow_ew_traffic: Option<bool>,
    /// Access rules of the logical switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acls: Option<Vec<Acl>>,
    /// Vlan that connects the subnet to a physical network (underlay); empty for a subnet in tunnels (overlay).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub vlan: Option<String>,
    /// Whether an underlay subnet uses the VPC's router as its gateway instead of a physical one. It excludes
    /// `u2oInterconnection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_gateway: Option<bool>,
    /// Whether a node skips its wait for the gateway to answer when it adds a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_gateway_check: Option<bool>,
    /// Whether the subnet is withheld from other clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_inter_connection: Option<bool>,
    /// Whether pods of an underlay subnet and of the VPC's overlay subnets reach each other through the VPC's router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection: Option<bool>,
    /// Address of the VPC's router in an interconnected underlay subnet, one per family joined by a comma; chosen when empty.
    #[serde(rename = "u2oInterconnectionIP", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::PAIR))]
    #[x_kube(validation = rules::ip_pair())]
    pub u2o_interconnection_ip: Option<String>,
    /// Options of `u2oInterconnection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub u2o_features: Option<U2oFeatures>,
    /// Whether OVN answers DHCP on the subnet.
    #[serde(rename = "enableDHCP", skip_serializing_if = "Option::is_none")]
    pub enable_dhcp: Option<bool>,
    /// DHCPv4 options beyond those computed: `key=value`, joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options: Option<String>,
    /// DHCPv6 options beyond those computed: `key=value`, joined by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options: Option<String>,
    /// Whether the router sends IPv6 router advertisements (RFC 4861).
    #[serde(rename = "enableIPv6RA", skip_serializing_if = "Option::is_none")]
    pub enable_ipv6_ra: Option<bool>,
    /// Options of the router advertisements: `key=value`, joined by commas.
    #[serde(rename = "ipv6RAConfigs", skip_serializing_if = "Option::is_none")]
    pub ipv6_ra_configs: Option<String>,
    /// MTU of the NICs in bytes, 0 to 65535; 0 or absent for the largest that fits the tunnel or the physical network.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub mtu: Option<i32>,
    /// Whether the VPC's load balancers serve the subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_lb: Option<bool>,
    /// Whether traffic of a centralized subnet spreads over all its gateway nodes instead of using one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_ecmp: Option<bool>,
    /// Whether multicast reaches only the ports that joined its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_multicast_snoop: Option<bool>,
    /// Whether addresses of external load balancers may be of this underlay subnet.
    #[serde(rename = "enableExternalLBAddress", skip_serializing_if = "Option::is_none")]
    pub enable_external_lb_address: Option<bool>,
    /// Addresses that several ports may hold in turn, inside `cidrBlock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(max = rules::ONE)))]
    #[x_kube(validation = rules::each_ip())]
    pub vips: Option<Vec<String>>,
    /// Route table of the VPC's router that traffic of this subnet uses; empty for the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_table: Option<String>,
    /// Network of the nodes that carries the tunnels of this subnet; empty for the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_network: Option<String>,
}

/// Next hops by which nodes send what leaves a subnet (`externalEgressGateway`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEgress {
    /// One per family at most.
    pub addresses: Vec<std::net::IpAddr>,
    /// Priority of the rule that leads to them, 1 to 32765.
    pub priority: u32,
    /// Route table, none of the kernel's own.
    pub table: u32,
}

impl SubnetSpec {
    /// The next hops by which nodes send what leaves; none of what admission would have refused.
    #[must_use]
    pub fn external_egress(&self) -> Option<ExternalEgress> {
        let addresses = crate::cidr::parse_addresses(self.external_egress_gateway.as_deref().unwrap_or_default()).ok()?;
        let number = |field: Option<i32>| u32::try_from(field?).ok().filter(|number| *number > 0);
        let priority = number(self.policy_routing_priority).filter(|priority| *priority < 32_766)?;
        let table = number(self.policy_routing_table_id).filter(|table| !(253..=255).contains(table))?;
        (!addresses.is_empty() && self.nat_outgoing != Some(true)).then_some(ExternalEgress { addresses, priority, table })
    }

    /// Whether its pods leave by chosen nodes, and not each by its own.
    #[must_use]
    pub fn is_centralized(&self) -> bool {
        self.gateway_type.as_deref() == Some("centralized")
    }

    /// Name of its VPC: the default one unless it names another.
    #[must_use]
    pub fn vpc_name(&self) -> &str {
        self.vpc.as_deref().filter(|vpc| !vpc.is_empty()).unwrap_or(DEFAULT_VPC)
    }
}

/// What is observed of a subnet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetStatus {
    /// Why the object is, or is not, as wanted: one entry per aspect, such as `Ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Number of IPv4 addresses that can still be given out.
    #[serde(rename = "v4availableIPs", skip_serializing_if = "Option::is_none")]
    pub v4_available_ips: Option<f64>,
    /// IPv4 addresses that can still be given out, as ranges joined by commas.
    #[serde(rename = "v4availableIPrange", skip_serializing_if = "Option::is_none")]
    pub v4_available_ip_range: Option<String>,
    /// Number of IPv4 addresses in use.
    #[serde(rename = "v4usingIPs", skip_serializing_if = "Option::is_none")]
    pub v4_using_ips: Option<f64>,
    /// IPv4 addresses in use, as ranges joined by commas.
    #[serde(rename = "v4usingIPrange", skip_serializing_if = "Option::is_none")]
    pub v4_using_ip_range: Option<String>,
    /// Number of IPv6 addresses that can still be given out.
    #[serde(rename = "v6availableIPs", skip_serializing_if = "Option::is_none")]
    pub v6_available_ips: Option<f64>,
    /// IPv6 addresses that can still be given out, as ranges joined by commas.
    #[serde(rename = "v6availableIPrange", skip_serializing_if = "Option::is_none")]
    pub v6_available_ip_range: Option<String>,
    /// Number of IPv6 addresses in use.
    #[serde(rename = "v6usingIPs", skip_serializing_if = "Option::is_none")]
    pub v6_using_ips: Option<f64>,
    /// IPv6 addresses in use, as ranges joined by commas.
    #[serde(rename = "v6usingIPrange", skip_serializing_if = "Option::is_none")]
    pub v6_using_ip_range: Option<String>,
    /// Gateway node in use of a centralized subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate_gateway: Option<String>,
    /// UUID of the northbound row with the DHCPv4 options.
    #[serde(rename = "dhcpV4OptionsUUID", skip_serializing_if = "Option::is_none")]
    pub dhcp_v4_options_uuid: Option<String>,
    /// UUID of the northbound row with the DHCPv6 options.
    #[serde(rename = "dhcpV6OptionsUUID", skip_serializing_if = "Option::is_none")]
    pub dhcp_v6_options_uuid: Option<String>,
    /// Address of the VPC's router in an interconnected underlay subnet.
    #[serde(rename = "u2oInterconnectionIP", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_ip: Option<String>,
    /// MAC address of the VPC's router in an interconnected underlay subnet.
    #[serde(rename = "u2oInterconnectionMAC", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_mac: Option<String>,
    /// VPC whose overlay subnets the underlay subnet is connected to.
    #[serde(rename = "u2oInterconnectionVPC", skip_serializing_if = "Option::is_none")]
    pub u2o_interconnection_vpc: Option<String>,
    /// Address that multicast queries come from.
    #[serde(rename = "mcastQuerierIP", skip_serializing_if = "Option::is_none")]
    pub mcast_querier_ip: Option<String>,
    /// MAC address that multicast queries come from.
    #[serde(rename = "mcastQuerierMAC", skip_serializing_if = "Option::is_none")]
    pub mcast_querier_mac: Option<String>,
    /// Exceptions to `natOutgoing` in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub nat_outgoing_policy_rules: Option<Vec<NatOutgoingPolicyRuleStatus>>,
}

/// An access rule of the logical switch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acl {
    /// `to-lport` for packets towards a port, `from-lport` for those that come from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["to-lport", "from-lport"]))]
    pub direction: Option<String>,
    /// 0 to 32767; of the rules that match, the one with the highest priority wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 32767))]
    pub priority: Option<i32>,
    /// OVN match expression, such as `ip4.src == 10.0.1.0/24 && tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<String>,
    /// What happens to a packet. `allow-related` also lets replies pass, `allow-stateless` keeps no connection state,
    /// `reject` answers, `pass` leaves it to the next tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["allow", "allow-related", "allow-stateless", "drop", "reject", "pass"]))]
    pub action: Option<String>,
}

/// Options of `u2oInterconnection`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct U2oFeatures {
    /// Whether only traffic to overlay subnets takes the VPC's router; the rest takes the physical gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_only_routing: Option<bool>,
}

/// An exception to `natOutgoing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatOutgoingPolicyRule {
    /// `nat`: matching traffic takes the address of a node; `forward`: it keeps its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["nat", "forward"]))]
    pub action: Option<String>,
    /// Traffic that the rule applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<NatOutgoingPolicyMatch>,
}

/// Traffic that an exception to `natOutgoing` applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatOutgoingPolicyMatch {
    /// Sources: addresses and prefixes of one family, joined by commas; any when empty.
    #[serde(rename = "srcIPs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::MANY))]
    #[x_kube(validation = rules::ip_or_cidr_list())]
    pub src_ips: Option<String>,
    /// Destinations: addresses and prefixes of one family, joined by commas; any when empty.
    #[serde(rename = "dstIPs", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = rules::MANY))]
    #[x_kube(validation = rules::ip_or_cidr_list())]
    pub dst_ips: Option<String>,
}

/// An exception to `natOutgoing` in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatOutgoingPolicyRuleStatus {
    /// Identifier of the rule: 12 hexadecimal digits.
    #[serde(rename = "ruleID", skip_serializing_if = "Option::is_none")]
    pub rule_id: Option<String>,
    /// `nat` or `forward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Traffic that the rule applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<NatOutgoingPolicyMatch>,
}
