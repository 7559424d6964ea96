//! What the cluster's objects say about who reaches whom. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::annotations::{GATEWAY, LOGICAL_ROUTER, LOGICAL_SWITCH};
use api::v1::Subnet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::Serialize;

use super::{Kind, Skipped};
use crate::wait::key;

/// Where a pod is in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIntent {
    /// `namespace/name`.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Node that it runs on.
    pub node: String,
    /// VPC of its subnet.
    pub vpc: String,
    /// Its subnet.
    pub subnet: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Gateways of its subnet.
    pub gateways: Vec<IpAddr>,
    /// Whether it leaves for the outside.
    pub leaves: Leaves,
}

/// How a pod reaches hosts outside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Leaves {
    /// Not at all.
    Never,
    /// Under its node's address.
    Translated,
    /// Under its own, and whether anything comes back is for the outside to know.
    Routed,
}

/// Where all pods are, and who is outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// The pods, sorted by namespace and name.
    pub pods: Vec<PodIntent>,
    /// Pods that have no place in the network.
    pub skipped: Vec<Skipped>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Outside hosts by name.
    pub outside: BTreeMap<String, Vec<IpAddr>>,
}

/// A check to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) from: Target,
    pub(crate) to: Target,
    pub(crate) address: IpAddr,
    pub(crate) kind: Kind,
    pub(crate) expected: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// By its place in [`Intent::pods`].
    Pod(usize),
    Node(String),
    Gateway,
    Outside(String),
}

impl Intent {
    /// Reads pods, subnets, and the names of the VPCs that leave through hosts.
    #[must_use]
    pub fn new(
        pods: &[Pod],
        subnets: &[Subnet],
        leaving: &[String],
        nodes: BTreeMap<String, Vec<IpAddr>>,
        outside: BTreeMap<String, Vec<IpAddr>>,
    ) -> Self {
        let subnets: BTreeMap<_, _> = subnets.iter().map(|subnet| (subnet.name_any(), subnet)).collect();
        let mut intent = Self { nodes, outside, ..Self::default() };
        let mut pods: Vec<_> = pods.iter().collect();
        pods.sort_by_key(|pod| key(pod));
        for pod in pods {
            match read(pod, &subnets, leaving) {
                Ok(Some(read)) => intent.pods.push(read),
                Ok(None) => {}
                Err(reason) => intent.skipped.push(Skipped { pod: key(pod), reason }),
            }
        }
        intent
    }

