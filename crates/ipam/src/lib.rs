//! Central address allocation: subnets and their pools, chosen and next free addresses, MACs that are unique per VPC, and
//! lines of those who wait. Pure: state in memory, rebuilt from Kubernetes objects at start, in one pass.
//!
//! An address belongs to its holder until the holder releases it. A released one is reused last, in the order of release, so
//! that neighbours' caches have forgotten it; what was released before a restart is not known after it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod adopt;
mod allocate;
mod bits;
mod error;
mod family;
mod free_set;
mod holders;
mod ipam;
mod listing;
mod macs;
mod queue;
mod ranges;
mod request;
mod runs;
mod subnet;
mod table;

pub use error::{AllocateError, PoolError, Refused};
pub use ipam::{Ipam, SubnetHolders};
pub use listing::{AddressRanges, Footprint, Listing, Usage};
pub use request::{Adopted, Claim, Families, Holding, Owner, PoolName, Request, SubnetName, VpcName};
pub use subnet::{PoolSpec, SubnetSpec};
