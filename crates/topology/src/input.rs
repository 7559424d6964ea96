//! From API objects to inputs: parsed once, without status or metadata noise.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::{self, GATEWAY_MAC, IN_FORCE, IP_POOL, LOGICAL_SWITCH, RESERVED_LABEL};
use api::cidr::parse_addresses;
use api::networks::{self, Definition};
use api::view::{
    KUBEVIRT, MIGRATION_JOB, NamespaceView, NetworkAttachmentDefinitionView, NodeView, PodView, StatefulSetView, VirtualMachineInstanceView,
};
use api::{Cidrs, FINALIZER, MacAddr, OVN_PROVIDER, v1};
use engine::Age;
use k8s_meta::ObjectMeta;

use crate::fact::Problem;
use crate::interconnection::Wish;
use crate::key::INTERCONNECTION;
use crate::migration::{Migration, Stage};
pub use crate::underlay::{node_reports, provider_network, vlan};
use crate::world::{
    Central, DefinitionKey, Incoming, Instance, Ip, Keeper, Link, Name, Namespace, NetworkDefinition, Networks, NicKey, NicNotes, Node,
    Pod, PodKey, Pool, PoolSpec, PortNotes, Replicas, ReplicasKey, ReplicasKind, Subnet, SubnetSpec, Vip, VipSpec, Vpc, Workload,
};
use crate::{defaults, dhcp, macs_alone};

/// `spec.podType` of an `IP` object whose holder is a pod of a StatefulSet.
pub const STATEFUL_SET: &str = "StatefulSet";
/// `spec.podType` of an `IP` object whose holder is a virtual machine.
pub const VIRTUAL_MACHINE: &str = "VirtualMachine";

mod k8s_meta {
    pub(super) use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
}

/// When the object was created, for conflicts.
#[must_use]
pub fn age(meta: &ObjectMeta) -> Age {
    Age(api::created(meta))
}

pub(crate) fn name(meta: &ObjectMeta) -> Name {
    meta.name.as_deref().unwrap_or_default().into()
}

fn uid(meta: &ObjectMeta) -> Name {
    meta.uid.as_deref().unwrap_or_default().into()
}

fn finalizer(meta: &ObjectMeta) -> bool {
    meta.finalizers.as_ref().is_some_and(|list| list.iter().any(|f| f == FINALIZER))
}

/// A VPC.
#[must_use]
pub fn vpc(object: &v1::Vpc) -> (Name, Vpc, Age) {
    let meta = &object.metadata;
    let (age, leaves) = (age(meta), annotations::leaves_by_host(meta.annotations.as_ref()));
    let (routes, bad_routes) = api::routes::parse(object.spec.static_routes.as_deref().unwrap_or_default());
    let vpc = Vpc {
        uid: uid(meta),
        deleting: meta.deletion_timestamp.is_some(),
        finalizer: finalizer(meta),
        created: age.0,
        leaves,
        routes,
        bad_routes,
    };
    (name(meta), vpc, age)
}

/// A subnet.
#[must_use]
pub fn subnet(object: &v1::Subnet) -> (Name, Subnet, Age) {
    let meta = &object.metadata;
    let age = age(meta);
    let spec = subnet_spec(&object.spec).and_then(|spec| Ok(SubnetSpec { gateway_mac: gateway_mac(meta)?, ..spec }));
    let subnet = Subnet {
        uid: uid(meta),
        deleting: meta.deletion_timestamp.is_some(),
        finalizer: finalizer(meta),
        created: age.0,
        spec: spec.map(|spec| SubnetSpec { interconnection: Wish::of(object, &spec).map(Box::new), ..spec }),
    };
    (name(meta), subnet, age)
}

fn gateway_mac(meta: &ObjectMeta) -> Result<Option<MacAddr>, Problem> {
    let noted = meta.annotations.as_ref().and_then(|notes| notes.get(GATEWAY_MAC));
    let bad = |why| Problem { reason: "BadField", message: format!("metadata.annotations[{GATEWAY_MAC}]: {why}") };
    noted.map(|text| text.trim().parse()).transpose().map_err(bad)
}

