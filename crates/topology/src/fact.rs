//! What the rules say.

use std::net::IpAddr;

use api::MacAddr;
use api::annotations::{IpFamily, NicRecord};

use crate::holder::Identity;
use crate::world::{Allocation, Name, PodKey};

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
    /// The primary NIC on this name needs an allocation.
    Request(PodKey),
    /// The `IP` object of a NIC, by name.
    Ip(Name),
    /// A pod's annotations must record its primary NIC, once it is committed.
    Record(PodKey),
    /// A pod cannot be served.
    PodProblem(PodKey),
    /// State of a `Vip`.
    VipState(Name),
    /// An `IP` object cannot hold what it asks for.
    IpProblem(Name),
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
    /// Record, with identity of the pod and name of the VPC.
    Record {
        /// Identity of the pod.
        uid: Name,
        /// VPC.
        vpc: Name,
        /// Annotations to write.
        record: Box<NicRecord>,
    },
    /// Reason.
    Problem(Problem),
    /// VPC.
    Vpc(VpcState),
    /// Subnet.
    Subnet(SubnetState),
}

impl engine::Fact for Fact {
    type Value = FactValue;
}

/// What an `IP` object shows of who holds its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpHolder {
    /// Name that the NIC is on.
    pub holder: PodKey,
    /// Node of the pod that has it.
    pub node: Option<Name>,
    /// The allocation that it shows.
    pub nic: Allocation,
}

/// What a primary NIC asks of the allocator.
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
    /// Where the other addresses are to come from.
    pub source: Source,
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
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}

/// State of a subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetState {
    /// Normalised ranges, gateways and protocol, or what is wrong.
    pub network: Result<(api::Cidrs, Vec<IpAddr>), Problem>,
    /// Subnets that were refused because they overlap with this one.
    pub refused: Vec<Name>,
    /// Whether the object must carry our finalizer.
    pub finalizer: bool,
    /// Why deletion waits.
    pub waiting: Option<Problem>,
}
