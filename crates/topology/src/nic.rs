//! `Pod` → which NIC it asks for.

use std::sync::Arc;

use api::annotations::NicAnnotations;
use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, NicRequest, Problem};
use crate::world::{Allocation, Name, Namespace, Network, Pod, PodKey, Subnet, SubnetsByDefault, SubnetsByNamespace, World};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Pod>("nic", |cx, key, pod, out| match request(cx, key, pod) {
        Ok(Some(request)) => out.say(Fact::Request(key.clone()), FactValue::Request(request)),
        Ok(None) => {}
        Err(problem) => out.say(Fact::PodProblem(key.clone()), FactValue::Problem(problem)),
    });
}

/// The request; nothing while the pod's namespace is not known.
fn request(cx: &mut Cx<'_, World>, key: &PodKey, pod: &Pod) -> Result<Option<NicRequest>, Problem> {
    // What a pod holds it keeps: its subnet is not chosen again.
    if let Some(record) = &pod.recorded {
        let request = NicRequest {
            uid: Arc::clone(&pod.uid),
            subnet: Arc::from(record.subnet.as_ref()),
            addresses: record.addresses.clone(),
            mac: Some(record.mac),
            held: true,
        };
        return Ok(cx.get::<Network>(&request.subnet).map(|_| request));
    }
    let asked = pod.asked.as_ref().map_err(|why| Problem { reason: "BadAnnotation", message: why.clone() })?;
    let Some(namespace) = cx.get::<Namespace>(&key.namespace) else { return Ok(None) };
    let subnet = choose(cx, key, namespace, asked)?;
    let Some(network) = cx.get::<Network>(&subnet) else {
        let why = if cx.get::<Subnet>(&subnet).is_some() { "is not usable: see its conditions" } else { "does not exist" };
        return Err(Problem { reason: "NoSubnet", message: format!("subnet {subnet:?} {why}") });
    };
    // A NIC that was allocated but not yet recorded when the subnet began to close stays.
    if network.closing && cx.get::<Allocation>(key).is_none_or(|nic| nic.uid != pod.uid || nic.subnet != subnet) {
        return Err(Problem { reason: "SubnetClosing", message: format!("subnet {subnet:?} is being deleted") });
    }
    let NicAnnotations { addresses, mac, .. } = asked.clone();
    Ok(Some(NicRequest { uid: Arc::clone(&pod.uid), subnet, addresses, mac, held: false }))
}

/// The pod's own choice, else its namespace's, else the subnet that names the namespace (the first by name), else the
/// default one.
fn choose(cx: &mut Cx<'_, World>, key: &PodKey, namespace: &Namespace, asked: &NicAnnotations) -> Result<Name, Problem> {
    if let Some(subnet) = asked.subnet.as_deref().map(Arc::from).or_else(|| namespace.subnet.clone()) {
        return Ok(subnet);
    }
    let of_namespace = cx.keys::<SubnetsByNamespace>(&key.namespace).next().cloned();
    let chosen = of_namespace.or_else(|| cx.keys::<SubnetsByDefault>(&()).next().cloned());
    chosen.ok_or_else(|| Problem {
        reason: "NoSubnet",
        message: format!("no subnet is chosen by annotation, none names namespace {:?}, and none is the default", key.namespace),
    })
}
