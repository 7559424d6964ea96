//! `Pod` → which NIC it asks for.

use std::sync::Arc;

use api::annotations::{IP_POOL, NicAnnotations, PoolChoice};
use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, NicRequest, Problem, Source};
use crate::holder::Workload;
use crate::ip;
use crate::world::{
    Allocation, Ip, Keeper, Name, Namespace, Network, Pod, PodKey, Pool, PoolsByNamespace, Subnet, SubnetsByDefault, SubnetsByNamespace,
    World,
};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Pod>("nic", |cx, key, pod, out| {
        let holder = pod.holder(key);
        match request(cx, key, &holder, pod) {
            Ok(Some(request)) => out.say(Fact::Request(holder), FactValue::Request(request)),
            Ok(None) => {}
            Err(problem) => out.say(Fact::PodProblem(key.clone()), FactValue::Problem(problem)),
        }
    });
}

/// The request; nothing while the pod's namespace is not known.
fn request(cx: &mut Cx<'_, World>, key: &PodKey, holder: &PodKey, pod: &Pod) -> Result<Option<NicRequest>, Problem> {
    if holder != key && cx.get::<Pod>(holder).is_some() {
        let message = format!(
            "pod {}/{} has the name of this pod's virtual machine, and their ports would have one name",
            holder.namespace, holder.name
        );
        return Err(Problem { reason: "NameTaken", message });
    }
    // What a pod holds it keeps: its subnet is not chosen again.
    if let Some(record) = &pod.recorded {
        let request = NicRequest {
            identity: pod.identity(),
            subnet: Arc::from(record.subnet.as_ref()),
            addresses: record.addresses.clone(),
            mac: Some(record.mac),
            source: Source::default(),
            held: true,
            running: true,
            created: pod.created,
        };
        return Ok(cx.get::<Network>(&request.subnet).map(|_| request));
    }
    let asked = pod.asked.as_ref().map_err(|why| Problem { reason: "BadAnnotation", message: why.clone() })?;
    // What was kept for it, unless it asks for something else by now.
    if let Some(ip) = cx.get::<Ip>(&holder.port())
        && !ip.deleting
        && (ip.keeper == Keeper::User || ip::identity(ip) == pod.identity())
        && asks_for(asked, ip)
        && cx.get::<Network>(&ip.subnet).is_some()
    {
        return Ok(Some(NicRequest { running: true, created: pod.created, ..ip::request(ip) }));
    }
    let Some(namespace) = cx.get::<Namespace>(&key.namespace) else { return Ok(None) };
    let named = match asked.pool.as_deref() {
        Some(PoolChoice::Named(pools)) => pools.iter().map(|pool| Name::from(pool.as_ref())).collect(),
        _ => Vec::new(),
    };
    let subnet = match (&asked.subnet, named.first()) {
        // A pool is of one subnet, which need not be named beside it.
        (None, Some(pool)) => subnet_of(cx, pool)?,
        _ => choose(cx, key, namespace, asked)?,
    };
    let network = network(cx, &subnet, "")?;
    // A NIC that was allocated but not yet recorded when the subnet began to close stays.
    if network.closing && cx.get::<Allocation>(holder).is_none_or(|nic| nic.identity != pod.identity() || nic.subnet != subnet) {
        return Err(Problem { reason: "SubnetClosing", message: format!("subnet {subnet:?} is being deleted") });
    }
    let NicAnnotations { mut addresses, mac, family, .. } = asked.clone();
    let mut source = Source { pools: named, candidates: Vec::new(), family };
    match asked.pool.as_deref() {
        Some(PoolChoice::Listed(entries)) if addresses.is_empty() => match ordinal(key, pod) {
            Some(ordinal) => {
                let entry = entries.get(ordinal as usize).ok_or_else(|| Problem {
                    reason: "BadAnnotation",
                    message: format!("annotation {IP_POOL}: has {} entries, and none for ordinal {ordinal}", entries.len()),
                })?;
                addresses.clone_from(entry);
            }
            None => source.candidates = entries.iter().flatten().copied().collect(),
        },
        Some(PoolChoice::Named(_)) => {
            for pool in &source.pools {
                if *subnet != *subnet_of(cx, pool)? {
                    let message = format!("pool {pool:?} is not of subnet {subnet:?}");
                    return Err(Problem { reason: "BadAnnotation", message: format!("annotation {IP_POOL}: {message}") });
                }
            }
        }
        _ => source.pools = pools_of_namespace(cx, key, namespace, &subnet),
    }
    Ok(Some(NicRequest { identity: pod.identity(), subnet, addresses, mac, source, held: false, running: true, created: pod.created }))
}

/// The network of a subnet that somebody names; `field` says where, for the message.
pub(crate) fn network<'w>(cx: &mut Cx<'w, World>, subnet: &Name, field: &str) -> Result<&'w Network, Problem> {
    if let Some(network) = cx.get::<Network>(subnet) {
        return Ok(network);
    }
    let why = if cx.get::<Subnet>(subnet).is_some() { "is not usable: see its conditions" } else { "does not exist" };
    Err(Problem { reason: "NoSubnet", message: format!("{field}subnet {subnet:?} {why}") })
}

/// The subnet of a pool.
fn subnet_of(cx: &mut Cx<'_, World>, pool: &Name) -> Result<Name, Problem> {
    match cx.get::<Pool>(pool).map(|pool| &pool.spec) {
        Some(Ok(spec)) => Ok(Arc::clone(&spec.subnet)),
        Some(Err(_)) => Err(Problem { reason: "NoPool", message: format!("pool {pool:?} is not usable: see its conditions") }),
        None => Err(Problem { reason: "NoPool", message: format!("pool {pool:?} does not exist") }),
    }
}

/// Pools of the subnet that the namespace names, else those that name the namespace.
fn pools_of_namespace(cx: &mut Cx<'_, World>, key: &PodKey, namespace: &Namespace, subnet: &Name) -> Vec<Name> {
    let mut named = Vec::new();
    for pool in &namespace.pools {
        if subnet_of(cx, pool).is_ok_and(|of| of == *subnet) {
            named.push(Arc::clone(pool));
        }
    }
    if named.is_empty() {
        named.extend(cx.keys::<PoolsByNamespace>(&(Arc::clone(subnet), Arc::clone(&key.namespace))).cloned());
    }
    named
}

/// Which pod of its StatefulSet it is.
fn ordinal(key: &PodKey, pod: &Pod) -> Option<u32> {
    match &pod.workload {
        Some(Workload::StatefulSet(set)) => key.name.strip_prefix(set.as_ref())?.strip_prefix('-')?.parse().ok(),
        _ => None,
    }
}

/// Whether what was kept is what the pod asks for. Records without an address or MAC leave that open.
fn asks_for(asked: &NicAnnotations, ip: &Ip) -> bool {
    asked.subnet.as_deref().is_none_or(|subnet| subnet == ip.subnet.as_ref())
        && asked.addresses.iter().all(|address| ip.addresses.contains(address))
        && match asked.pool.as_deref() {
            Some(PoolChoice::Listed(entries)) => entries.contains(&ip.addresses),
            _ => true,
        }
        && asked.mac.is_none_or(|mac| ip.mac == Some(mac))
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
