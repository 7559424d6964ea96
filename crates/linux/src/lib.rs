//! The kernel's side of the network: netlink, network namespaces, nftables, sysctl and ethtool.
//!
//! This is the only crate that touches the kernel. It knows nothing of Kubernetes or OVN and decides nothing:
//! callers say what, it says whether that worked, naming the object, the operation and the cause.
#![warn(missing_docs)]

mod address;
mod asker;
mod error;
pub mod ethtool;
mod events;
mod folder;
pub mod function;
mod handle;
pub mod icmp;
mod link;
mod neighbour;
pub mod netns;
pub mod nft;
mod nft_changes;
mod prefix;
pub mod process;
mod qdisc;
mod ready;
mod route;
mod rule;
mod setting_changes;
pub mod sysctl;
pub mod tap;
mod task;

pub use asker::{Answer, Asker, Question};
pub use error::{Error, Result};
pub use events::{Event, Events, Subject};
pub use folder::Folder;
pub use function::{Function, FunctionError};
pub use handle::Handle;
pub use link::{Link, LinkChange, Mac, VethEnd, display_mac};
pub use netns::Netns;
pub use nft_changes::TableChanges;
pub use prefix::IpPrefix;
pub use qdisc::{Netem, Qdiscs, Tbf};
pub use route::Route;
pub use rule::Rule;
pub use setting_changes::{Changed, SettingChanges};
pub use task::Task;

#[cfg(test)]
mod scratch;
