//! A cluster in a box: nodes as network namespaces with real OVS and OVN, pods as processes in namespaces of theirs, or as
//! virtual machines.
//!
//! `up` builds it, `down` finds and removes every trace, `check` compares what pods should reach with what they reach.
//! The lab is tooling: it may run programs such as `ovs-vsctl`, which the agent must not. It makes no decision about
//! the cluster's network; that is the controller's.
#![warn(missing_docs)]

pub mod apply;
mod central;
pub mod check;
pub mod cluster;
mod component;
mod components;
mod daemon;
mod datapath;
mod down;
mod exec;
pub mod executions;
mod fabric;
mod instances;
mod kubelet;
mod layout;
pub mod machine;
pub mod migrate;
mod name;
mod node;
mod parameters;
mod partition;
mod path;
mod pauses;
mod place;
pub mod probe;
mod program;
mod progress;
pub mod runtime;
mod scheduler;
mod status;
mod table;
#[cfg(test)]
mod tests;
pub mod trial;
mod up;
mod vlans;
pub mod wait;

pub use component::{Component, State};
pub use datapath::{Datapath, DatapathChoice};
pub use down::{down, labs};
pub use kubelet::{ContainerRecord, Record};
pub use layout::{Layout, RUN_FOLDER, RUN_VARIABLE};
pub use name::LabName;
pub use parameters::{Gateway, Parameters, Tunnel};
pub use partition::Cut;
pub use path::{Hop, HopKind};
pub use place::Place;
pub use program::Programs;
pub use progress::Progress;
pub use status::Status;
pub use trial::Trial;
pub use up::{Request, up};
pub use vlans::Vlans;

/// Something that the command line already names and that is still to be built: exit status 2, and nothing done.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not yet: {0}")]
pub struct NotYet(pub String);

/// A lab on this machine: where its files are and what it was started with.
#[derive(Clone, Debug)]
pub struct Lab {
    /// Its files and namespaces.
    pub layout: Layout,
    /// What it was started with.
    pub parameters: Parameters,
}

impl Lab {
    /// Opens a lab that is up.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn open(layout: Layout) -> anyhow::Result<Self> {
        let parameters = Parameters::load(&layout)?;
        Ok(Self { layout, parameters })
    }
}
