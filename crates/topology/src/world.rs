//! What the rules see: inputs parsed from Kubernetes, and what is derived from them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use api::Egress;
use api::annotations::{NicAnnotations, NicRecord, PortSecurity, Segment};
use api::networks::{Definition, Selection};
use api::routes::Route;
use api::{Cidrs, MacAddr};
use engine::{Collection, Index, Table};

/// A name in Kubernetes or OVN.
pub type Name = Arc<str>;

/// A `Vpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Identity, across deletion and re-creation under one name.
    pub uid: Name,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// Whether the object carries our finalizer.
    pub finalizer: bool,
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Whether its pods leave through the host stack of their node, or what is wrong with the annotation that says so.
    pub leaves: Result<bool, String>,
    /// Its static routes, as far as they can be read, sorted.
    pub routes: Vec<Route>,
    /// What is wrong with the others.
    pub bad_routes: Vec<String>,
}

/// A `Subnet`: what could be read of it, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Identity, across deletion and re-creation under one name.
    pub uid: Name,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// Whether the object carries our finalizer.
    pub finalizer: bool,
    /// Creation, in seconds since 1970: the older of two that overlap wins.
    pub created: i64,
    /// The specification, or what is wrong with it.
    pub spec: Result<SubnetSpec, Problem>,
}

pub use crate::centralized::Central;
pub use crate::dhcp::{Dhcp, PortDhcp};
pub use crate::fact::Problem;
pub use crate::holder::{Identity, Workload};
pub use crate::interconnection::{Interconnection, Wish};
pub use crate::key::{DefinitionKey, NicKey, PodKey};
pub use crate::migration::{Incoming, Instance};
pub use crate::routes::Ways;
pub use crate::underlay::{NodeReports, ProviderNetwork, Vlan, VlanSegment, Watchers};

/// What a subnet wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetSpec {
    /// VPC by name.
    pub vpc: Name,
    /// Ranges; none of a subnet that gives MACs alone.
    pub cidrs: Cidrs,
    /// Gateway per family, IPv4 first, inside the ranges.
    pub gateways: Vec<IpAddr>,
    /// The gateway's MAC, where an earlier controller chose it; else it follows from the names.
    pub gateway_mac: Option<MacAddr>,
    /// Inclusive ranges that are never allocated.
    pub excluded: Vec<(IpAddr, IpAddr)>,
    /// Namespaces whose pods use the subnet.
    pub namespaces: Vec<Name>,
    /// Whether pods of no other subnet land here.
    pub default: bool,
    /// Provider of the NICs that land here unless they choose another subnet; none for primary ones.
    pub provider: Option<Name>,
    /// Vlan by which the subnet is part of a physical network.
    pub vlan: Option<Name>,
    /// The nodes that its pods leave by, unless each leaves by its own.
    pub central: Option<Box<Central>>,
    /// Whether the router of the VPC is the gateway of such a subnet, and not a host of the physical network.
    pub logical_gateway: bool,
    /// What OVN answers to DHCP, if it does.
    pub dhcp: Option<Box<Dhcp>>,
    /// MTU of NICs in bytes, if it names one.
    pub mtu: Option<u16>,
    /// What the router advertises over IPv6 (`ipv6_ra_configs`); nothing if this is empty.
    pub advertised: BTreeMap<String, String>,
    /// What connects such a subnet with the others of the VPC beside its gateway, if that is asked for; or why that cannot be.
    pub interconnection: Option<Box<Result<Wish, Problem>>>,
}

impl SubnetSpec {
    /// Whether OVN carries the subnet. Else it is a set of addresses for NICs that other plugins make.
    #[must_use]
    pub fn has_switch(&self) -> bool {
        self.provider.as_deref().is_none_or(|provider| provider.ends_with(".ovn"))
    }

    /// Whether its switch is on the router of the VPC.
    #[must_use]
    pub fn has_router(&self) -> bool {
        self.has_switch() && (self.vlan.is_none() || self.logical_gateway)
    }

    /// What is asked for to connect it with the others of the VPC, if that can be.
    #[must_use]
    pub fn wish(&self) -> Option<&Wish> {
        self.interconnection.as_deref()?.as_ref().ok()
    }
}

/// An `IPPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Creation, in seconds since 1970: the older of two that overlap wins.
    pub created: i64,
    /// The specification, or what is wrong with it.
    pub spec: Result<PoolSpec, Problem>,
}

