//! The `kubeovn.io/v1` kinds. Field names and casing are the API's own, odd spellings included.

mod ip;
mod subnet;
mod vpc;

pub use ip::{Ip, IpSpec};
pub use subnet::{
    Acl, NatOutgoingPolicyMatch, NatOutgoingPolicyRule, NatOutgoingPolicyRuleStatus, Subnet, SubnetSpec, SubnetStatus, U2oFeatures,
};
pub use vpc::{BfdPort, BfdPortStatus, PolicyRoute, StaticRoute, Vpc, VpcPeering, VpcSpec, VpcStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definitions to install, in the order of their kinds' names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Ip::crd(), Subnet::crd(), Vpc::crd()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_follow_the_reference() {
        let names: Vec<_> = super::crds().into_iter().map(|crd| (crd.metadata.name.unwrap(), crd.spec.scope)).collect();
        let expected = ["ips.kubeovn.io", "subnets.kubeovn.io", "vpcs.kubeovn.io"].map(|n| (n.to_owned(), "Cluster".to_owned()));
        assert_eq!(names, expected);
    }
}
