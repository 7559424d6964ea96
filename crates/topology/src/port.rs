//! Allocation → logical switch port of a pod, the record on the pod, and the `IP` object.

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::NicRecord;
use engine::Engine;
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_switch as ls, logical_switch_port as lsp};

use crate::fact::{Fact, FactValue, IpHolder};
use crate::holder::{self, Identity};
use crate::ip;
use crate::northbound::{RowFact, external_ids, refer, switch};
use crate::world::{Allocation, Ip, Network, World};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Allocation>("port", |cx, key, nic, out| {
        let Some(network) = cx.get::<Network>(&nic.subnet) else { return };
        if key.vip().is_some() {
            return;
        }
        let pods = holder::pods(cx, key, Some(&nic.identity));
        let name = key.port();
        let node = pods.first().and_then(|(_, pod)| pod.node.clone());
        let shown = IpHolder { holder: key.clone(), node, nic: nic.clone() };
        out.say(Fact::Ip(Arc::clone(&name)), FactValue::Ip(shown));
        if pods.is_empty() {
            return;
        }
        let row = RowKey::new(lsp::TABLE, Arc::clone(&name));
        RowFact::new(row.clone())
            .set(lsp::NAME, name.to_string())
            .set(lsp::ADDRESSES, [addresses(nic)].into())
            .set(lsp::EXTERNAL_IDS, external_ids(&[("ls", &nic.subnet), ("pod", &format!("{}/{}", key.namespace, key.name))]))
            .say(out);
        refer(out, switch(&nic.subnet), ls::PORTS, row);

        // Addresses that outlive their pod: nobody is told of them before it is recorded that they do.
        if matches!(nic.identity, Identity::Workload(_)) && !cx.get::<Ip>(&name).is_some_and(|ip| ip::records(ip, nic)) {
            return;
        }
        let record = NicRecord {
            subnet: nic.subnet.as_ref().into(),
            addresses: nic.addresses.clone(),
            mac: nic.mac,
            cidrs: Some(network.cidrs),
            gateways: network.gateways.clone(),
        };
        for (key, pod) in pods {
            if pod.recorded.as_ref() != Some(&record) {
                let value =
                    FactValue::Record { uid: Arc::clone(&pod.uid), vpc: Arc::clone(&network.vpc), record: Box::new(record.clone()) };
                out.say(Fact::Record(key.clone()), value);
            }
        }
    });
}

/// The `addresses` element of ovn-nb(5): MAC, then addresses, separated by blanks.
fn addresses(nic: &Allocation) -> String {
    nic.addresses.iter().map(IpAddr::to_string).fold(nic.mac.to_string(), |text, ip| text + " " + &ip)
}
