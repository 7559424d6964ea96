//! The rules of the network: Kubernetes intent → northbound facts, one module per feature.
//!
//! A rule is a pure function of one input object and of what it reads on the way. Networks and NICs are derived first,
//! northbound rows from those, so that another back end can start from the same meaning.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod centralized;
mod defaults;
mod dhcp;
mod egress;
mod fact;
mod holder;
pub mod input;
mod interconnection;
mod ip;
mod key;
mod mac;
mod macs_alone;
mod migration;
mod networks;
mod nic;
mod node;
pub mod northbound;
mod pool;
mod port;
mod routes;
mod security;
mod subnet;
mod underlay;
mod vip;
mod vpc;
mod world;

pub use centralized::gateway_port;
pub use dhcp::{Dhcp, OptionsOf, PortDhcp, options_of};
pub use fact::{Fact, FactValue, Interconnected, IpHolder, NicRequest, Problem, Source, SubnetState, VpcState};
pub use holder::{Identity, Workload, pods_on, providers, recorded};
pub use key::{DefinitionKey, NicKey, PodKey};
pub use migration::{Incoming, Instance, Migration, Stage};
pub use underlay::{NetworkState, NodeReports, ProviderNetwork, Report, Vlan, VlanSegment, VlanState, Watchers};
pub use world::{
    Allocation, Attached, Attachment, Central, Egress, HostLink, Interconnection, Ip, Keeper, Link, Namespace, Network, NetworkDefinition,
    Networks, NicNotes, Node, Pod, Pool, PoolSpec, PortBinding, PortNotes, Replicas, ReplicasKey, ReplicasKind, Router, Subnet, SubnetSpec,
    Usage, Vip, VipSpec, Vpc, Ways, Wish, World,
};

/// An engine over an empty world, with every rule of the network.
#[must_use]
pub fn engine() -> engine::Engine<World, Fact> {
    let mut engine = engine::Engine::default();
    engine.index::<egress::VpcsThatLeave>();
    engine.index::<world::RangesByVpc>();
    engine.index::<world::SubnetsByNamespace>();
    engine.index::<world::SubnetsByDefault>();
    engine.index::<world::SubnetsByRouterPort>();
    engine.index::<world::SubnetsByProvider>();
    engine.index::<centralized::CentralByVpc>();
    engine.index::<centralized::CentralLinks>();
    engine.index::<interconnection::InterconnectedByVpc>();
    engine.index::<routes::OnPhysicalByVpc>();
    engine.index::<holder::PodsByHolder>();
    engine.index::<world::PoolsBySubnet>();
    engine.index::<world::PoolsByNamespace>();
    underlay::index(&mut engine);
    // Registration order is the stratum: a rule reads inputs and what the rules above it derived.
    vpc::register(&mut engine);
    underlay::register(&mut engine);
    subnet::register(&mut engine);
    routes::register(&mut engine);
    vpc::register_status(&mut engine);
    pool::register(&mut engine);
    nic::register(&mut engine);
    networks::register(&mut engine);
    ip::register(&mut engine);
    vip::register(&mut engine);
    node::register(&mut engine);
    port::register(&mut engine);
    egress::register(&mut engine);
    centralized::register(&mut engine);
    interconnection::register(&mut engine);
    engine
}

/// An engine with the inputs of `engine`, and nothing that was computed from them: what it settles to must be the same.
#[must_use]
pub fn from_scratch(engine: &engine::Engine<World, Fact>) -> engine::Engine<World, Fact> {
    let mut fresh = self::engine();
    engine.copy_into::<Vpc>(&mut fresh);
    engine.copy_into::<Namespace>(&mut fresh);
    engine.copy_into::<Subnet>(&mut fresh);
    engine.copy_into::<Usage>(&mut fresh);
    engine.copy_into::<Pool>(&mut fresh);
    engine.copy_into::<Replicas>(&mut fresh);
    engine.copy_into::<Instance>(&mut fresh);
    engine.copy_into::<Ip>(&mut fresh);
    engine.copy_into::<Vip>(&mut fresh);
    engine.copy_into::<Allocation>(&mut fresh);
    engine.copy_into::<Pod>(&mut fresh);
    engine.copy_into::<NetworkDefinition>(&mut fresh);
    engine.copy_into::<Networks>(&mut fresh);
    engine.copy_into::<Egress>(&mut fresh);
    engine.copy_into::<ProviderNetwork>(&mut fresh);
    engine.copy_into::<Vlan>(&mut fresh);
    engine.copy_into::<NodeReports>(&mut fresh);
    engine.copy_into::<Node>(&mut fresh);
    engine.copy_into::<PortBinding>(&mut fresh);
    fresh
}
