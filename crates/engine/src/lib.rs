//! Incremental rules over typed collections. Knows nothing of networks.
//!
//! An [`Engine`] holds a *world* of input collections. A *rule* is a pure function from one input object, and from what
//! it reads on the way through a [`Cx`], to *facts* and derived objects. The engine records what each run of a rule read,
//! whether it was there or not, and runs again only what a change touches; [`Engine::settle`] returns the facts that
//! changed. Incremental equals from scratch: whatever the order of changes, the facts are those that a fresh engine
//! would compute.
//!
//! Laws for rules: they read inputs and what *earlier* rules derived (registration order is the stratum, so there are no
//! cycles); there is no "select all that match": the member asks who may select it, through an [`Index`].
//!
//! Conflicts do not depend on order. Equal claims of one fact merge; of different ones that of the oldest object wins,
//! then that of the lower rule and key, and all claimants are reported.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod claims;
mod collection;
mod cx;
mod engine;
mod readers;
mod rule;

pub use claims::{Claimant, Conflict};
pub use collection::{Age, Collection, Index, Table};
pub use cx::{Cx, KeyAndValue, Out};
pub use engine::{Changed, Engine, RuleCount, Settled};

/// Something that rules say. Small: a row, a member of a set, an entry of a map, a status.
pub trait Fact: Clone + Eq + std::hash::Hash + Ord + std::fmt::Debug + Send + Sync + 'static {
    /// What is said beyond the fact itself.
    type Value: Clone + Eq + Send + 'static;
}
