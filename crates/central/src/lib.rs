//! OVN's central services on one host: the northbound and southbound databases, alone or as members of RAFT clusters, and
//! `ovn-northd`. What dies is started again; what runs is adopted, so that a restart of this program touches nothing.
//!
//! `ovn-northd` computes the southbound database from the northbound one, whatever that holds. It is paused before a
//! northbound server starts, and released when the database carries the controller's mark of completeness: a database
//! that was lost is filled again before anybody acts on it, and running traffic does not notice.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backup;
mod config;
mod control;
mod daemon;
mod database;
mod kept;
mod northd;
mod run;
mod state;
mod unixctl;

pub use config::{Backups, Cluster, Config};
pub use control::{ask, listen};
pub use database::Database;
pub use run::run;
pub use state::{Member, NorthdState, State};
