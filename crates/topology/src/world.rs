//! What the rules see: inputs parsed from Kubernetes, and what is derived from them.

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::{NicAnnotations, NicRecord};
use api::{Cidrs, MacAddr};
use engine::{Collection, Index, Table};

/// A name in Kubernetes or OVN.
pub type Name = Arc<str>;

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl PodKey {
    /// Name of the pod's logical switch port, and of its `IP` object: `<pod>.<namespace>`. Namespaces hold no dots, so
    /// no two pods share it. Without a namespace, which no pod is, just the name.
    #[must_use]
    pub fn port(&self) -> Name {
        if self.namespace.is_empty() { Arc::clone(&self.name) } else { format!("{}.{}", self.name, self.namespace).into() }
    }

    /// The pod whose port has this name; without a namespace when there is none of it.
    #[must_use]
    pub fn of_port(port: &str) -> Self {
        let (name, namespace) = port.rsplit_once('.').unwrap_or((port, ""));
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The name that the addresses of a `Vip` are held on, which is that of no pod.
    #[must_use]
    pub fn of_vip(vip: &str) -> Self {
        Self::of_port(&format!("{VIP}{vip}"))
    }

    /// The `Vip` whose addresses are held on this name, if it is one's.
    #[must_use]
    pub fn vip(&self) -> Option<Name> {
        self.name.starts_with(VIP).then(|| self.port()[VIP.len()..].into())
    }
}

/// No name of a Kubernetes object has a slash.
const VIP: &str = "vip/";

/// A `Vpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpc {
    /// Identity, across deletion and re-creation under one name.
    pub uid: Name,
    /// Whether deletion was asked for.
    pub deleting: bool,
    /// Whether the object carries our finalizer.
    pub finalizer: bool,
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

pub use crate::fact::Problem;
pub use crate::holder::{Identity, Workload};

/// What a subnet wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetSpec {
    /// VPC by name.
    pub vpc: Name,
    /// Ranges.
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
    /// What its annotations ask for, or why they cannot be read. What is recorded counts as asked for.
    pub asked: Result<NicAnnotations, String>,
    /// What its annotations record.
    pub recorded: Option<NicRecord>,
}

/// An `IP` object whose addresses are held while there is no pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Creation, in seconds since 1970.
    pub created: i64,
    /// Whether deletion was asked for: then nothing is held.
    pub deleting: bool,
    /// Name that the NIC is on.
    pub holder: PodKey,
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

/// What the allocator gave to the primary NIC on a name.
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
}

/// Derived: a subnet that works, and all that a port must know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// VPC, and name of its logical router.
    pub vpc: Name,
    /// Ranges.
    pub cidrs: Cidrs,
    /// Gateways, IPv4 first.
    pub gateways: Vec<IpAddr>,
    /// Whether new NICs are refused because the subnet is going.
    pub closing: bool,
}

/// All collections.
#[derive(Default)]
pub struct World {
    vpcs: Table<Name, Vpc>,
    subnets: Table<Name, Subnet>,
    namespaces: Table<Name, Namespace>,
    pods: Table<PodKey, Pod>,
    allocations: Table<PodKey, Allocation>,
    usages: Table<Name, Usage>,
    routers: Table<Name, Router>,
    ranges: Table<Name, Range>,
    networks: Table<Name, Network>,
    ips: Table<Name, Ip>,
    pools: Table<Name, Pool>,
    replicas: Table<ReplicasKey, Replicas>,
    vips: Table<Name, Vip>,
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
    5 Allocation: PodKey => allocations,
    6 Usage: Name => usages,
    7 Router: Name => routers,
    8 Range: Name => ranges,
    9 Network: Name => networks,
    10 Ip: Name => ips,
    11 Replicas: ReplicasKey => replicas,
    12 Pool: Name => pools,
    13 Vip: Name => vips,
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
        if let Ok(spec) = &subnet.spec {
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
        out.extend(subnet.spec.iter().map(|spec| format!("{}-{name}", spec.vpc).into()));
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
        if subnet.spec.as_ref().is_ok_and(|spec| spec.default) {
            out.push(());
        }
    }
}
