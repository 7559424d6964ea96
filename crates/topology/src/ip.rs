//! `IP` objects: a view of each NIC, and the record of those whose addresses outlive their pod.

use std::sync::Arc;

use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, NicRequest, Problem};
use crate::holder::{self, Identity, Workload};
use crate::world::{Allocation, Ip, Keeper, Name, Network, Replicas, ReplicasKey, ReplicasKind, World};
use crate::{macs_alone, networks};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Ip>("kept", |cx, name, ip, out| {
        // While a pod is there, it asks by itself, or does not want the NIC any more.
        let pods = holder::pods(cx, &ip.nic.holder, None);
        let asked = match (&ip.nic.provider, &ip.keeper) {
            // What a user reserved is not a pod's to give up.
            (Some(provider), Keeper::User) => pods.iter().any(|(key, _)| networks::attachment(cx, key, provider).is_some()),
            _ => !pods.is_empty(),
        };
        if ip.deleting || asked || !keeps(cx, ip) {
            return;
        }
        let problem = match cx.get::<Network>(&ip.subnet).map(|network| request(ip, network)) {
            Some(Some(request)) => return out.say(Fact::Request(ip.nic.clone()), FactValue::Request(request)),
            Some(None) => Problem { reason: "NoAddresses", message: format!("spec.subnet: {}", macs_alone::reason(&ip.subnet)) },
            None => {
                let message = format!("spec.subnet: subnet {:?} does not exist, or is not usable: see its conditions", ip.subnet);
                Problem { reason: "NoSubnet", message }
            }
        };
        out.say(Fact::IpProblem(Arc::clone(name)), FactValue::Problem(problem));
    });
}

/// What the record asks of the allocator; `None` when that is addresses of a subnet that has none.
pub(crate) fn request(ip: &Ip, network: &Network) -> Option<NicRequest> {
    let is_alone = network.cidrs.is_empty();
    if is_alone && !ip.addresses.is_empty() {
        return None;
    }
    Some(NicRequest {
        identity: identity(ip),
        subnet: Arc::clone(&ip.subnet),
        addresses: ip.addresses.clone(),
        mac: ip.mac,
        source: None,
        held: ip.mac.is_some() && (is_alone || !ip.addresses.is_empty()),
        running: false,
        created: ip.created,
    })
}

/// Who the recorded NIC belongs to.
pub(crate) fn identity(ip: &Ip) -> Identity {
    match &ip.keeper {
        Keeper::User => Identity::Reserved,
        Keeper::StatefulSet { name, .. } => Identity::Workload(Workload::StatefulSet(Arc::clone(name))),
        Keeper::VirtualMachine => Identity::Workload(Workload::VirtualMachine(Arc::clone(&ip.nic.holder.name))),
    }
}

/// Whether a NIC of a workload would be found again by this record.
pub(crate) fn records(ip: &Ip, nic: &Allocation) -> bool {
    !ip.deleting && identity(ip) == nic.identity && ip.subnet == nic.subnet && ip.addresses == nic.addresses && ip.mac == Some(nic.mac)
}

/// Whether what keeps the addresses is there.
fn keeps(cx: &mut Cx<'_, World>, ip: &Ip) -> bool {
    let mut has = |kind, name: &Name, ordinal: u32| {
        let key = ReplicasKey { kind, namespace: Arc::clone(&ip.nic.holder.namespace), name: Arc::clone(name) };
        cx.get::<Replicas>(&key).is_some_and(|replicas| replicas.ordinals.contains(&ordinal))
    };
    match &ip.keeper {
        Keeper::User => true,
        Keeper::StatefulSet { name, ordinal } => has(ReplicasKind::StatefulSet, name, *ordinal),
        // A machine that is stopped has no instance, and an instance need not have a machine.
        Keeper::VirtualMachine => {
            has(ReplicasKind::VirtualMachine, &ip.nic.holder.name, 0) || has(ReplicasKind::Instance, &ip.nic.holder.name, 0)
        }
    }
}
