//! The `kubeovn.io/v1` kinds. Field names and casing are the API's own, odd spellings included.

mod bgp;
mod dns_name_resolver;
mod gateway;
mod ip;
mod ip_pool;
mod iptables_nat;
mod lb_rule;
mod observability;
mod ovn_nat;
mod qos_policy;
mod rules;
mod security_group;
mod subnet;
mod underlay;
mod vip;
mod vpc;
mod vpc_dns;
mod vpc_egress_gateway;
mod vpc_nat_gateway;

pub use bgp::{BgpConf, BgpConfSpec, EvpnConf, EvpnConfSpec};
pub use dns_name_resolver::{DnsNameResolver, DnsNameResolverSpec, DnsNameResolverStatus, ResolvedAddress, ResolvedName};
pub use gateway::{Bfd, ResourceClaim, Resources, Workload};
pub use ip::{Ip, IpSpec};
pub use ip_pool::{IpPool, IpPoolSpec, IpPoolStatus};
pub use iptables_nat::{
    IptablesDnatRule, IptablesDnatRuleSpec, IptablesDnatRuleStatus, IptablesEip, IptablesEipSpec, IptablesEipStatus, IptablesFipRule,
    IptablesFipRuleSpec, IptablesFipRuleStatus, IptablesSnatRule, IptablesSnatRuleSpec, IptablesSnatRuleStatus,
};
pub use lb_rule::{LbPort, RouterLbRule, RouterLbRuleSpec, RouterLbRuleStatus, SwitchLbRule, SwitchLbRuleSpec, SwitchLbRuleStatus};
pub use observability::{
    Conntrack, ConntrackFilter, ConntrackFilters, ConntrackLog, ConntrackTuple, LogRateLimit, Observability, PortRange, ServiceMonitor,
    Switch,
};
pub use ovn_nat::{
    OvnDnatRule, OvnDnatRuleSpec, OvnDnatRuleStatus, OvnEip, OvnEipSpec, OvnEipStatus, OvnFip, OvnFipSpec, OvnFipStatus, OvnSnatRule,
    OvnSnatRuleSpec, OvnSnatRuleStatus,
};
pub use qos_policy::{BandwidthLimitRule, QosPolicy, QosPolicySpec, QosPolicyStatus};
pub use security_group::{SecurityGroup, SecurityGroupRule, SecurityGroupSpec, SecurityGroupStatus};
pub use subnet::{
    Acl, NatOutgoingPolicyMatch, NatOutgoingPolicyRule, NatOutgoingPolicyRuleStatus, Subnet, SubnetSpec, SubnetStatus, U2oFeatures,
};
pub use underlay::{CustomInterface, ProviderNetwork, ProviderNetworkSpec, ProviderNetworkStatus, Vlan, VlanSpec, VlanStatus};
pub use vip::{Vip, VipSpec, VipStatus};
pub use vpc::{BfdPort, BfdPortStatus, PolicyRoute, StaticRoute, Vpc, VpcPeering, VpcSpec, VpcStatus};
pub use vpc_dns::{VpcDns, VpcDnsSpec, VpcDnsStatus};
pub use vpc_egress_gateway::{
    Bandwidth, EgressNodeSelector, EgressPolicy, EgressSelector, VpcEgressGateway, VpcEgressGatewaySpec, VpcEgressGatewayStatus,
};
pub use vpc_nat_gateway::{BgpSpeaker, GatewayRoute, VpcNatGateway, VpcNatGatewaySpec, VpcNatGatewayStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The definitions to install, in the order of their kinds' names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        without_spec(definition::<BgpConf>()),
        definition::<DnsNameResolver>(),
        without_spec(definition::<EvpnConf>()),
        without_spec(definition::<Ip>()),
        definition::<IpPool>(),
        definition::<IptablesDnatRule>(),
        definition::<IptablesEip>(),
        definition::<IptablesFipRule>(),
        definition::<IptablesSnatRule>(),
        definition::<OvnDnatRule>(),
        without_spec(definition::<OvnEip>()),
        definition::<OvnFip>(),
        definition::<OvnSnatRule>(),
        definition::<ProviderNetwork>(),
        without_spec(definition::<QosPolicy>()),
        definition::<RouterLbRule>(),
        without_spec(definition::<SecurityGroup>()),
        definition::<Subnet>(),
        definition::<SwitchLbRule>(),
        without_spec(without_status_subresource(definition::<Vip>())),
        definition::<Vlan>(),
        without_spec(definition::<Vpc>()),
        definition::<VpcDns>(),
        definition::<VpcEgressGateway>(),
        without_spec(definition::<VpcNatGateway>()),
    ]
}

/// The derived definition, in which an explicit null is as good as an absent field: it is dropped before rules see it.
fn definition<K: CustomResourceExt>() -> CustomResourceDefinition {
    let mut crd = K::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_nulls(schema);
        }
    }
    crd
}

fn drop_nulls(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        drop_nulls(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => drop_nulls(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(drop_nulls),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_nulls(values);
    }
}

/// A kind of which nothing need be said: an absent spec is an empty one.
fn without_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(spec) = schema.and_then(|schema| schema.properties.as_mut()).and_then(|properties| properties.get_mut("spec")) {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    crd
}

/// Clients of a `Vip` write its status with the object.
fn without_status_subresource(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        version.subresources = None;
    }
    crd
}
