//! OVSDB without I/O: atoms and data, schemas, operations (RFC 7047), the replica of a database, and the
//! difference between what is desired and what the replica shows.
//!
//! The modules [`nb`], [`sb`] and [`vswitch`] are generated from the `.ovsschema` files that OVN and Open vSwitch install.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod atom;
mod datum;
mod desired;
mod diff;

pub mod generate;
mod operation;
mod replica;
mod row_key;
mod schema;
mod table;
mod text;
mod update;

#[allow(missing_docs)] // the columns are documented in ovn-nb(5)
pub mod nb;
#[allow(missing_docs)] // ovn-sb(5)
pub mod sb;
#[allow(missing_docs)] // ovs-vswitchd.conf.db(5)
pub mod vswitch;

pub use atom::{Atom, Real};
pub use datum::{Datum, DatumError, IntoDatum};
pub use desired::{Change, Desired, DesiredRow, Element, Fact, FactValue};

pub use diff::{Bindings, Diff, Difference, Dirty, Ownership, Scope};
pub use operation::{Condition, Function, Mutation, Mutator, OpError, OpResult, Operation, Until};
pub use replica::{IndexDef, Replica, Row, RowChange};
pub use row_key::RowKey;
pub use schema::{AtomType, Column, ColumnSchema, DatabaseSchema, TableId, TableSchema};
pub use update::{Monitored, RowUpdate, TableUpdates, TableUpdatesSeed};

pub use uuid::Uuid;
