//! The node: CNI server, OVS ports, gateway bridge, provider networks, VM sockets.
//!
//! Nothing is executed: OVSDB and netlink are spoken directly. Nothing is polled: an ADD waits on the watch of the node's
//! pods for its address, and on the monitor of the node's OVSDB for `ovn-installed`.

mod add;
mod cni;
mod config;
mod ovs;
mod pods;
mod server;

pub use config::Config;
pub use server::{listen, run};
