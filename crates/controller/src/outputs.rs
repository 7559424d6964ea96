//! What is to be written to the API server. An output names *what*; its content is taken when it is written, so that a
//! late write carries the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ovsdb_types::RowKey;
use topology::PodKey;

/// Something to write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Output {
    /// Record a pod's NIC in its annotations. First in order: somebody waits for it.
    Pod(PodKey),
    /// Record a node's port in its annotations.
    Node(Arc<str>),
    /// Finalizers and status of a VPC.
    Vpc(Arc<str>),
    /// Finalizers and status of a subnet.
    Subnet(Arc<str>),
    /// Finalizers and status of a provider network.
    ProviderNetwork(Arc<str>),
    /// Finalizers and status of a Vlan.
    Vlan(Arc<str>),
    /// Status of a pool.
    IpPool(Arc<str>),
    /// Status of a virtual IP.
    Vip(Arc<str>),
    /// Tell users why an object is not served.
    Event(Subject),
    /// The `IP` object of a NIC. Last in order: nobody waits for it.
    Ip(Arc<str>),
}

/// What an event speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    Pod(PodKey),
    Node(Arc<str>),
    Subnet(Arc<str>),
    Vpc(Arc<str>),
    ProviderNetwork(Arc<str>),
    Vlan(Arc<str>),
    IpPool(Arc<str>),
    Vip(Arc<str>),
    Ip(Arc<str>),
    /// What an audit found.
    Audit,
    /// A row that others keep changing.
    Row(RowKey),
    /// The network as a whole; events stand at namespace `kube-system`.
    Network,
}

/// A problem to tell users of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) uid: Arc<str>,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What waits to be written. Each thing at most once.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    ready: BTreeSet<Output>,
    /// Rises with each failure of one output.
    failures: BTreeMap<Output, u32>,
    under_way: BTreeSet<Output>,
    /// Asked for again while it was being written.
    again: BTreeSet<Output>,
}

impl Outputs {
    pub(crate) fn add(&mut self, output: Output) {
        if self.under_way.contains(&output) {
            self.again.insert(output);
        } else {
            self.ready.insert(output);
        }
    }

    /// The next to write.
    pub(crate) fn start(&mut self) -> Option<Output> {
        let output = self.ready.pop_first()?;
        self.under_way.insert(output.clone());
        Some(output)
    }

    /// It was written, or is no more needed.
    pub(crate) fn finish(&mut self, output: &Output) {
        self.under_way.remove(output);
        self.failures.remove(output);
        if self.again.remove(output) {
            self.ready.insert(output.clone());
        }
    }

    /// It failed; returns how often in a row. The caller adds it again after a pause.
    pub(crate) fn fail(&mut self, output: &Output) -> u32 {
        self.under_way.remove(output);
        self.again.remove(output);
        let failures = self.failures.entry(output.clone()).or_default();
        *failures += 1;
        *failures
    }
}
