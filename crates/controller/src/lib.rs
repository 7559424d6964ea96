//! The controller: Kubernetes watches → requests → allocator → engine → northbound database; status and events back.
//!
//! All decisions are taken in `Core`, which is synchronous and knows no clock and no network. Around it, one loop
//! feeds it what the watches and the database say, commits one transaction at a time, and writes to the API server what
//! the core has to say there. While a transaction is under way, changes gather into the next batch.

mod brake;
mod config;
mod core;
mod drift;
mod election;
mod inputs;
mod ip_object;
mod metrics;
mod outputs;
mod preview;
mod run;
mod settling;
mod southbound;
mod status;
mod stranding;
mod writer;

pub use config::{Config, Election};
pub use preview::{Preview, preview};
pub use run::run;
