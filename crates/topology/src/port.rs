//! Allocation → logical switch port of a NIC, the record on the pod, and the `IP` object.

use std::sync::Arc;

use api::DEFAULT_VPC;
use api::annotations::NicRecord;
use engine::{Cx, Engine};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_switch as ls, logical_switch_port as lsp, port_group as group};

use crate::fact::{Fact, FactValue, IpHolder, Problem};
use crate::holder::{self, Identity, Workload};
use crate::northbound::{RowFact, external_ids, refer, switch};
use crate::world::{Allocation, Ip, Name, Network, Networks, NicKey, NodePods, Pod, PodKey, PortNotes, World};
use crate::{dhcp, ip, migration, networks, node, security};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Allocation>("port", |cx, key, nic, out| {
        let Some(network) = cx.get::<Network>(&nic.subnet) else { return };
        // A node's the rule `node` says, and a router's the rule `subnet`.
        if key.vip().is_some() || key.node().is_some() || key.is_interconnection() {
            return;
        }
        let mut users = users(cx, key, &nic.identity);
        let mut places = None;
        if matches!(nic.identity, Identity::Workload(Workload::VirtualMachine(_))) && !users.is_empty() {
            let pods: Vec<_> = users.iter().map(|user| (&user.key, user.pod)).collect();
            let found = migration::places(cx, &key.holder, &pods);
            // What is one's alone, such as the node, is that of the pod which the machine runs in.
            users.swap(0, found.home);
            places = Some(found);
        }
        let node = users.first().and_then(|user| user.pod.node.clone());
        out.say(Fact::Ip(key.clone()), FactValue::Ip(IpHolder { node: node.clone(), nic: nic.clone() }));
        let Some(first) = users.first() else { return };
        let (name, ours) = (key.port(), first.ours && network.switch);
        if ours {
            let none = PortNotes::default();
            let notes = first.notes.unwrap_or(&none);
            let (allowed, mut problem) = security::pairs(cx, key, nic, notes.security.as_ref());
            for why in notes.dhcp.iter().flat_map(|dhcp| &dhcp.wrong) {
                let told = problem.get_or_insert(Problem { reason: "BadAnnotation", message: String::new() });
                told.message += &format!("{}{why}", if told.message.is_empty() { "" } else { "; " });
            }
            if let Some(problem) = problem {
                for user in &users {
                    out.say(Fact::PortProblem(user.key.clone(), key.provider.clone()), FactValue::Problem(problem.clone()));
                }
            }
            let row = RowKey::new(lsp::TABLE, Arc::clone(&name));
            // Of each family that both the subnet and the port have.
            let mut answers = [None, None];
            for (v4, answer) in [true, false].into_iter().zip(&mut answers) {
                let Some(cidr) = network.cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == v4) else { continue };
                if nic.addresses.iter().all(|address| address.is_ipv4() != v4) {
                    continue;
                }
                let own = dhcp::Answer { subnet: &nic.subnet, cidr, gateways: &network.gateways, mtu: network.mtu };
                let own = notes.dhcp.as_ref().and_then(|given| own.of_port(&name, given, out));
                *answer = own.or_else(|| network.dhcp.then(|| dhcp::reference(&nic.subnet, cidr.addr())));
            }
            let [answer4, answer6] = answers;
            let pod = format!("{}/{}", key.holder.namespace, key.holder.name);
            RowFact::new(row.clone())
                .set(lsp::NAME, name.to_string())
                .set(lsp::ADDRESSES, [security::pair(nic.mac, &nic.addresses)].into())
                .set(lsp::PORT_SECURITY, allowed.into_iter().collect())
                .set(lsp::DHCPV4_OPTIONS, answer4)
                .set(lsp::DHCPV6_OPTIONS, answer6)
                .set(lsp::EXTERNAL_IDS, external_ids(&[("ls", &nic.subnet), ("pod", &pod)]))
                .set(lsp::OPTIONS, places.as_ref().map(|places| places.options.clone()).unwrap_or_default())
                .say(out);
            if places.is_some_and(|places| places.is_migrating) {
                migration::join(row.clone(), out);
            }
            refer(out, switch(&nic.subnet), ls::PORTS, row.clone());
            // Of those that leave by chosen nodes another policy says so.
            let by_own_node = network.router && *network.vpc == *DEFAULT_VPC && network.central.is_none();
            if let Some(node) = node.filter(|_| by_own_node)
                && cx.get::<NodePods>(&node).is_some()
            {
                refer(out, node::pods_of(&node), group::PORTS, row);
            }
        }

        // Addresses that outlive their pod: nobody is told of them before it is recorded that they do.
        if matches!(nic.identity, Identity::Workload(_)) && !cx.get::<Ip>(&name).is_some_and(|ip| ip.nic == *key && ip::records(ip, nic)) {
            return;
        }
        // A MAC alone is of no range, although the subnet may have one by now.
        let has_range = !nic.addresses.is_empty();
        let record = NicRecord {
            subnet: nic.subnet.as_ref().into(),
            addresses: nic.addresses.clone(),
            mac: nic.mac,
            cidrs: has_range.then_some(network.cidrs),
            gateways: if has_range { network.gateways.clone() } else { Vec::new() },
            segment: network.segment.clone(),
        };
        for User { key: pod, pod: Pod { uid, .. }, recorded, .. } in users {
            if recorded != Some(&record) {
                let vpc = network.routed_by().cloned();
                let value = FactValue::Record { uid: Arc::clone(uid), vpc, ours, record: Box::new(record.clone()) };
                out.say(Fact::Record(pod, key.provider.clone()), value);
            }
        }
    });
}

/// A pod that has the NIC.
struct User<'w> {
    key: PodKey,
    pod: &'w Pod,
    /// Whether the NIC is ours to make.
    ours: bool,
    recorded: Option<&'w NicRecord>,
    notes: Option<&'w PortNotes>,
}

fn users<'w>(cx: &mut Cx<'w, World>, nic: &NicKey, identity: &Identity) -> Vec<User<'w>> {
    let pods = holder::pods(cx, &nic.holder, Some(identity)).into_iter();
    match &nic.provider {
        None => pods.map(|(key, pod)| User { key, pod, ours: true, recorded: pod.recorded.as_ref(), notes: pod.port.as_deref() }).collect(),
        Some(provider) => pods.filter_map(|(key, pod)| further(cx, key, pod, provider)).collect(),
    }
}

/// The pod, if it has a NIC of this provider.
fn further<'w>(cx: &mut Cx<'w, World>, key: PodKey, pod: &'w Pod, provider: &Name) -> Option<User<'w>> {
    let ours = !networks::attachment(cx, &key, provider)?.addresses_only;
    let said = cx.get::<Networks>(&key)?.notes.get(&**provider);
    let (recorded, notes) = said.map_or((None, None), |said| (said.recorded.as_ref(), said.port.as_deref()));
    Some(User { key, pod, ours, recorded, notes })
}
