//! `ProviderNetwork` and `Vlan` → where a subnet is in the physical network, and the port of its switch that leads there; and
//! what nodes report of their bridges, summed up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::Segment;
use api::routes::{self, NextHop, WATCHERS};
use api::view::NodeView;
use api::{DEFAULT_VPC, provider_network as labels, v1};
use engine::{Age, Cx, Engine, Index, Out};

use crate::fact::{Fact, FactValue, Problem};
use crate::input::{age, name};
use crate::northbound;
use crate::world::{Egress, Name, Subnet, World};

/// What names of ports to physical networks begin with, as Kube-OVN has them.
const PORT: &str = "localnet.";

/// Nodes that a message names; of more only the number is told.
const NAMED: usize = 10;

/// A `ProviderNetwork`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderNetwork {
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// What it says of nodes.
    pub spec: v1::ProviderNetworkSpec,
    /// The gateways by which pods leave by it, if they do, or what is wrong with that.
    pub exit: Result<Option<Vec<IpAddr>>, String>,
}

// Texts, lists and flags: each is equal to itself.
impl Eq for ProviderNetwork {}

/// A `Vlan`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Creation, in seconds since 1970: the older of two with one identifier wins.
    pub created: i64,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// Provider network.
    pub network: Name,
    /// VLAN identifier; 0 for untagged frames.
    pub id: u16,
}

/// What a node reports of its bridges, and the labels by which networks select it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReports {
    /// Of each network.
    pub networks: BTreeMap<Name, Report>,
    /// Labels, without those reports.
    pub labels: BTreeMap<String, String>,
    /// Next hops that it watches, and that do not answer.
    pub unreachable: BTreeSet<NextHop>,
}

/// What a node reports of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether its bridge is ready.
    pub ready: bool,
    /// Why not.
    pub error: Option<Box<str>>,
    /// MTU in bytes of the way out by it, if there is one.
    pub exit_mtu: Option<u32>,
}

/// Derived: the nodes that watch the next hops on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watchers(pub Vec<Name>);

/// Derived: where a Vlan is, or why it cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanSegment(pub Result<Segment, Problem>);

/// State of a Vlan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VlanState {
    /// Why it cannot be used.
    pub problem: Option<Problem>,
    /// Whether that is because an older one has its identifier.
    pub conflict: bool,
    /// Subnets that name it, sorted.
    pub subnets: Vec<Name>,
    /// Whether the object must carry our finalizer.
    pub finalizer: bool,
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}

/// State of a provider network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// What is wrong with it, or with its nodes.
    pub problem: Option<Problem>,
    /// Nodes that are ready, sorted.
    pub ready: Vec<Name>,
    /// Its other nodes, sorted.
    pub not_ready: Vec<Name>,
    /// Vlans that name it, sorted.
    pub vlans: Vec<Name>,
    /// Whether the object must carry our finalizer.
    pub finalizer: bool,
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}

/// The Vlans of a network.
struct VlansByNetwork;
impl Index<World> for VlansByNetwork {
    type Of = Vlan;
    type Key = Name;
    fn keys(_: &Name, vlan: &Vlan, out: &mut Vec<Name>) {
        out.push(Arc::clone(&vlan.network));
    }
}

/// The Vlans of a network with one identifier.
struct VlansById;
impl Index<World> for VlansById {
    type Of = Vlan;
    type Key = (Name, u16);
    fn keys(_: &Name, vlan: &Vlan, out: &mut Vec<(Name, u16)>) {
        out.push((Arc::clone(&vlan.network), vlan.id));
    }
}

/// The subnets that name a Vlan.
struct SubnetsByVlan;
impl Index<World> for SubnetsByVlan {
    type Of = Subnet;
    type Key = Name;
    fn keys(_: &Name, subnet: &Subnet, out: &mut Vec<Name>) {
        out.extend(subnet.spec.iter().filter(|spec| spec.has_switch()).filter_map(|spec| spec.vlan.clone()));
    }
}

/// All nodes.
pub(crate) struct Nodes;
impl Index<World> for Nodes {
    type Of = NodeReports;
    type Key = ();
    fn keys(_: &Name, _: &NodeReports, out: &mut Vec<()>) {
        out.push(());
    }
}