    /// Every check to make.
    pub(crate) fn plan(&self) -> Vec<Planned> {
        let mut plan = Vec::new();
        for (from, source) in self.pods.iter().enumerate() {
            let speaks = |address: &IpAddr| source.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4());
            for (to, target) in self.pods.iter().enumerate().filter(|(to, _)| *to != from) {
                let expected = source.vpc == target.vpc;
                let kinds: &[Kind] = if expected {
                    &[Kind::Tcp, Kind::Udp, Kind::Icmp, Kind::Mtu, Kind::Transfer]
                } else {
                    &[Kind::Tcp, Kind::Udp, Kind::Icmp]
                };
                for address in target.addresses.iter().copied().filter(speaks) {
                    let (from, to) = (Target::Pod(from), Target::Pod(to));
                    plan.extend(kinds.iter().map(|kind| Planned { from: from.clone(), to: to.clone(), address, kind: *kind, expected }));
                }
            }
            for address in source.gateways.iter().copied().filter(speaks) {
                plan.push(Planned { from: Target::Pod(from), to: Target::Gateway, address, kind: Kind::Icmp, expected: true });
            }
            let told = source.leaves != Leaves::Routed;
            let outside = self.outside.iter().flat_map(|(host, addresses)| addresses.iter().map(move |address| (host, address)));
            for (host, address) in outside.filter(|(_, address)| told && speaks(address)) {
                let to = Target::Outside(host.clone());
                plan.extend([Kind::Tcp, Kind::Udp, Kind::Icmp].map(|kind| Planned {
                    from: Target::Pod(from),
                    to: to.clone(),
                    address: *address,
                    kind,
                    expected: source.leaves == Leaves::Translated,
                }));
            }
            self.plan_nodes(from, source, &mut plan);
        }
        plan
    }

    /// A pod of the default VPC and each node reach each other. Of another one, that leaves through hosts, a pod reaches them as it
    /// does other hosts, and is reached by its own node. Others neither reach nor are reached.
    fn plan_nodes(&self, pod: usize, intent: &PodIntent, plan: &mut Vec<Planned>) {
        let own = intent.vpc == api::DEFAULT_VPC;
        for (node, node_address) in self.nodes.iter().flat_map(|(node, all)| all.iter().map(move |address| (node, address))) {
            let same = *node == intent.node;
            let (reaches, reached) = match intent.leaves {
                _ if own => (Some(true), true),
                Leaves::Never => (Some(false), false),
                Leaves::Translated => (Some(true), same),
                // Whether another node has a way back is for the network between them to know.
                Leaves::Routed => (same.then_some(true), same),
            };
            let mut say = |from: Target, to: Target, address: IpAddr, expected: bool| {
                let kinds: &[Kind] = if expected { &[Kind::Tcp, Kind::Udp, Kind::Icmp, Kind::Mtu] } else { &[Kind::Tcp, Kind::Icmp] };
                plan.extend(kinds.iter().map(|kind| Planned { from: from.clone(), to: to.clone(), address, kind: *kind, expected }));
            };
            for address in intent.addresses.iter().copied().filter(|own| own.is_ipv4() == node_address.is_ipv4()) {
                if let Some(reaches) = reaches {
                    say(Target::Pod(pod), Target::Node(node.clone()), *node_address, reaches);
                }
                say(Target::Node(node.clone()), Target::Pod(pod), address, reached);
            }
        }
    }

    pub(crate) fn name(&self, target: &Target) -> String {
        match target {
            Target::Pod(index) => self.pods[*index].pod.clone(),
            Target::Gateway => "gateway".to_owned(),
            Target::Node(host) | Target::Outside(host) => host.clone(),
        }
    }
}