/// What a pool wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Subnet.
    pub subnet: Name,
    /// Inclusive ranges.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Namespaces whose pods get their addresses from the pool.
    pub namespaces: Vec<Name>,
}

/// A `Vip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Whether deletion was asked for: then nothing is held.
    pub deleting: bool,
    /// What is held, or what is wrong with it.
    pub spec: Result<VipSpec, Problem>,
}

/// A `Vip` that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// Subnet; the default one when there is none.
    pub subnet: Option<Name>,
    /// Addresses that are chosen or held, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC that is chosen or held.
    pub mac: Option<MacAddr>,
    /// Whether all this is what the status shows as held.
    pub held: bool,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Subnet named by annotation.
    pub subnet: Option<Name>,
    /// Pools named by annotation.
    pub pools: Vec<Name>,
}

/// A pod that wants a network of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Identity, across deletion and re-creation under one name.
    pub uid: Name,
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Node that it is bound to.
    pub node: Option<Name>,
    /// What keeps its addresses when it goes.
    pub workload: Option<Workload>,
    /// What its annotations ask for, if anything, or why they cannot be read. What is recorded is not asked for any more.
    pub asked: Result<Option<Box<NicAnnotations>>, String>,
    /// What its annotations record.
    pub recorded: Option<NicRecord>,
    /// What annotations say of its port, if anything.
    pub port: Option<Box<PortNotes>>,
    /// The migration that it was made for, of a virtual machine's.
    pub incoming: Option<Box<Incoming>>,
}

/// What a pod says of NICs besides its primary one, if it asks for any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks {
    /// The list, or why it cannot be read.
    pub links: Result<Vec<Link>, String>,
    /// What annotations say of each NIC, by provider.
    pub notes: BTreeMap<Box<str>, NicNotes>,
}

/// A link that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The element of the list.
    pub selection: Selection,
    /// Addresses and MAC that annotations ask of this link, or why they cannot be read.
    pub asked: Result<(Vec<IpAddr>, Option<MacAddr>), String>,
}

/// What the annotations of one NIC say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicNotes {
    /// What they ask for, or why they cannot be read.
    pub asked: Result<NicAnnotations, String>,
    /// What they record.
    pub recorded: Option<NicRecord>,
    /// What they say of its port.
    pub port: Option<Box<PortNotes>>,
}

/// What annotations say of the port of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNotes {
    /// Which senders it lets through.
    pub security: Option<PortSecurity>,
    /// What OVN answers it to DHCP, in place of what its subnet says.
    pub dhcp: Option<PortDhcp>,
}

/// A `NetworkAttachmentDefinition`: what it says to us, or why it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDefinition(pub Result<Definition, String>);

/// Derived: the NICs of a pod besides its primary one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached(pub Vec<Attachment>);

/// Such a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Provider, unique in the pod.
    pub provider: Name,
    /// Whether another plugin makes the NIC.
    pub addresses_only: bool,
}

/// An `IP` object whose addresses are held while there is no pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Whether deletion was asked for: then nothing is held.
    pub deleting: bool,
    /// NIC that has them.
    pub nic: NicKey,
    /// Subnet.
    pub subnet: Name,
    /// Addresses, IPv4 first; none when any will do.
    pub addresses: Vec<IpAddr>,
    /// MAC; none when any will do.
    pub mac: Option<MacAddr>,
    /// For whom.
    pub keeper: Keeper,
}

/// For whom an `IP` object holds its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// For the user who made it, until it is deleted.
    User,
    /// For a pod of a StatefulSet.
    StatefulSet {
        /// StatefulSet.
        name: Name,
        /// Ordinal of the pod.
        ordinal: u32,
    },
    /// For the virtual machine whose name the NIC is on.
    VirtualMachine,
}

/// What a workload that keeps the addresses of its pods is named by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicasKey {
    /// Kind.
    pub kind: ReplicasKind,
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

/// Kinds of workloads that keep the addresses of their pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicasKind {
    /// StatefulSet.
    StatefulSet,
    /// Virtual machine of KubeVirt.
    VirtualMachine,
    /// Running instance of a virtual machine of KubeVirt, which may be without one.
    Instance,
}

/// A workload that keeps the addresses of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Ordinals that its pods have; a virtual machine has 0.
    pub ordinals: std::ops::Range<u32>,
}