/// The networks by which pods leave.
struct Exits;
impl Index<World> for Exits {
    type Of = ProviderNetwork;
    type Key = ();
    fn keys(_: &Name, network: &ProviderNetwork, out: &mut Vec<()>) {
        out.extend(matches!(network.exit, Ok(Some(_))).then_some(()));
    }
}

pub(crate) fn index(engine: &mut Engine<World, Fact>) {
    engine.index::<Exits>();
    engine.index::<VlansByNetwork>();
    engine.index::<VlansById>();
    engine.index::<SubnetsByVlan>();
    engine.index::<Nodes>();
}

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.rule::<Vlan, VlanSegment>("vlan", |cx, name, vlan, out| {
        let same = cx.rows::<VlansById>(&(Arc::clone(&vlan.network), vlan.id));
        let older = same.into_iter().find(|(other, found)| (found.created, *other) < (vlan.created, name)).map(|(other, _)| other);
        let network = &vlan.network;
        let found = match older {
            Some(older) => {
                let message = format!("spec.id: Vlan {older:?}, which is older, has {} on provider network {network:?}, too", vlan.id);
                Err(Problem { reason: "Conflict", message })
            }
            None if cx.get::<ProviderNetwork>(network).is_none() => {
                let message = format!("spec.provider: ProviderNetwork {network:?} does not exist");
                Err(Problem { reason: "UnknownProviderNetwork", message })
            }
            None => match labels::unusable(network) {
                Some(why) => Err(Problem { reason: "UnknownProviderNetwork", message: format!("spec.provider: {why}") }),
                None => Ok(Segment { network: network.as_ref().into(), vlan: vlan.id }),
            },
        };
        let subnets: Vec<Name> = cx.keys::<SubnetsByVlan>(name).cloned().collect();
        let in_use = !subnets.is_empty();
        let state = VlanState {
            conflict: older.is_some(),
            problem: found.as_ref().err().cloned(),
            finalizer: !vlan.deleting || in_use,
            waiting: (vlan.deleting && in_use).then(|| in_use_by("subnets", &subnets)),
            subnets,
        };
        out.say(Fact::Vlan(Arc::clone(name)), FactValue::Vlan(Box::new(state)));
        out.derive(Arc::clone(name), VlanSegment(found));
    });
    engine.rule::<ProviderNetwork, Watchers>("provider-network", |cx, name, network, out| {
        let vlans: Vec<Name> = cx.keys::<VlansByNetwork>(name).cloned().collect();
        let (mut ready, mut not_ready, mut why) = (Vec::new(), Vec::new(), Vec::new());
        for (node, reports) in cx.rows::<Nodes>(&()) {
            if !network.spec.includes(node, &reports.labels) {
                continue;
            }
            match reports.networks.get(name) {
                Some(report) if report.ready => ready.push(Arc::clone(node)),
                report => {
                    not_ready.push(Arc::clone(node));
                    let error = report.map(|report| report.error.as_deref().unwrap_or("not ready"));
                    why.push(format!("node {node}: {}", error.unwrap_or("has not reported yet")));
                }
            }
        }
        let in_use = !vlans.is_empty();
        out.derive(Arc::clone(name), Watchers(ready.iter().take(WATCHERS).cloned().collect()));
        let state = NetworkState {
            problem: problem(name, exit_problem(cx, network), &why),
            ready,
            not_ready,
            finalizer: !network.deleting || in_use,
            waiting: (network.deleting && in_use).then(|| in_use_by("Vlans", &vlans)),
            vlans,
        };
        out.say(Fact::ProviderNetwork(Arc::clone(name)), FactValue::ProviderNetwork(Box::new(state)));
    });
}

/// Why pods do not leave by a network that asks for it.
fn exit_problem(cx: &mut Cx<'_, World>, network: &ProviderNetwork) -> Option<Problem> {
    match &network.exit {
        Err(why) => Some(Problem { reason: "BadAnnotation", message: format!("metadata.annotations: {why}") }),
        Ok(Some(_)) if !matches!(cx.get::<Egress>(&DEFAULT_VPC.into()), Some(Egress::Localnet(_))) => {
            let message = format!("metadata.annotations[{}]: pods leave by a network only with --egress localnet", labels::EXIT);
            Some(Problem { reason: "NoGateway", message })
        }
        Ok(_) => None,
    }
}