/// `None` for pods that the check does not concern: those in their node's network, those that are over, and those whose addresses only a server on
/// their Vlan knows.
fn read(pod: &Pod, subnets: &BTreeMap<String, &Subnet>, leaving: &[String]) -> Result<Option<PodIntent>, String> {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if spec.host_network == Some(true) || over || pod.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let addresses: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    let annotation = |name: &str| pod.annotations().get(name).filter(|value| !value.is_empty()).cloned();
    let subnet = annotation(LOGICAL_SWITCH);
    let object = subnet.as_ref().and_then(|subnet| subnets.get(subnet));
    if addresses.is_empty() {
        let is_alone = object.is_some_and(|object| object.spec.protocol.as_deref() == Some("Mac"));
        return if is_alone { Ok(None) } else { Err("it has no address".to_owned()) };
    }
    let subnet = subnet.ok_or_else(|| format!("annotation {LOGICAL_SWITCH} is missing"))?;
    let of_subnet = object.map(|object| object.spec.vpc_name().to_owned());
    let vpc = of_subnet.or_else(|| annotation(LOGICAL_ROUTER)).ok_or_else(|| format!("there is no subnet {subnet}"))?;
    let gateways = annotation(GATEWAY).unwrap_or_default().split(',').filter_map(|gateway| gateway.trim().parse().ok()).collect();
    let node = spec.node_name.unwrap_or_default();
    let leaves = match object.is_some_and(|object| object.spec.nat_outgoing == Some(true)) {
        _ if vpc != api::DEFAULT_VPC && !leaving.contains(&vpc) => Leaves::Never,
        true => Leaves::Translated,
        false => Leaves::Routed,
    };
    Ok(Some(PodIntent { pod: key(pod), uid: pod.uid().unwrap_or_default(), node, vpc, subnet, addresses, gateways, leaves }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subnet(name: &str, vpc: Option<&str>) -> Subnet {
        serde_json::from_value(json!({"apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": {"name": name}, "spec": {"vpc": vpc}}))
            .unwrap()
    }

    fn pod(name: &str, subnet: &str, addresses: &[&str]) -> Pod {
        let node = if name == "d" { "node1" } else { "node2" };
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "annotations": {LOGICAL_SWITCH: subnet, GATEWAY: "10.0.0.1,fd00::1"}},
            "spec": {"containers": [], "nodeName": node},
            "status": {"podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
        }))
        .unwrap()
    }

    #[test]
    fn pods_reach_each_other_within_a_vpc_and_the_outside_if_they_leave_under_their_nodes_address() {
        let mut translated = subnet("s2", Some("ovn-cluster"));
        translated.spec.nat_outgoing = Some(true);
        let subnets = [subnet("s1", None), translated, subnet("red", Some("red")), subnet("blue", Some("blue"))];
        let (a, b) = (pod("a", "s1", &["10.0.0.2"]), pod("b", "s2", &["10.1.0.2", "fd01::2"]));
        let pods = [a, b, pod("c", "red", &["10.0.0.2"]), pod("d", "blue", &["10.2.0.2"]), pod("e", "blue", &["10.2.0.3"])];
        let host = |name: &str, address: &str| BTreeMap::from([(name.to_owned(), vec![address.parse().unwrap()])]);
        let leaving = ["blue".to_owned()];
        let intent = Intent::new(&pods, &subnets, &leaving, host("node1", "10.9.0.11"), host("outside1", "10.9.0.101"));
        let plan = intent.plan();
        let count = |from: usize, to: &Target, expected: bool| {
            plan.iter().filter(|c| c.from == Target::Pod(from) && c.to == *to && c.expected == expected).count()
        };
        let node = Target::Node("node1".to_owned());
        assert_eq!((count(0, &node, true), count(2, &node, true), count(2, &node, false)), (4, 0, 2), "VPC red is not that of nodes");
        let back =
            |to: usize, expected: bool| plan.iter().filter(|c| c.from == node && c.to == Target::Pod(to) && c.expected == expected).count();
        assert_eq!((back(1, true), back(3, true), back(4, false)), (4, 4, 2), "of VPC blue the node reaches its own pods");
        assert_eq!((count(3, &node, true), count(4, &node, true), count(4, &node, false)), (4, 0, 0), "others are routed, or not");
        assert_eq!(count(0, &Target::Pod(1), true), 5, "IPv4 only, as the source has no other");
        assert_eq!((count(0, &Target::Pod(2), false), count(0, &Target::Pod(2), true)), (3, 0), "the same address in another VPC");
        assert_eq!((count(0, &Target::Gateway, true), count(1, &Target::Gateway, true)), (1, 2));
        let outside = Target::Outside("outside1".to_owned());
        let counts = [0, 1, 2].map(|from| (count(from, &outside, true), count(from, &outside, false)));
        assert_eq!(counts, [(0, 0), (3, 0), (0, 3)], "routed, translated, and in a VPC that has no way out");
        assert_eq!(count(0, &Target::Pod(0), true), 0, "nobody probes itself");
    }

    #[test]
    fn a_pod_without_a_place_is_named_with_the_reason() {
        let intent = Intent::new(&[pod("a", "gone", &["10.0.0.2"]), pod("b", "s", &[])], &[], &[], BTreeMap::new(), BTreeMap::new());
        let mut alone = subnet("lan", None);
        alone.spec.protocol = Some("Mac".to_owned());
        let asks = Intent::new(&[pod("a", "lan", &[])], &[alone], &[], BTreeMap::new(), BTreeMap::new());
        assert_eq!((asks.pods.len(), asks.skipped.len()), (0, 0), "nobody here knows its address");
        let reasons: Vec<_> = intent.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
        assert_eq!(reasons, ["there is no subnet gone", "it has no address"]);
    }
}