/// What the controller fills in on a subnet, as a merge patch of its `spec`; `None` when nothing is left open, or what is there
/// cannot be read.
#[must_use]
pub fn subnet_defaults(object: &v1::Subnet) -> Option<serde_json::Value> {
    defaults::of(&object.spec, &subnet_spec(&object.spec).ok()?)
}

/// Ranges and gateways that a subnet has in force while its `spec` says others.
#[must_use]
pub fn in_force(object: &v1::Subnet) -> Option<(Cidrs, Vec<IpAddr>)> {
    let (cidrs, gateways) = object.metadata.annotations.as_ref()?.get(IN_FORCE)?.split_once(" via ")?;
    let cidrs = if cidrs.is_empty() { Cidrs::NONE } else { cidrs.parse().ok()? };
    Some((cidrs, parse_addresses(gateways).ok()?))
}

fn subnet_spec(spec: &v1::SubnetSpec) -> Result<SubnetSpec, Problem> {
    let bad = |field: &str, why: &dyn std::fmt::Display| Problem { reason: "BadField", message: format!("spec.{field}: {why}") };
    let cidrs: Cidrs = match macs_alone::ranges(spec)? {
        Some(none) => none,
        None => spec.cidr_block.as_deref().unwrap_or_default().parse().map_err(|e| bad("cidrBlock", &e))?,
    };
    let given = parse_addresses(spec.gateway.as_deref().unwrap_or_default()).map_err(|e| bad("gateway", &e))?;
    if let Some(outside) = given.iter().find(|ip| !cidrs.contains(**ip)) {
        return Err(bad("gateway", &format!("{outside} lies outside cidrBlock {cidrs}")));
    }
    if let Some(edge) =
        given.iter().find(|ip| cidrs.of_family(**ip).is_some_and(|net| **ip == net.network() || (ip.is_ipv4() && **ip == net.broadcast())))
    {
        return Err(bad("gateway", &format!("{edge} is the network or broadcast address of cidrBlock {cidrs}")));
    }
    let gateways = cidrs
        .first_hosts()
        .into_iter()
        .map(|first| given.iter().copied().find(|g| g.is_ipv4() == first.is_ipv4()).unwrap_or(first))
        .collect();
    let mut excluded = Vec::new();
    for entry in spec.exclude_ips.iter().flatten().flat_map(|e| e.split(',')).map(str::trim).filter(|e| !e.is_empty()) {
        excluded.push(range(entry).map_err(|e| bad("excludeIps", &e))?);
    }
    Ok(SubnetSpec {
        gateway_mac: None,
        vpc: spec.vpc_name().into(),
        cidrs,
        gateways,
        excluded,
        namespaces: spec.namespaces.iter().flatten().map(|n| n.as_str().into()).collect(),
        default: spec.default.unwrap_or(false),
        provider: text(&spec.provider).filter(|provider| **provider != *OVN_PROVIDER),
        vlan: text(&spec.vlan),
        central: central(spec)?.map(Box::new),
        logical_gateway: spec.logical_gateway.unwrap_or(false),
        dhcp: dhcp::read(spec)?,
        mtu: spec.mtu.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| *mtu > 0),
        advertised: dhcp::advertised(spec, &cidrs)?,
        interconnection: None,
    })
}

/// The nodes that pods leave by, if not each by its own.
fn central(spec: &v1::SubnetSpec) -> Result<Option<Central>, Problem> {
    if !spec.is_centralized() {
        return Ok(None);
    }
    let nodes = api::gateway_nodes(spec.gateway_node.as_deref().unwrap_or_default());
    let nodes = nodes.map_err(|why| Problem { reason: "BadField", message: format!("spec.gatewayNode: {why}") })?;
    let nodes = nodes.into_iter().map(|(node, _)| node.into()).collect();
    let selectors = spec.gateway_node_selectors.clone().unwrap_or_default();
    Ok(Some(Central { nodes, selectors, ecmp: spec.enable_ecmp == Some(true) }))
}

/// `a`, `a..b` (inclusive), or a prefix.
fn range(text: &str) -> Result<(IpAddr, IpAddr), String> {
    if let Ok(net) = text.parse::<ipnet::IpNet>() {
        return Ok((net.network(), net.broadcast()));
    }
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let parse = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is neither an address nor a range a..b"));
    let (from, to) = (parse(from)?, parse(to)?);
    if from.is_ipv4() != to.is_ipv4() || from > to {
        return Err(format!("{text:?} does not run from a lower to a higher address of one family"));
    }
    Ok((from, to))
}

