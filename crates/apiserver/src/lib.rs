//! The embedded Kubernetes API: the one-machine default, and the test double.
//!
//! The smallest server that is right about what it serves: CRUD with optimistic concurrency, list and watch, status
//! subresources, finalizers, patches, selectors, custom kinds with schemas and CEL rules. In a process it is a
//! [`kube::Client`] ([`Server::client`]); over HTTP ([`run`]) it listens on loopback and wants a token.

mod admission;
mod apply;
mod builtin;
mod collector;
mod columns;
mod definition;
mod discovery;
mod disk;
mod error;
mod events;
mod fields;
mod history;
mod http_server;
mod index;
mod jsonpath;
mod kinds;
mod lifecycle;
mod object;
mod openapi;
mod openapi_v2;
mod owners;
mod patch;
mod pod;
mod protobuf;
mod read;
mod redirect;
mod request;
mod reviews;
mod schema;
mod selector;
mod server;
mod shape;
mod store;
mod strategic;
mod table;
mod typed;
mod watch;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use disk::DiskError;
pub use error::{Cause, Error};
pub use http_server::{RunError, USER, run};
pub use server::Server;

/// Where the server keeps its objects and who may talk to it.
#[derive(Debug)]
pub struct Config {
    /// Folder of the database; created if missing. `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// Token that every request must carry: as a bearer, or as the password of [`USER`].
    pub token: String,
    /// Sockets already bound, perhaps in other network namespaces.
    pub listeners: Vec<std::net::TcpListener>,
    /// Addresses to bind, loopback only.
    pub listen: Vec<SocketAddr>,
}
