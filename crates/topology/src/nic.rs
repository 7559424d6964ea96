//! `Pod` → what its primary NIC asks for; and how a NIC's subnet and addresses are chosen, whichever NIC it is.

use std::sync::Arc;

use api::OVN_PROVIDER;
use api::annotations::{NicAnnotations, NicRecord, PoolChoice};
use api::networks;
use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, NicRequest, Problem, Source};
use crate::holder::Workload;
use crate::world::{
    Allocation, Ip, Keeper, Name, Namespace, Network, NicKey, Pod, PodKey, Pool, PoolsByNamespace, Subnet, SubnetsByDefault,
    SubnetsByNamespace, SubnetsByProvider, World,
};
use crate::{ip, macs_alone};

static NOTHING: NicAnnotations = NicAnnotations { subnet: None, addresses: Vec::new(), mac: None, pool: None, family: None };

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Pod>("nic", |cx, key, pod, out| {
        let holder = pod.holder(key);
        if is_taken(cx, key, &holder) {
            let message = format!(
                "pod {}/{} has the name of this pod's virtual machine, and their ports would have one name",
                holder.namespace, holder.name
            );
            return out.say(Fact::PodProblem(key.clone()), FactValue::Problem(Problem { reason: "NameTaken", message }));
        }
        let nic = NicKey::primary(holder);
        let (asked, recorded) = (pod.asked.as_ref().map(|asked| asked.as_deref().unwrap_or(&NOTHING)), pod.recorded.as_ref());
        match request(cx, &Asker { key, pod, nic: &nic, asked, recorded, further: None }) {
            Ok(Some(request)) => out.say(Fact::Request(nic), FactValue::Request(request)),
            Ok(None) => {}
            Err(problem) => out.say(Fact::PodProblem(key.clone()), FactValue::Problem(problem)),
        }
    });
}

/// Whether another pod has the name that the pod's NICs would be on.
pub(crate) fn is_taken(cx: &mut Cx<'_, World>, key: &PodKey, holder: &PodKey) -> bool {
    holder != key && cx.get::<Pod>(holder).is_some()
}

/// A NIC, of a pod, that asks for addresses.
pub(crate) struct Asker<'a> {
    pub(crate) key: &'a PodKey,
    pub(crate) pod: &'a Pod,
    pub(crate) nic: &'a NicKey,
    pub(crate) asked: Result<&'a NicAnnotations, &'a String>,
    pub(crate) recorded: Option<&'a NicRecord>,
    pub(crate) further: Option<Further<'a>>,
}

/// What is said of a NIC that is not the primary one.
#[derive(Clone, Copy)]
pub(crate) struct Further<'a> {
    /// The provider that a subnet names.
    pub(crate) provider: &'a str,
    pub(crate) addresses_only: bool,
}

impl Asker<'_> {
    /// Key of one of its annotations.
    fn annotation(&self, name: &str) -> String {
        networks::key(self.nic.provider.as_deref().unwrap_or(OVN_PROVIDER), name)
    }

    /// Whether it can be in this subnet.
    fn fits(&self, subnet: &Name, network: &Network) -> Result<(), Problem> {
        if network.cidrs.is_empty() && self.further.is_some_and(|further| further.addresses_only) {
            let message = format!("another plugin makes the NIC, and {}", macs_alone::reason(subnet));
            return Err(Problem { reason: "NoAddresses", message });
        }
        if network.switch || self.further.is_some_and(|further| further.addresses_only) {
            return Ok(());
        }
        let message = format!("subnet {subnet:?} has no logical switch: its provider is another plugin's");
        Err(Problem { reason: "NoSwitch", message })
    }
}