/// The MTU in bytes of the narrowest way out by a physical network, if there is any.
pub(crate) fn exit_mtu(cx: &mut Cx<'_, World>) -> Option<u32> {
    let networks: Vec<Name> = cx.keys::<Exits>(&()).cloned().collect();
    if networks.is_empty() {
        return None;
    }
    let reports = cx.rows::<Nodes>(&()).into_iter().flat_map(|(_, reports)| &reports.networks);
    reports.filter(|(network, report)| report.ready && networks.contains(network)).filter_map(|(_, report)| report.exit_mtu).min()
}

fn problem(name: &Name, exit: Option<Problem>, why: &[String]) -> Option<Problem> {
    if let Some(why) = labels::unusable(name) {
        return Some(Problem { reason: "BadName", message: format!("metadata.name: {why}") });
    }
    if why.is_empty() {
        return exit;
    }
    let more = why.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("; and {more} more nodes") } else { String::new() };
    let exit = exit.map(|exit| format!("; {}", exit.message)).unwrap_or_default();
    let message = format!("{}{more}{exit}", why[..why.len().min(NAMED)].join("; "));
    Some(Problem { reason: "NodesNotReady", message })
}

fn in_use_by(kind: &str, names: &[Name]) -> Problem {
    let names = names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    Problem { reason: "InUse", message: format!("deletion waits for {kind} {names}") }
}

/// Where a subnet is that names this Vlan.
pub(crate) fn segment(cx: &mut Cx<'_, World>, vlan: &Name) -> Result<Segment, Problem> {
    match cx.get::<VlanSegment>(vlan) {
        Some(VlanSegment(Ok(segment))) => Ok(segment.clone()),
        Some(VlanSegment(Err(why))) => {
            Err(Problem { reason: "VlanNotUsable", message: format!("spec.vlan: Vlan {vlan:?} cannot be used: {}", why.message) })
        }
        None => Err(Problem { reason: "UnknownVlan", message: format!("spec.vlan: Vlan {vlan:?} does not exist") }),
    }
}

/// The port by which a subnet's switch is connected to the physical network.
pub(crate) fn localnet_port<DK, D>(subnet: &Name, segment: &Segment, out: &mut Out<Fact, DK, D>) {
    northbound::localnet_port(subnet, format!("{PORT}{subnet}"), &segment.network, segment.vlan, out);
}

/// Whether a port to a physical network is one of a subnet. That of the switch `external` belongs to a feature to come.
pub(crate) fn is_port(name: &str) -> bool {
    name.strip_prefix(PORT).is_some_and(|subnet| subnet != "external")
}

/// A provider network.
#[must_use]
pub fn provider_network(object: &v1::ProviderNetwork) -> (Name, ProviderNetwork, Age) {
    let meta = &object.metadata;
    let exit = labels::exit(meta.annotations.as_ref());
    (name(meta), ProviderNetwork { deleting: meta.deletion_timestamp.is_some(), spec: object.spec.clone(), exit }, age(meta))
}

/// A Vlan.
#[must_use]
pub fn vlan(object: &v1::Vlan) -> (Name, Vlan, Age) {
    let (meta, spec, age) = (&object.metadata, &object.spec, age(&object.metadata));
    let vlan =
        Vlan { created: age.0, deleting: meta.deletion_timestamp.is_some(), network: spec.provider.as_str().into(), id: spec.identifier() };
    (name(meta), vlan, age)
}

/// What a node reports.
#[must_use]
pub fn node_reports(object: &NodeView) -> NodeReports {
    let meta = &object.metadata;
    let noted = meta.annotations.as_ref().and_then(|notes| notes.get(routes::UNREACHABLE));
    let mut reports = NodeReports { unreachable: routes::unreachable(noted), ..NodeReports::default() };
    for (key, value) in meta.labels.iter().flatten() {
        match labels::of_key(key) {
            Some((network, "ready")) => reports.networks.entry(network.into()).or_default().ready = value == "true",
            Some(_) => {}
            None => drop(reports.labels.insert(key.clone(), value.clone())),
        }
    }
    for (key, value) in meta.annotations.iter().flatten() {
        let Some((network, what)) = labels::of_key(key) else { continue };
        let Some(report) = reports.networks.get_mut(network) else { continue };
        match what {
            "err_mesg" if !value.is_empty() => report.error = Some(value.as_str().into()),
            labels::EXIT_MTU => report.exit_mtu = value.parse().ok(),
            _ => {}
        }
    }
    reports
}