/// A namespace.
#[must_use]
pub fn namespace(object: &NamespaceView) -> (Name, Namespace, Age) {
    let meta = &object.metadata;
    let subnet = meta.annotations.as_ref().and_then(|a| a.get(LOGICAL_SWITCH)).and_then(|list| list.split(',').next());
    let subnet = subnet.map(str::trim).filter(|s| !s.is_empty()).map(Arc::from);
    let pools = meta.annotations.as_ref().and_then(|a| a.get(IP_POOL)).map(String::as_str).unwrap_or_default();
    let pools = pools.split(',').map(str::trim).filter(|pool| !pool.is_empty()).map(Arc::from).collect();
    (name(meta), Namespace { subnet, pools }, age(meta))
}

/// A pool.
#[must_use]
pub fn pool(object: &v1::IpPool) -> (Name, Pool, Age) {
    let (meta, spec) = (&object.metadata, &object.spec);
    let age = age(meta);
    let ranges = spec.ips.iter().map(|entry| range(entry.trim())).collect::<Result<Vec<_>, _>>();
    let spec = match ranges {
        Ok(ranges) => Ok(PoolSpec {
            subnet: spec.subnet.as_str().into(),
            ranges,
            namespaces: spec.namespaces.iter().flatten().map(|n| n.as_str().into()).collect(),
        }),
        Err(why) => Err(Problem { reason: "BadField", message: format!("spec.ips: {why}") }),
    };
    (name(meta), Pool { created: age.0, spec }, age)
}

/// A `Vip`. What its status shows in full is held; else the spec says what is chosen.
#[must_use]
pub fn vip(object: &v1::Vip) -> (Name, Vip, Age) {
    let (meta, age) = (&object.metadata, age(&object.metadata));
    let (created, deleting) = (age.0, meta.deletion_timestamp.is_some());
    (name(meta), Vip { created, deleting, spec: vip_spec(object) }, age)
}

/// What a field says, if anything.
pub(crate) fn text(field: &Option<String>) -> Option<Name> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(Name::from)
}

fn vip_spec(object: &v1::Vip) -> Result<VipSpec, Problem> {
    let (spec, none) = (&object.spec, v1::VipStatus::default());
    let status = object.status.as_ref().unwrap_or(&none);
    let read = |v4: &Option<String>, v6: &Option<String>, mac: &Option<String>, of: &str| {
        let bad = |field: &str, why: &dyn std::fmt::Display| Problem { reason: "BadField", message: format!("{of}.{field}: {why}") };
        let mut addresses = Vec::new();
        for (field, value) in [("v4ip", v4), ("v6ip", v6)] {
            if let Some(value) = text(value) {
                addresses.push(value.parse::<IpAddr>().map_err(|why| bad(field, &why))?);
            }
        }
        let mac = text(mac).map(|mac| mac.parse()).transpose().map_err(|why| bad("macAddress", &why))?;
        Ok((addresses, mac))
    };
    let (addresses, mac) = read(&spec.v4_ip, &spec.v6_ip, &spec.mac_address, "spec")?;
    let subnet = text(&spec.subnet);
    // A status that cannot be read, or is not of this spec, shows nothing that is held.
    let held = read(&status.v4_ip, &status.v6_ip, &status.mac, "status").unwrap_or_default();
    match held {
        (all, Some(shown)) if !all.is_empty() && addresses.iter().all(|ip| all.contains(ip)) && mac.is_none_or(|mac| mac == shown) => {
            Ok(VipSpec { subnet, addresses: all, mac: Some(shown), held: true })
        }
        _ => Ok(VipSpec { subnet, addresses, mac, held: false }),
    }
}

/// Name and namespace of a pod.
#[must_use]
pub fn pod_key(meta: &ObjectMeta) -> PodKey {
    PodKey { namespace: meta.namespace.as_deref().unwrap_or_default().into(), name: name(meta) }
}