/// The request; nothing while the pod's namespace is not known.
pub(crate) fn request(cx: &mut Cx<'_, World>, asker: &Asker<'_>) -> Result<Option<NicRequest>, Problem> {
    let Asker { key, pod, nic, asked, recorded, .. } = *asker;
    // What a pod holds it keeps: its subnet is not chosen again.
    if let Some(record) = recorded {
        let request = NicRequest {
            identity: pod.identity(),
            subnet: Arc::from(record.subnet.as_ref()),
            addresses: record.addresses.clone(),
            mac: Some(record.mac),
            source: None,
            held: true,
            running: true,
            created: pod.created,
        };
        return Ok(cx.get::<Network>(&request.subnet).map(|_| request));
    }
    let asked = asked.map_err(|why| Problem { reason: "BadAnnotation", message: why.clone() })?;
    // What was kept for it, unless it asks for something else by now.
    if let Some(ip) = cx.get::<Ip>(&nic.port())
        && !ip.deleting
        && ip.nic == *nic
        && (ip.keeper == Keeper::User || ip::identity(ip) == pod.identity())
        && asks_for(asked, ip)
        && let Some(network) = cx.get::<Network>(&ip.subnet)
        && asker.fits(&ip.subnet, network).is_ok()
        && let Some(kept) = ip::request(ip, network)
    {
        return Ok(Some(NicRequest { running: true, created: pod.created, ..kept }));
    }
    let Some(namespace) = cx.get::<Namespace>(&key.namespace) else { return Ok(None) };
    let named = match asked.pool.as_deref() {
        Some(PoolChoice::Named(pools)) => pools.iter().map(|pool| Name::from(pool.as_ref())).collect(),
        _ => Vec::new(),
    };
    let subnet = match (&asked.subnet, named.first()) {
        // A pool is of one subnet, which need not be named beside it.
        (None, Some(pool)) => subnet_of(cx, pool)?,
        _ => choose(cx, asker, namespace, asked)?,
    };
    let network = network(cx, &subnet, "")?;
    asker.fits(&subnet, network)?;
    if network.cidrs.is_empty() {
        macs_alone::lacks(&subnet, asked)?;
    }
    // A NIC that was allocated but not yet recorded when the subnet began to close stays.
    if network.closing && cx.get::<Allocation>(nic).is_none_or(|held| held.identity != pod.identity() || held.subnet != subnet) {
        return Err(Problem { reason: "SubnetClosing", message: format!("subnet {subnet:?} is being deleted") });
    }
    let NicAnnotations { mut addresses, mac, family, .. } = asked.clone();
    let mut source = Source { pools: named, candidates: Vec::new(), family };
    match asked.pool.as_deref() {
        Some(PoolChoice::Listed(entries)) if addresses.is_empty() => match ordinal(key, pod) {
            Some(ordinal) => {
                let entry = entries.get(ordinal as usize).ok_or_else(|| Problem {
                    reason: "BadAnnotation",
                    message: format!(
                        "annotation {}: has {} entries, and none for ordinal {ordinal}",
                        asker.annotation("ip_pool"),
                        entries.len()
                    ),
                })?;
                addresses.clone_from(entry);
            }
            None => source.candidates = entries.iter().flatten().copied().collect(),
        },
        Some(PoolChoice::Named(_)) => {
            for pool in &source.pools {
                if *subnet != *subnet_of(cx, pool)? {
                    let message = format!("annotation {}: pool {pool:?} is not of subnet {subnet:?}", asker.annotation("ip_pool"));
                    return Err(Problem { reason: "BadAnnotation", message });
                }
            }
        }
        _ => source.pools = pools_of_namespace(cx, key, namespace, &subnet),
    }
    let source = (source != Source::default()).then(|| Box::new(source));
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

/// The NIC's own choice, else, of one that is not primary, the subnet of its provider (the first by name). Else, if it is ours
/// to make, what its namespace names, else the subnet that names the namespace (the first by name), else the default one.
fn choose(cx: &mut Cx<'_, World>, asker: &Asker<'_>, namespace: &Namespace, asked: &NicAnnotations) -> Result<Name, Problem> {
    if let Some(subnet) = asked.subnet.as_deref() {
        return Ok(subnet.into());
    }
    if let Some(Further { provider, addresses_only }) = asker.further {
        if let Some(subnet) = cx.keys::<SubnetsByProvider>(&provider.into()).next() {
            return Ok(Arc::clone(subnet));
        }
        if addresses_only {
            let message =
                format!("annotation {} chooses no subnet, and none has provider {provider:?}", asker.annotation("logical_switch"));
            return Err(Problem { reason: "NoSubnet", message });
        }
    }
    if let Some(subnet) = &namespace.subnet {
        return Ok(Arc::clone(subnet));
    }
    let name = &asker.key.namespace;
    let of_namespace = cx.keys::<SubnetsByNamespace>(name).next().cloned();
    let chosen = of_namespace.or_else(|| cx.keys::<SubnetsByDefault>(&()).next().cloned());
    chosen.ok_or_else(|| Problem {
        reason: "NoSubnet",
        message: format!("no subnet is chosen by annotation, none names namespace {name:?}, and none is the default"),
    })
}
