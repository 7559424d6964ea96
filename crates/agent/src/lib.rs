//! The node: CNI server, OVS ports, gateway bridge, provider networks, VM sockets.
//!
//! Nothing is executed: OVSDB and netlink are spoken directly. Nothing is polled: an ADD waits on the watch of the node's
//! pods for its address, and on the monitor of the node's OVSDB for `ovn-installed`.

mod attachment;
mod chassis;
mod cluster;
mod cni;
mod config;
mod conflist;
mod deletions;
mod gateway;
mod health;
mod hops;
mod macs;
mod node;
mod offload;
mod ovs;
mod provider;
mod reconcile;
mod report;
mod server;
mod settings;
mod tunnels;
mod unmanaged;
mod vhost;
mod wire;

pub use config::{Config, Detect};
pub use server::{listen, run};