/// What the allocator gave to a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Who it belongs to.
    pub identity: Identity,
    /// Subnet.
    pub subnet: Name,
    /// Addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC.
    pub mac: MacAddr,
}

/// What the allocator says of a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// NICs in the subnet.
    pub holders: usize,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Identity, across deletion and re-creation under one name.
    pub uid: Name,
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Addresses of the node itself, one per family at most, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Identifier of its chassis in OVN, which its agent tells.
    pub chassis: Option<Name>,
    /// What its annotations record of its port in the default VPC, or why they cannot be read.
    pub recorded: Result<Option<NicRecord>, String>,
}

/// Where a port of a router is that one node at a time has, as the southbound database says; by the name of the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBinding {
    /// Identifier of the node's chassis in OVN.
    pub chassis: Name,
}

/// Derived: that there is a group of a node's pods, which leave by its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePods;

/// Derived: that a VPC besides the default one leaves through hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Number of its link to them ([`api::Transit::numbered`]).
    pub number: u16,
    /// Whether pods of some of its subnets leave by chosen nodes.
    pub central: bool,
}

/// Derived: a VPC that can carry subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router;

/// Derived: the ranges that a subnet lays claim to in its VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// VPC.
    pub vpc: Name,
    /// Ranges.
    pub cidrs: Cidrs,
    /// Creation of the subnet.
    pub created: i64,
    /// Whether its pods leave by the router.
    pub leaves: bool,
}

/// Derived: a subnet that works, and all that a port must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// VPC, and name of its logical router.
    pub vpc: Name,
    /// Ranges; none of a subnet that gives MACs alone.
    pub cidrs: Cidrs,
    /// Gateways of NICs, IPv4 first.
    pub gateways: Vec<IpAddr>,
    /// Whether new NICs are refused because the subnet is going.
    pub closing: bool,
    /// Whether there is a logical switch.
    pub switch: bool,
    /// Whether that is on the router of the VPC, by which it leaves.
    pub router: bool,
    /// What connects it with the others of the VPC, if it leaves by a gateway of its own.
    pub interconnection: Option<Box<Interconnection>>,
    /// Where it is in a physical network, if it is.
    pub segment: Option<Box<Segment>>,
    /// The nodes that its pods leave by, unless each leaves by its own.
    pub central: Option<Box<Central>>,
    /// Whether OVN answers DHCP.
    pub dhcp: bool,
    /// MTU in bytes that it tells, if the subnet names one.
    pub mtu: Option<u16>,
}

impl Network {
    /// The VPC, if its router is a way out of the subnet.
    #[must_use]
    pub fn routed_by(&self) -> Option<&Name> {
        (self.router || self.interconnection.is_some()).then_some(&self.vpc)
    }
}

/// All collections.
#[derive(Default)]
pub struct World {
    vpcs: Table<Name, Vpc>,
    subnets: Table<Name, Subnet>,
    namespaces: Table<Name, Namespace>,
    pods: Table<PodKey, Pod>,
    allocations: Table<NicKey, Allocation>,
    usages: Table<Name, Usage>,
    routers: Table<Name, Router>,
    ranges: Table<Name, Range>,
    networks: Table<Name, Network>,
    ips: Table<Name, Ip>,
    pools: Table<Name, Pool>,
    replicas: Table<ReplicasKey, Replicas>,
    vips: Table<Name, Vip>,
    definitions: Table<DefinitionKey, NetworkDefinition>,
    listed: Table<PodKey, Networks>,
    attached: Table<PodKey, Attached>,
    egresses: Table<Name, Egress>,
    nodes: Table<Name, Node>,
    node_pods: Table<Name, NodePods>,
    provider_networks: Table<Name, ProviderNetwork>,
    vlans: Table<Name, Vlan>,
    reports: Table<Name, NodeReports>,
    segments: Table<Name, VlanSegment>,
    watchers: Table<Name, Watchers>,
    ways: Table<Name, Ways>,
    instances: Table<PodKey, Instance>,
    host_links: Table<Name, HostLink>,
    bindings: Table<Name, PortBinding>,
}

