//! The few OpenFlow messages that we send to a bridge: OpenFlow Switch Specification 1.4.0, wire protocol 0x05.
//!
//! Flows are added, changed and removed in *bundles* ([`Bundle`]), which the switch applies all at once or not at all, so
//! that no packet meets half a change. Only what we use is here; a connection belongs to whoever sends the bytes. Structures
//! and sections are named as in the specification.
//!
//! ```
//! use openflow::{Action, Bundle, BundleId, FlowMod, Match, Port, Priority, Xid};
//!
//! let to_host = FlowMod::add(Priority(100), Match::default(), vec![Action::SetEthDst([2, 0, 0, 0, 0, 1]), Action::Output(Port::LOCAL)]);
//! let (bytes, exchange) = Bundle { id: BundleId(1), flows: vec![to_host] }.begin(Xid(1))?;
//! // Send `bytes`, and give `exchange` what `decode` reads, until it is done.
//! # let _ = (bytes, exchange);
//! # Ok::<(), openflow::TooLong>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bundle;
mod error;
mod flow;
mod matching;
mod message;
mod port;
mod reply;

pub use bundle::{Bundle, BundleId, BundleStep, Exchange, Next, Refused};
pub use error::ErrorReply;
pub use flow::{Action, Command, Cookie, FlowMod, Priority, Table};
pub use matching::{EtherType, Field, Mac, Match, Network};
pub use message::{Message, TooLong, VERSION, Xid};
pub use port::{Port, PortError};
pub use reply::{DecodeError, Reply, decode};
