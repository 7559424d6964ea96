//! What pods, NICs and definitions are found by.

use std::sync::Arc;

use crate::world::Name;

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl PodKey {
    /// Name of the logical switch port of the pod's primary NIC, and of its `IP` object: `<pod>.<namespace>`. Namespaces hold
    /// no dots, so no two pods share it. Without a namespace, which no pod is, just the name.
    #[must_use]
    pub fn port(&self) -> Name {
        if self.namespace.is_empty() { Arc::clone(&self.name) } else { format!("{}.{}", self.name, self.namespace).into() }
    }

    /// The pod whose port has this name; without a namespace when there is none of it.
    #[must_use]
    pub fn of_port(port: &str) -> Self {
        let (name, namespace) = port.rsplit_once('.').unwrap_or((port, ""));
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The name that the addresses of a `Vip` are held on, which is that of no pod.
    #[must_use]
    pub fn of_vip(vip: &str) -> Self {
        Self::of_port(&format!("{VIP}{vip}"))
    }
}

/// Before a node's name in that of its port.
const NODE: &str = "node-";

/// Before the names of VPC and subnet in that of what connects them.
pub(crate) const INTERCONNECTION: &str = "u2o-interconnection.";

/// No name of a Kubernetes object has a slash.
const VIP: &str = "vip/";

/// A NIC: the name that it is on, and which of the NICs on that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicKey {
    /// Name that the NIC is on: its pod's, or that of the virtual machine which the pod runs.
    pub holder: PodKey,
    /// Provider; none of the primary NIC.
    pub provider: Option<Name>,
}

impl NicKey {
    /// The primary NIC on a name.
    #[must_use]
    pub const fn primary(holder: PodKey) -> Self {
        Self { holder, provider: None }
    }

    /// What holds the addresses of a `Vip`.
    #[must_use]
    pub fn of_vip(vip: &str) -> Self {
        Self::primary(PodKey::of_vip(vip))
    }

    /// The `Vip` whose addresses it holds, if it is one's.
    #[must_use]
    pub fn vip(&self) -> Option<Name> {
        self.holder.name.starts_with(VIP).then(|| self.port()[VIP.len()..].into())
    }

    /// A node's own NIC. No pod is without a namespace.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        Self::primary(PodKey { namespace: "".into(), name: api::node_port(node).into() })
    }

    /// The node whose NIC it is, if it is one's; or a user's reservation under the name of one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.holder.name.strip_prefix(NODE).filter(|_| self.holder.namespace.is_empty() && self.provider.is_none())
    }

    /// What holds the addresses by which the router of a VPC is in a subnet on a Vlan.
    #[must_use]
    pub fn of_interconnection(vpc: &str, subnet: &str) -> Self {
        Self::primary(PodKey { namespace: "".into(), name: api::interconnection_port(vpc, subnet).into() })
    }

    /// Whether it is one of those; or a user's reservation under the name of one.
    #[must_use]
    pub fn is_interconnection(&self) -> bool {
        self.holder.name.starts_with(INTERCONNECTION) && self.holder.namespace.is_empty() && self.provider.is_none()
    }

    /// Name of its logical switch port, and of its `IP` object: `<pod>.<namespace>`, and behind that, of a NIC that is not the
    /// primary one, `.<provider>`. The names of two NICs can be one, since those of pods hold dots: one of them is refused.
    #[must_use]
    pub fn port(&self) -> Name {
        match &self.provider {
            None => self.holder.port(),
            Some(provider) => api::networks::port(&self.holder.name, &self.holder.namespace, provider).into(),
        }
    }

    /// The NIC on the name `holder` whose port has this name, if it is on that name.
    #[must_use]
    pub fn of_port(port: &str, holder: PodKey) -> Option<Self> {
        let rest = port.strip_prefix(holder.port().as_ref())?;
        let provider = if rest.is_empty() { None } else { Some(rest.strip_prefix('.').filter(|rest| !rest.is_empty())?.into()) };
        Some(Self { holder, provider })
    }
}

/// Namespace and name of a `NetworkAttachmentDefinition`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionKey {
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_nic_is_found_by_the_name_of_its_port_and_of_its_pod() {
        let pod = PodKey { namespace: "ns".into(), name: "a.b".into() };
        let nic = NicKey { holder: pod.clone(), provider: Some("data.ns.ovn".into()) };
        assert_eq!(&*nic.port(), "a.b.ns.data.ns.ovn");
        assert_eq!(NicKey::of_port(&nic.port(), pod.clone()).unwrap(), nic);
        assert_eq!(NicKey::of_port("a.b.ns", pod.clone()).unwrap(), NicKey::primary(pod.clone()));
        assert_eq!(NicKey::of_port("a.b.nsx", pod.clone()), None);
        assert_eq!(NicKey::of_port("a.b.ns.", pod), None);
        assert_eq!(NicKey::of_vip("x.y").vip().as_deref(), Some("x.y"));
        let node = NicKey::of_node("n1.example.org");
        assert_eq!((&*node.port(), node.node()), ("node-n1.example.org", Some("n1.example.org")));
        assert_eq!(NicKey::of_vip("node-a").node(), None);
        let interconnection = NicKey::of_interconnection("ovn-cluster", "lan");
        assert_eq!((&*interconnection.port(), interconnection.is_interconnection()), ("u2o-interconnection.ovn-cluster.lan", true));
        assert!(!NicKey::primary(PodKey::of_port("u2o-interconnection.ovn-cluster.lan")).is_interconnection());
    }
}