macro_rules! collections {
    ($($id:literal $ty:ty: $key:ty => $field:ident,)*) => {$(
        impl Collection<World> for $ty {
            type Key = $key;
            const ID: u16 = $id;
            fn table(world: &World) -> &Table<$key, Self> {
                &world.$field
            }
            fn table_mut(world: &mut World) -> &mut Table<$key, Self> {
                &mut world.$field
            }
        }
    )*};
}

collections! {
    1 Vpc: Name => vpcs,
    2 Subnet: Name => subnets,
    3 Namespace: Name => namespaces,
    4 Pod: PodKey => pods,
    5 Allocation: NicKey => allocations,
    6 Usage: Name => usages,
    7 Router: Name => routers,
    8 Range: Name => ranges,
    9 Network: Name => networks,
    10 Ip: Name => ips,
    11 Replicas: ReplicasKey => replicas,
    12 Pool: Name => pools,
    13 Vip: Name => vips,
    14 NetworkDefinition: DefinitionKey => definitions,
    15 Networks: PodKey => listed,
    16 Attached: PodKey => attached,
    17 Egress: Name => egresses,
    18 Node: Name => nodes,
    19 NodePods: Name => node_pods,
    20 ProviderNetwork: Name => provider_networks,
    21 Vlan: Name => vlans,
    22 NodeReports: Name => reports,
    23 VlanSegment: Name => segments,
    24 Watchers: Name => watchers,
    25 Instance: PodKey => instances,
    26 Ways: Name => ways,
    27 HostLink: Name => host_links,
    28 PortBinding: Name => bindings,
}

/// The subnets that claim ranges in a VPC.
pub(crate) struct RangesByVpc;
impl Index<World> for RangesByVpc {
    type Of = Range;
    type Key = Name;
    fn keys(_: &Name, range: &Range, out: &mut Vec<Name>) {
        out.push(Arc::clone(&range.vpc));
    }
}

/// The subnets that name a namespace.
pub(crate) struct SubnetsByNamespace;
impl Index<World> for SubnetsByNamespace {
    type Of = Subnet;
    type Key = Name;
    fn keys(_: &Name, subnet: &Subnet, out: &mut Vec<Name>) {
        if let Ok(spec) = &subnet.spec
            && spec.has_switch()
        {
            out.extend(spec.namespaces.iter().cloned());
        }
    }
}

/// The subnets by the name of their router port.
pub(crate) struct SubnetsByRouterPort;
impl Index<World> for SubnetsByRouterPort {
    type Of = Subnet;
    type Key = Name;
    fn keys(name: &Name, subnet: &Subnet, out: &mut Vec<Name>) {
        out.extend(
            subnet.spec.iter().filter(|spec| spec.has_router() || spec.wish().is_some()).map(|spec| format!("{}-{name}", spec.vpc).into()),
        );
    }
}

/// The subnets of a provider.
pub(crate) struct SubnetsByProvider;
impl Index<World> for SubnetsByProvider {
    type Of = Subnet;
    type Key = Name;
    fn keys(_: &Name, subnet: &Subnet, out: &mut Vec<Name>) {
        out.extend(subnet.spec.iter().filter_map(|spec| spec.provider.clone()));
    }
}

/// The pools of a subnet.
pub(crate) struct PoolsBySubnet;
impl Index<World> for PoolsBySubnet {
    type Of = Pool;
    type Key = Name;
    fn keys(_: &Name, pool: &Pool, out: &mut Vec<Name>) {
        out.extend(pool.spec.iter().map(|spec| Arc::clone(&spec.subnet)));
    }
}

/// The pools of a subnet that name a namespace.
pub(crate) struct PoolsByNamespace;
impl Index<World> for PoolsByNamespace {
    type Of = Pool;
    type Key = (Name, Name);
    fn keys(_: &Name, pool: &Pool, out: &mut Vec<(Name, Name)>) {
        if let Ok(spec) = &pool.spec {
            out.extend(spec.namespaces.iter().map(|namespace| (Arc::clone(&spec.subnet), Arc::clone(namespace))));
        }
    }
}

/// The subnets that take pods of no other.
pub(crate) struct SubnetsByDefault;
impl Index<World> for SubnetsByDefault {
    type Of = Subnet;
    type Key = ();
    fn keys(_: &Name, subnet: &Subnet, out: &mut Vec<()>) {
        if subnet.spec.as_ref().is_ok_and(|spec| spec.default && spec.has_switch()) {
            out.push(());
        }
    }
}
