//! What the rules say.

use std::net::IpAddr;

use api::MacAddr;
use api::annotations::{IpFamily, NicRecord};
use api::routes::NextHop;
use ovsdb_types::RowKey;

use crate::holder::Identity;
use crate::underlay::{NetworkState, VlanState};
use crate::world::{Allocation, Name, NicKey, PodKey};

/// Something wanted, in the northbound database or in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// Northbound.
    Northbound(ovsdb_types::Fact),
    /// The allocator must know this subnet.
    Pool(Name),
    /// The allocator must know this pool.
    IpPool(Name),
    /// State of a pool.
    PoolState(Name),
    /// This NIC needs an allocation.
    Request(NicKey),
    /// The `IP` object of a NIC.
    Ip(NicKey),
    /// The pod's annotations must record this NIC, which the pod has, whoever's name it is on, once its port is committed.
    Record(PodKey, Option<Name>),
    /// A node's annotations must record its port, once that is committed.
    Node(Name),
    /// A node cannot be served.
    NodeProblem(Name),
    /// Pods of a subnet cannot leave as it says.
    GatewayProblem(Name),
    /// The node that all pods of a subnet leave by now.
    ActiveGateway(Name),
    /// Pods of a subnet cannot leave as its VPC says.
    ExitProblem(Name),
    /// A pod cannot be served.
    PodProblem(PodKey),
    /// Some of a pod's NICs besides the primary one cannot be served.
    NetworksProblem(PodKey),
    /// The port of a NIC of this pod is not all that its annotations ask for.
    PortProblem(PodKey, Option<Name>),
    /// State of a `Vip`.
    VipState(Name),
    /// An `IP` object cannot hold what it asks for.
    IpProblem(Name),
    /// State of a Vlan.
    Vlan(Name),
    /// State of a provider network.
    ProviderNetwork(Name),
    /// State of a VPC.
    Vpc(Name),
    /// State of a subnet.
    Subnet(Name),
}

/// What is said beyond the [`Fact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactValue {
    /// Northbound.
    Northbound(ovsdb_types::FactValue),
    /// Subnet to allocate from.
    Pool {
        /// VPC within which MACs are unique.
        vpc: Name,
        /// Ranges.
        cidrs: api::Cidrs,
        /// Inclusive ranges that are never allocated.
        excluded: Vec<(IpAddr, IpAddr)>,
    },
    /// Part of a subnet to allocate from.
    IpPool {
        /// Subnet.
        subnet: Name,
        /// Inclusive ranges.
        ranges: Vec<(IpAddr, IpAddr)>,
    },
    /// What is wrong with a pool, if anything.
    PoolState(Option<Problem>),
    /// What is wrong with a `Vip`, if anything, besides its allocation.
    VipState(Option<Problem>),
    /// Request.
    Request(NicRequest),
    /// What the `IP` object shows besides the allocation.
    Ip(IpHolder),
    /// Record.
    Record {
        /// Identity of the pod.
        uid: Name,
        /// VPC; none of a subnet without a router.
        vpc: Option<Name>,
        /// Whether the NIC is ours to make.
        ours: bool,
        /// Annotations to write.
        record: Box<NicRecord>,
    },
    /// Record of a node.
    Node {
        /// Identity of the node.
        uid: Name,
        /// Annotations to write.
        record: Box<NicRecord>,
    },
    /// Node.
    ActiveGateway(Name),
    /// Reason.
    Problem(Problem),
    /// Vlan.
    Vlan(Box<VlanState>),
    /// Provider network.
    ProviderNetwork(Box<NetworkState>),
    /// VPC.
    Vpc(VpcState),
    /// Subnet. Most facts are of pods, and each takes the room of the largest.
    Subnet(Box<SubnetState>),
}

impl engine::Fact for Fact {
    type Value = FactValue;
}

/// What an `IP` object shows of who holds its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpHolder {
    /// Node of the pod that has it.
    pub node: Option<Name>,
    /// The allocation that it shows.
    pub nic: Allocation,
}

/// What a NIC asks of the allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicRequest {
    /// Who it belongs to: another one asks anew.
    pub identity: Identity,
    /// Subnet.
    pub subnet: Name,
    /// Chosen addresses.
    pub addresses: Vec<IpAddr>,
    /// Chosen MAC.
    pub mac: Option<MacAddr>,
    /// Where the other addresses are to come from, if not from anywhere in the subnet.
    pub source: Option<Box<Source>>,
    /// Whether it is held already, as annotations or an `IP` object record.
    pub held: bool,
    /// Whether a pod is there that has it: of two that record one address, that one keeps it.
    pub running: bool,
    /// Creation of the object that asks, in seconds since 1970: of two alike the older keeps it.
    pub created: i64,
}

/// Where addresses come from that are not chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The first of these pools that has one; the subnet without its pools when there are none.
    pub pools: Vec<Name>,
    /// One of these.
    pub candidates: Vec<IpAddr>,
    /// Of this family alone.
    pub family: Option<IpFamily>,
}

/// Why an object cannot be served: the field, and the reason in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One CamelCase word for programs.
    pub reason: &'static str,
    /// Field or annotation, its value and what is wrong with it.
    pub message: String,
}

/// State of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpcState {
    /// Subnets, sorted.
    pub subnets: Vec<Name>,
    /// Whether the object must carry our finalizer.
    pub finalizer: bool,
    /// Why its pods cannot leave as it says, or what is wrong with its routes.
    pub problem: Option<Problem>,
    /// Next hops that do not answer, and that others stand in for.
    pub lost: Vec<NextHop>,
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}

impl VpcState {
    /// Which next hops do not answer, if any.
    #[must_use]
    pub fn told(&self) -> Option<Problem> {
        let hops = self.lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("next hops that do not answer: {hops}");
        (!self.lost.is_empty()).then_some(Problem { reason: "NextHopLost", message })
    }
}

/// The router of a VPC in a subnet on a Vlan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interconnected {
    /// VPC.
    pub vpc: Name,
    /// Addresses and MAC of the router there; none yet.
    pub held: Option<Allocation>,
}

/// State of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetState {
    /// Normalised ranges, gateways and protocol, or what is wrong.
    pub network: Result<(api::Cidrs, Vec<IpAddr>), Problem>,
    /// What connects it with the others of its VPC, if that is asked for, once it has addresses; or why that cannot be.
    pub interconnection: Option<Result<Interconnected, Problem>>,
    /// Rows with what OVN answers to DHCP there, over IPv4 and over IPv6.
    pub dhcp: [Option<RowKey>; 2],
    /// Subnets that were refused because they overlap with this one.
    pub refused: Vec<Name>,
    /// Whether the object must carry our finalizer.
    pub finalizer: bool,
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}
