//! OVSDB client (RFC 7047 with the extensions of ovsdb-server(7)): transport, replica feed and transactions.
//!
//! One [`Driver`] owns the connection: it finds the server of a cluster that serves, or leads, reconnects with back-off,
//! resumes the monitor where the server can, and turns whatever the peer sends into [`Event`]s. The consumer owns the [`Replica`](ovsdb_types::Replica) and applies events to
//! it, so nothing is shared and nothing is locked. An update that a transaction causes is delivered before the
//! transaction's result.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod client;
mod driver;
mod frame;
mod remote;
mod session;
mod status;
mod tls;
mod wire;

pub use client::{Client, TransactError};
pub use driver::{Driver, Event, Options, connect};
pub use frame::{FrameError, Framer};
pub use remote::{Remote, RemoteError, Remotes};
pub use status::Status;
pub use tls::Tls;
pub use wire::WireError;
