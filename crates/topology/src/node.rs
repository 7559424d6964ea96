//! `Node` → its own port in the default VPC, by which it and the pods reach each other: one port and one policy per address family
//! for each node, whatever the number of pods and subnets.

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::NicRecord;
use api::{DEFAULT_VPC, JOIN_SUBNET};
use engine::{Cx, Engine};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_switch as ls, logical_switch_port as lsp, port_group as group};

use crate::fact::{Fact, FactValue, IpHolder, NicRequest, Problem};
use crate::holder::Identity;
use crate::northbound::{self, Policy, RowFact, external_ids, refer, switch};
use crate::world::{Allocation, Egress, Name, Network, NicKey, Node, NodePods, World};
use crate::{egress, security};

/// Key in `external_ids` of a port, group or policy of a node.
pub(crate) const MARK: &str = "node";

/// Priority of policies that lead to nodes, which Kube-OVN gives them.
pub(crate) const TO_NODE: i64 = 30_000;
/// Priority of policies by which pods leave.
pub(crate) const LEAVE: i64 = 29_000;

/// What names of groups of the pods of a node begin with.
pub(crate) const GROUP: &str = "leave.";

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.rule::<Node, NodePods>("node", |cx, name, node, out| {
        let (nic, join) = (NicKey::of_node(name), Name::from(JOIN_SUBNET));
        let Some(network) = cx.get::<Network>(&join).filter(|network| network.router && *network.vpc == *DEFAULT_VPC) else { return };
        let recorded = match &node.recorded {
            Ok(recorded) => recorded.as_ref().filter(|record| *record.subnet == *join),
            Err(why) => {
                let problem = Problem { reason: "BadAnnotation", message: why.clone() };
                return out.say(Fact::NodeProblem(Arc::clone(name)), FactValue::Problem(problem));
            }
        };
        out.say(Fact::Request(nic.clone()), FactValue::Request(request(node, join, recorded)));
        let Some(held) = cx.get::<Allocation>(&nic) else { return };
        out.say(Fact::Ip(nic.clone()), FactValue::Ip(IpHolder { node: Some(Arc::clone(name)), nic: held.clone() }));

        let row = RowKey::new(lsp::TABLE, nic.port());
        RowFact::new(row.clone())
            .set(lsp::NAME, nic.port().to_string())
            .set(lsp::ADDRESSES, [security::pair(held.mac, &held.addresses)].into())
            .set(lsp::EXTERNAL_IDS, external_ids(&[("ls", &held.subnet), (MARK, name)]))
            .say(out);
        refer(out, switch(&held.subnet), ls::PORTS, row);

        let leaves = leaves_by_node(cx, &network.vpc);
        // Policies are looked at only for what has a route, and families without a way out have none for all.
        if leaves {
            RowFact::new(pods_of(name)).set(group::NAME, group_name(name)).set(group::EXTERNAL_IDS, external_ids(&[(MARK, name)])).say(out);
            out.derive(Arc::clone(name), NodePods);
        }
        for via in &held.addresses {
            let family = northbound::family(*via);
            if let Some(address) = node.addresses.iter().find(|address| address.is_ipv4() == via.is_ipv4()) {
                reroute(out, name, TO_NODE, format!("{family}.dst == {address}"), *via);
                if !egress::leads(cx, &network.vpc, *via) {
                    egress::lead(&network.vpc, &address.to_string(), *via, out);
                }
            }
            if leaves {
                reroute(out, name, LEAVE, format!("{family}.src == ${}_{family}", group_name(name)), *via);
            }
        }

        let record = NicRecord {
            subnet: held.subnet.as_ref().into(),
            addresses: held.addresses.clone(),
            mac: held.mac,
            cidrs: Some(network.cidrs),
            gateways: network.gateways.clone(),
            segment: None,
        };
        if recorded != Some(&record) {
            let value = FactValue::Node { uid: Arc::clone(&node.uid), record: Box::new(record) };
            out.say(Fact::Node(Arc::clone(name)), value);
        }
    });
}

/// What is recorded is held; else anything in the subnet will do.
fn request(node: &Node, subnet: Name, recorded: Option<&NicRecord>) -> NicRequest {
    NicRequest {
        identity: Identity::Reserved,
        subnet,
        addresses: recorded.map(|record| record.addresses.clone()).unwrap_or_default(),
        mac: recorded.map(|record| record.mac),
        source: None,
        held: recorded.is_some(),
        running: true,
        created: node.created,
    }
}

/// A policy of the router that leads what matches to the node.
fn reroute<DK, D>(out: &mut engine::Out<Fact, DK, D>, node: &Name, priority: i64, matching: String, via: IpAddr) {
    let family = if via.is_ipv4() { 4 } else { 6 };
    let key = format!("node/{node}/{priority}/{family}");
    Policy { key, priority, matching, action: "reroute", via: &[via], marks: &[(MARK, node)] }.say(DEFAULT_VPC, out);
}

/// Whether pods of the VPC leave by the port of their node.
pub(crate) fn leaves_by_node(cx: &mut Cx<'_, World>, vpc: &Name) -> bool {
    matches!(cx.get::<Egress>(vpc), Some(Egress::Join))
}

/// The group of the pods on a node that leave by its port.
pub(crate) fn pods_of(node: &str) -> RowKey {
    RowKey::new(group::TABLE, format!("leave/{node}"))
}

/// Names of groups have no dashes (ovn-nb(5)), and those of nodes no underscores.
fn group_name(node: &str) -> String {
    format!("{GROUP}{}", node.replace('-', "_"))
}