/// A pod; `None` when it needs no network of its own, because it uses its node's or has ended.
#[must_use]
pub fn pod(object: &PodView) -> (PodKey, Option<Pod>, Age) {
    let meta = &object.metadata;
    let key = pod_key(meta);
    if object.spec.host_network == Some(true) || object.is_over() {
        return (key, None, age(meta));
    }
    let none = Default::default();
    let node = object.spec.node_name.as_deref().map(Arc::from);
    let notes = meta.annotations.as_ref().unwrap_or(&none);
    let (asked, recorded) = match annotations::recorded(notes) {
        Ok(None) => (annotations::requested(notes).map(|asked| (asked != Default::default()).then(|| Box::new(asked))), None),
        Ok(recorded) => (Ok(None), recorded),
        Err(why) => (Err(why), None),
    };
    let port = port_notes(OVN_PROVIDER, notes);
    let (uid, created) = (uid(meta), age(meta).0);
    let workload = workload(meta);
    let incoming = incoming(meta).filter(|_| matches!(workload, Some(Workload::VirtualMachine(_)))).map(Box::new);
    (key, Some(Pod { uid, created, node, workload, asked, recorded, port, incoming }), age(meta))
}

/// A node.
#[must_use]
pub fn node(object: &NodeView) -> (Name, Node, Age) {
    let (meta, age) = (&object.metadata, age(&object.metadata));
    let addresses = object.internal_addresses();
    let recorded = meta.annotations.as_ref().map_or(Ok(None), annotations::recorded).and_then(|recorded| {
        let is_whole = recorded.as_ref().is_none_or(|record| !record.addresses.is_empty());
        if is_whole {
            Ok(recorded)
        } else {
            Err(format!("annotation {} is missing although {} is true", annotations::IP_ADDRESS, annotations::ALLOCATED))
        }
    });
    let chassis = meta.annotations.as_ref().and_then(|notes| text(&notes.get(annotations::CHASSIS).cloned()));
    (name(meta), Node { uid: uid(meta), created: age.0, addresses, chassis, recorded }, age)
}

/// The NICs that a pod asks for besides its primary one; `None` when there are none.
#[must_use]
pub fn networks(object: &PodView) -> Option<Networks> {
    let notes = object.metadata.annotations.as_ref()?;
    if object.spec.host_network == Some(true) || object.is_over() {
        return None;
    }
    let selections = match networks::selections(notes, object.metadata.namespace.as_deref().unwrap_or_default()) {
        Ok(selections) if selections.is_empty() => return None,
        Ok(selections) => selections,
        Err(why) => return Some(Networks { links: Err(why), notes: BTreeMap::new() }),
    };
    let mut of_providers = BTreeMap::new();
    let mut links = Vec::with_capacity(selections.len());
    for selection in selections {
        let (namespace, name, link) = (&selection.namespace, &selection.name, &selection.interface);
        let asked = annotations::requested_of_link(namespace, name, link, notes);
        for definition in [Definition::ours(namespace, name), Definition::addresses(namespace, name)] {
            let base = definition.provider().unwrap_or_default();
            for provider in [base.into(), format!("{base}.{link}").into_boxed_str()] {
                if let Some(said) = nic_notes(&provider, notes) {
                    of_providers.insert(provider, said);
                }
            }
        }
        links.push(Link { selection, asked });
    }
    Some(Networks { links: Ok(links), notes: of_providers })
}

/// What is said of one NIC, if anything.
fn nic_notes(provider: &str, notes: &BTreeMap<String, String>) -> Option<NicNotes> {
    let port = port_notes(provider, notes);
    let (asked, recorded) = match annotations::recorded_of(provider, notes) {
        Ok(recorded) => (annotations::requested_of(provider, notes), recorded),
        Err(why) => (Err(why), None),
    };
    let said = NicNotes { asked, recorded, port };
    (said != NicNotes { asked: Ok(Default::default()), recorded: None, port: None }).then_some(said)
}

/// What annotations say of the port of the NIC with this provider, if anything.
#[must_use]
pub fn port_notes(provider: &str, notes: &BTreeMap<String, String>) -> Option<Box<PortNotes>> {
    let said = PortNotes { security: annotations::port_security_of(provider, notes), dhcp: dhcp::read_port(provider, notes) };
    (said != PortNotes::default()).then(|| Box::new(said))
}

