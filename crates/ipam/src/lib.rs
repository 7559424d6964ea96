//! Central address allocation: subnets, static and next-free addresses, MACs that are unique per VPC, and a queue of
//! those who wait. Pure: state in memory, rebuilt from Kubernetes objects at start.
//!
//! An address belongs to its holder until the holder releases it; a freed one is reused last, because allocation goes on
//! from where it stopped (next fit), so that neighbours' caches have forgotten it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod free_set;
mod ipam;
mod pool;

pub use free_set::FreeSet;
pub use ipam::{AllocateError, Holding, Ipam, Owner, Request, SubnetName, Usage, VpcName};
pub use pool::{PoolError, SubnetSpec};