/// A `NetworkAttachmentDefinition`.
#[must_use]
pub fn definition(object: &NetworkAttachmentDefinitionView) -> (DefinitionKey, NetworkDefinition, Age) {
    let meta = &object.metadata;
    let key = DefinitionKey { namespace: meta.namespace.as_deref().unwrap_or_default().into(), name: name(meta) };
    let parsed = Definition::parse(&key.namespace, &key.name, &object.spec.config);
    (key, NetworkDefinition(parsed), age(meta))
}

/// The workload that keeps a pod's addresses: its StatefulSet, or the virtual machine that it runs.
fn workload(meta: &ObjectMeta) -> Option<Workload> {
    meta.owner_references.iter().flatten().find_map(|owner| {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("apps", STATEFUL_SET) => Some(Workload::StatefulSet(owner.name.as_str().into())),
            (KUBEVIRT, VIRTUAL_MACHINE | "VirtualMachineInstance") => Some(Workload::VirtualMachine(owner.name.as_str().into())),
            _ => None,
        }
    })
}

/// A StatefulSet, as what keeps addresses; one that is being deleted keeps none.
#[must_use]
pub fn stateful_set(object: &StatefulSetView) -> (ReplicasKey, Option<Replicas>) {
    let start = object.spec.ordinals.as_ref().map_or(0, |ordinals| ordinals.start);
    keeping(ReplicasKind::StatefulSet, &object.metadata, start..start.saturating_add(object.spec.replicas.unwrap_or(1)))
}

/// A virtual machine or an instance of one, as what keeps addresses; one that is being deleted keeps none.
#[must_use]
pub fn virtual_machine(kind: ReplicasKind, meta: &ObjectMeta) -> (ReplicasKey, Option<Replicas>) {
    keeping(kind, meta, 0..1)
}

/// The migration that a pod was made for, by the label that KubeVirt gives it.
fn incoming(meta: &ObjectMeta) -> Option<Incoming> {
    let job = meta.labels.as_ref()?.get(MIGRATION_JOB).filter(|job| !job.is_empty())?;
    Some(Incoming { job: job.as_str().into(), deleting: meta.deletion_timestamp.is_some() })
}

/// Where an instance of a virtual machine says that it runs. Its migration settles nothing here: that is a question of time.
#[must_use]
pub fn instance(object: &VirtualMachineInstanceView) -> (PodKey, Instance) {
    let status = &object.status;
    let migration = status.migration_state.as_ref().and_then(|state| {
        let stage = match (state.failed, state.completed) {
            (true, _) => Stage::Failed,
            (false, true) => Stage::Completed,
            (false, false) => Stage::UnderWay,
        };
        Some(Migration { job: text(&state.migration_uid)?, stage, settling: false })
    });
    (pod_key(&object.metadata), Instance { node: text(&status.node_name), migration })
}

fn keeping(kind: ReplicasKind, meta: &ObjectMeta, ordinals: std::ops::Range<u32>) -> (ReplicasKey, Option<Replicas>) {
    let key = ReplicasKey { kind, namespace: meta.namespace.as_deref().unwrap_or_default().into(), name: name(meta) };
    (key, meta.deletion_timestamp.is_none().then_some(Replicas { ordinals }))
}

/// The NIC that an `IP` object is of. Whose it is follows from its name and the pod that it names; of one that names no pod, from
/// the name alone.
#[must_use]
pub fn nic_of(object: &v1::Ip) -> NicKey {
    let (name, spec) = (name(&object.metadata), &object.spec);
    if is_of_node(object) && text(&spec.namespace).is_none() {
        return NicKey::of_node(&text(&spec.node_name).unwrap_or_default());
    }
    if let Some(vpc) = interconnected(object) {
        return NicKey::of_interconnection(vpc, spec.subnet.as_deref().unwrap_or_default());
    }
    let pod = text(&spec.pod_name).zip(text(&spec.namespace)).map(|(name, namespace)| PodKey { namespace, name });
    pod.and_then(|pod| NicKey::of_port(&name, pod)).unwrap_or_else(|| NicKey::primary(PodKey::of_port(&name)))
}

/// Whether an `IP` object is one that the controller keeps for a pod, a node or a router: not a user's.
#[must_use]
pub fn is_kept(object: &v1::Ip) -> bool {
    let (spec, nic) = (&object.spec, nic_of(object));
    let named = |field: &Option<String>, own: &str| field.as_deref() == Some(own);
    let pod = &nic.holder;
    let of_pod = !pod.namespace.is_empty() && named(&spec.pod_name, &pod.name) && named(&spec.namespace, &pod.namespace);
    is_marked(object) && (of_pod || is_of_node(object) || interconnected(object).is_some())
}

/// The VPC whose router has the addresses of an `IP` object in a subnet on a Vlan, by the name of the object.
fn interconnected(object: &v1::Ip) -> Option<&str> {
    let (spec, name) = (&object.spec, object.metadata.name.as_deref()?);
    let vpc = name.strip_prefix(INTERCONNECTION)?.strip_suffix(spec.subnet.as_deref()?)?.strip_suffix('.')?;
    text(&spec.namespace).is_none().then_some(vpc)
}

/// Whether an `IP` object has the name and the node of one that is kept for a node.
fn is_of_node(object: &v1::Ip) -> bool {
    text(&object.spec.node_name).is_some_and(|node| object.metadata.name.as_deref() == Some(&api::node_port(&node)))
}

fn is_marked(object: &v1::Ip) -> bool {
    object.metadata.labels.as_ref().and_then(|labels| labels.get(RESERVED_LABEL)).is_some_and(|reserved| reserved == "false")
}

/// An `IP` object, as far as it holds addresses by itself: `None` for that of a plain pod, which shows what the pod holds. One
/// that no pod has the name of holds them for nobody.
///
/// # Errors
/// Names the field that cannot be read.
pub fn ip(object: &v1::Ip) -> Result<Option<Ip>, Problem> {
    let (meta, spec) = (&object.metadata, &object.spec);
    let bad = |field: &str, why: &dyn std::fmt::Display| Problem { reason: "BadField", message: format!("spec.{field}: {why}") };
    let nic = nic_of(object);
    let holder = &nic.holder;
    let keeper = match text(&spec.pod_type).as_deref() {
        _ if !is_marked(object) => Keeper::User,
        _ if !is_kept(object) || nic.node().is_some() || nic.is_interconnection() => return Ok(None),
        Some(STATEFUL_SET) => {
            let ordinal = holder.name.rsplit_once('-').and_then(|(set, ordinal)| Some((set.into(), ordinal.parse().ok()?)));
            let (name, ordinal) = ordinal.ok_or_else(|| bad("podName", &format!("{:?} ends with no ordinal", holder.name)))?;
            Keeper::StatefulSet { name, ordinal }
        }
        Some(VIRTUAL_MACHINE) => Keeper::VirtualMachine,
        _ => return Ok(None),
    };
    for (field, given, own) in [("podName", &spec.pod_name, &holder.name), ("namespace", &spec.namespace, &holder.namespace)] {
        if let Some(given) = text(given).filter(|given| given != own) {
            let name = name(meta);
            return Err(bad(field, &format!("{given:?} is not that of an IP named {name:?}, which is of pod {:?}", holder.name)));
        }
    }
    let subnet = text(&spec.subnet).ok_or_else(|| bad("subnet", &"is required"))?;
    let mut addresses = Vec::new();
    for (field, value) in [("v4IpAddress", &spec.v4_ip_address), ("v6IpAddress", &spec.v6_ip_address)] {
        if let Some(value) = text(value) {
            addresses.extend(parse_addresses(&value).map_err(|why| bad(field, &why))?);
        }
    }
    if let (true, Some(value)) = (addresses.is_empty(), text(&spec.ip_address)) {
        addresses = parse_addresses(&value).map_err(|why| bad("ipAddress", &why))?;
    }
    let mac = text(&spec.mac_address).map(|mac| mac.parse()).transpose().map_err(|why| bad("macAddress", &why))?;
    Ok(Some(Ip { created: age(meta).0, deleting: meta.deletion_timestamp.is_some(), nic, subnet, addresses, mac, keeper }))
}
