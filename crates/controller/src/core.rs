//! Every decision of the controller. No clock, no network, no await.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use api::annotations::{IpFamily, NicRecord, join};
use api::{DEFAULT_VPC, MacAddr, v1};
use engine::{Age, Changed, Engine};
use ipam::{Adopted, Claim, Families, Holding, Ipam, Listing, PoolSpec, Request};
use ovsdb::{Event, TransactError};
use ovsdb_types::nb::{self, dhcp_options, logical_router, logical_router_port, logical_switch, logical_switch_port, nb_global};
use ovsdb_types::{
    Bindings, Change, Condition, Datum, Desired, Diff, Difference, Dirty, Element, Function, IntoDatum, Mutation, Mutator, Operation,
    Ownership, Replica, Row, RowChange, RowKey, TableId, Until,
};
use rustc_hash::{FxHashMap, FxHashSet};
use topology::{
    Allocation, Fact, FactValue, Instance, Ip, IpHolder, Namespace, NetworkDefinition, NetworkState, Networks, NicKey, NicRequest, Node,
    NodeReports, OptionsOf, Pod, PodKey, Pool, PortBinding, Problem, ProviderNetwork, Replicas, ReplicasKind, Source, Subnet, SubnetState,
    Usage, Vip, Vlan, VlanState, Vpc, VpcState, World, northbound, pods_on, providers, recorded,
};
use uuid::Uuid;

use crate::brake::{Brake, Removal};
use crate::config::Config;
use crate::drift::Drift;
use crate::inputs::{Input, KINDS, Key, Kind, Object, Shown, ShownIp, ShownVip};
use crate::metrics::Metrics;
use crate::outputs::{Notice, Output, Outputs, Subject};
use crate::settling::Settling;
use crate::southbound::Southbound;
use crate::stranding::{self, Waiting};

type Name = Arc<str>;

/// Objects of a first list that are taken in at once: what they change is held until then.
const SLICE: usize = 2048;

/// Where people agree to removals.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Key in `NB_Global:external_ids` under which the current leadership's number stands.
const EPOCH: &str = "ferrovia-epoch";

/// One transaction to commit.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) operations: Vec<Operation>,
    pub(crate) inserted: usize,
    pub(crate) modified: usize,
    pub(crate) removed: Vec<Uuid>,
    /// Rows with our mark, in tables of ours, that no rule claims.
    pub(crate) kept: usize,
}

impl Batch {
    const fn new(operations: Vec<Operation>) -> Self {
        Self { operations, inserted: 0, modified: 0, removed: Vec::new(), kept: 0 }
    }
}

/// The addresses of a subnet, by state.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) usage: ipam::Usage,
    pub(crate) used: Listing,
    pub(crate) available: Listing,
}

/// A pod's annotations to write.
#[derive(Debug)]
pub(crate) struct PodRecord<'a> {
    pub(crate) uid: &'a str,
    /// The virtual machine on whose name the NICs are.
    pub(crate) machine: Option<Name>,
    pub(crate) nics: Vec<NicToRecord<'a>>,
}

/// Annotations of one NIC to write.
#[derive(Debug)]
pub(crate) struct NicToRecord<'a> {
    /// Provider; none of the primary NIC.
    pub(crate) provider: Option<Name>,
    pub(crate) vpc: Option<&'a str>,
    /// Whether it is ours to make.
    pub(crate) ours: bool,
    pub(crate) record: &'a NicRecord,
}

/// An engine with the inputs of another, and nothing computed yet.
pub(crate) type Audit = Engine<World, Fact>;

pub(crate) struct Core {
    config: Config,
    metrics: Metrics,
    /// What the last audit found to differ: once may be a change meanwhile, twice is a defect.
    suspected: Vec<Changed<Fact>>,
    /// The last defect that an audit found.
    defect: Option<String>,
    /// The number of the term in which this controller leads; until then it decides and writes nothing.
    epoch: Option<u64>,
    /// Names that ask for an address while another controller leads, which decides.
    deferred: BTreeSet<NicKey>,
    /// Whether the database changed since it was last compared.
    drifted: bool,
    drift: Drift,
    settling: Settling,
    southbound: Southbound,
    /// Whether an input has changed since the last settle of the rules that is no object: as time has passed, or as something was observed.
    observed: bool,
    /// Whether the transaction under way is the one that begins the term.
    claiming: bool,
    engine: Engine<World, Fact>,
    ipam: Ipam,
    desired: Desired,
    bindings: Bindings,
    ownership: Vec<Ownership>,
    replica: Option<Replica>,
    connected: bool,
    dirty: Dirty,
    /// What the transaction under way is to close.
    in_flight: Dirty,
    /// Rows that the database refused, with what it said: left out until they, or the database, change.
    refused_rows: BTreeSet<RowKey>,
    /// Everything is compared at the next plan: at start, and after the database was replaced.
    compare_all: bool,
    /// The database was compared anew since the last commit: removals are looked at twice.
    suspicious: bool,
    brake: Brake,
    /// Kinds on which rows hang and of which there was nothing at the start, nor since: perhaps they were lost.
    empty: BTreeSet<Kind>,
    listed: BTreeSet<Kind>,
    urgent: VecDeque<Input>,
    waiting: VecDeque<Input>,
    known: FxHashMap<Kind, FxHashSet<Key>>,
    vpcs: FxHashMap<Name, Shown<v1::VpcStatus>>,
    subnets: FxHashMap<Name, Shown<v1::SubnetStatus>>,
    provider_networks: FxHashMap<Name, Shown<v1::ProviderNetworkStatus>>,
    vlans: FxHashMap<Name, Shown<v1::VlanStatus>>,
    pools: FxHashMap<Name, Shown<v1::IpPoolStatus>>,
    /// The subnet of each pool that the allocator knows.
    pool_subnets: BTreeMap<Name, Name>,
    /// MACs of gateways that an earlier controller chose, until they are recorded.
    gateway_macs: BTreeMap<Name, MacAddr>,
    vips: FxHashMap<Name, ShownVip>,
    ips: FxHashMap<Name, ShownIp>,
    /// `IP` objects that cannot be read, with the reason.
    unreadable: FxHashMap<Name, Problem>,
    requests: FxHashMap<NicKey, NicRequest>,
    /// NICs that are not primary ones, by the name of their port.
    further: FxHashMap<Name, NicKey>,
    /// NICs whose port would have the name of another one's.
    namesakes: BTreeSet<NicKey>,
    /// Why an allocation failed.
    unallocated: FxHashMap<NicKey, String>,
    /// NICs whose record names an address that another one holds.
    contested: BTreeSet<NicKey>,
    /// NICs whose MAC another one has too, with that one.
    shared: FxHashMap<NicKey, Name>,
    /// Changes of subnets that would strand holders of addresses.
    stranding: BTreeMap<Name, Waiting>,
    /// Whether every object that was there at the start is an input.
    complete: bool,
    /// Whether what was there at the start has been taken in.
    started: bool,
    /// NICs that wait because their subnet has as many ports as the tunnels can tell apart.
    limited: BTreeMap<Name, BTreeSet<NicKey>>,
    /// Desired rows that cannot be written, with the reason.
    blocked: BTreeMap<RowKey, String>,
    /// NICs that a pod is being told of, until its record is seen.
    told: FxHashSet<NicKey>,
    after_commit: BTreeSet<Output>,
    /// The part of `after_commit` that the transaction under way carries.
    with_commit: BTreeSet<Output>,
    pub(crate) outputs: Outputs,
}

impl Core {
    pub(crate) fn new(config: Config, metrics: Metrics) -> Self {
        let mut engine = topology::engine();
        engine.set::<topology::Egress>(&DEFAULT_VPC.into(), config.egress.clone(), Age(0));
        Self {
            config,
            metrics,
            suspected: Vec::new(),
            defect: None,
            epoch: None,
            deferred: BTreeSet::new(),
            drifted: false,
            drift: Drift::default(),
            settling: Settling::default(),
            southbound: Southbound::default(),
            observed: false,
            claiming: false,
            engine,
            ipam: Ipam::default(),
            desired: Desired::default(),
            bindings: Bindings::default(),
            ownership: northbound::ownership(),
            replica: None,
            connected: false,
            dirty: Dirty::default(),
            in_flight: Dirty::default(),
            refused_rows: BTreeSet::new(),
            compare_all: true,
            suspicious: true,
            brake: Brake::default(),
            empty: BTreeSet::new(),
            listed: BTreeSet::new(),
            urgent: VecDeque::new(),
            waiting: VecDeque::new(),
            known: FxHashMap::default(),
            vpcs: FxHashMap::default(),
            subnets: FxHashMap::default(),
            provider_networks: FxHashMap::default(),
            vlans: FxHashMap::default(),
            pools: FxHashMap::default(),
            pool_subnets: BTreeMap::new(),
            gateway_macs: BTreeMap::new(),
            vips: FxHashMap::default(),
            ips: FxHashMap::default(),
            unreadable: FxHashMap::default(),
            requests: FxHashMap::default(),
            further: FxHashMap::default(),
            namesakes: BTreeSet::new(),
            unallocated: FxHashMap::default(),
            contested: BTreeSet::new(),
            shared: FxHashMap::default(),
            stranding: BTreeMap::new(),
            complete: false,
            started: false,
            limited: BTreeMap::new(),
            blocked: BTreeMap::new(),
            told: FxHashSet::default(),
            after_commit: BTreeSet::new(),
            with_commit: BTreeSet::new(),
            outputs: Outputs::default(),
        }
    }

    /// Takes note of a change; it takes effect at the next [`Core::plan`].
    pub(crate) fn input(&mut self, input: Input) {
        let urgent = match &input {
            Input::Replaced(kind, _) => {
                self.listed.insert(*kind);
                true
            }
            Input::Set(object) => object.key().kind() != Kind::Pod,
            Input::Removed(key) => key.kind() != Kind::Pod,
            Input::Undefined(_) => true,
        };
        if urgent { self.urgent.push_back(input) } else { self.waiting.push_back(input) }
    }

    /// Takes in what the database says.
    pub(crate) fn northbound(&mut self, event: Event) {
        let changes = match event {
            Event::Status(_) => return,
            Event::Disconnected(why) => {
                tracing::warn!(%why, "northbound database");
                self.connected = false;
                return;
            }
            Event::Snapshot(monitored, snapshot) => {
                let mut replica = self.replica.take().unwrap_or_else(|| Replica::new(monitored.clone(), northbound::indexes()));
                let replaced = replica.replace(monitored, snapshot);
                self.replica = Some(replica);
                self.compare_all = true;
                self.suspicious = true;
                replaced
            }
            Event::Updates(updates) => match &mut self.replica {
                Some(replica) => replica.apply(updates),
                None => return,
            },
        };
        self.connected = true;
        self.drifted = true;
        match changes {
            Ok(changes) => {
                let Some(replica) = &self.replica else { return };
                let diff = diff(&self.desired, replica, &self.ownership, &self.config);
                let mut observed = Dirty::default();
                for change in &changes {
                    diff.observe(change, &mut self.bindings, &mut observed);
                }
                self.drift.observe(observed.keys());
                self.dirty.merge(observed);
                if changes.iter().any(|change| matches!(change, RowChange::Deleted(..))) {
                    self.unblock();
                }
            }
            // The driver's view and ours differ: compare everything with what we have; the next snapshot heals the rest.
            Err(error) => {
                tracing::error!(%error, "the northbound replica does not fit the database's update");
                self.compare_all = true;
            }
        }
    }

    /// Takes in what the southbound database says.
    pub(crate) fn southbound(&mut self, event: Event) {
        let was_known = self.southbound.is_known();
        for (port, binding) in self.southbound.take(event) {
            self.engine.set::<PortBinding>(&port, binding, Age(0));
            self.observed = true;
        }
        if !was_known && self.southbound.is_known() {
            // What is shown from before may be no more, and what came meanwhile is not shown yet.
            let known = |name: &Arc<str>| self.engine.desired(&Fact::ActiveGateway(Arc::clone(name))).is_some();
            let shown = self.subnets.iter().filter(|(name, shown)| shown.status.activate_gateway.is_some() || known(name));
            self.after_commit.extend(shown.map(|(name, _)| Output::Subnet(Arc::clone(name))));
        }
    }

    /// The node that all pods of a subnet leave by, if there is one; `None` while that is not to be known.
    pub(crate) fn active_gateway(&self, subnet: &str) -> Option<Option<&str>> {
        if self.config.southbound.is_some() && !self.southbound.is_known() {
            return None;
        }
        match self.engine.desired(&Fact::ActiveGateway(subnet.into())) {
            Some(FactValue::ActiveGateway(node)) => Some(Some(node)),
            _ => Some(None),
        }
    }

    /// What the database is known to hold.
    pub(crate) const fn replica(&self) -> Option<&Replica> {
        self.replica.as_ref()
    }

    /// The gateways' MACs that are to be recorded, by subnet.
    pub(crate) const fn gateway_macs(&self) -> &BTreeMap<Name, MacAddr> {
        &self.gateway_macs
    }

    /// Whether every input has been listed and the database is known: before that nothing is written.
    pub(crate) fn is_ready(&self) -> bool {
        self.connected && self.global().is_some() && KINDS.iter().all(|k| self.listed.contains(k))
    }

    /// The row that belongs to everybody.
    fn global(&self) -> Option<Row<'_>> {
        self.replica.as_ref()?.rows(nb_global::TABLE).min_by_key(|row| row.uuid)
    }

    /// Whether the database does not yet say of itself that it is complete.
    fn is_unmarked(&self) -> bool {
        let shown = self.global().map(|row| row.get(nb_global::EXTERNAL_IDS).and_then(|ids| ids.get(northbound::COMPLETE)));
        shown.is_some_and(|shown| shown != Some("true"))
    }

    /// Whether no object with `key` is known, nor waits to be taken in.
    pub(crate) fn lacks(&self, key: &Key) -> bool {
        let queued = self.urgent.iter().any(|input| match input {
            Input::Set(object) => object.key() == *key,
            Input::Replaced(_, objects) => objects.iter().any(|object| object.key() == *key),
            Input::Removed(_) | Input::Undefined(_) => false,
        });
        !queued && !self.known.get(&key.kind()).is_some_and(|known| known.contains(key))
    }

    /// Whether [`Core::plan`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        let open = !self.brake.holds_commits() && (!self.dirty.is_empty() || !self.after_commit.is_empty() || self.is_unmarked());
        !self.urgent.is_empty()
            || !self.waiting.is_empty()
            || self.observed
            || self.compare_all
            || !self.deferred.is_empty()
            || self.is_new()
            || open
    }

    /// Begins to decide and to write, as the leader of a term, or goes on so in a later one.
    pub(crate) fn lead(&mut self, epoch: u64) {
        // What others have written meanwhile was followed, and not compared.
        self.compare_all |= self.epoch.is_none();
        self.epoch = Some(epoch);
    }

    /// The number of the last term in which somebody wrote to the database; `None` while the database is not known.
    pub(crate) fn shown_epoch(&self) -> Option<u64> {
        let shown = self.global()?.get(nb_global::EXTERNAL_IDS).and_then(|ids| ids.get(EPOCH)?.parse().ok());
        Some(shown.unwrap_or_default())
    }

    /// Whether the database does not know of this term yet.
    fn is_new(&self) -> bool {
        self.shown_epoch() != self.epoch
    }

    /// Whether [`Core::follow`] has something to do.
    pub(crate) fn has_news(&self) -> bool {
        !self.urgent.is_empty() || !self.waiting.is_empty() || self.drifted || self.observed
    }

    /// Keeps up with what another controller, which leads, makes of the cluster.
    pub(crate) fn follow(&mut self) {
        self.settle();
        self.drifted = false;
        self.dirty = Dirty::default();
        self.drift = Drift::default();
    }

    /// Takes a batch of inputs through rules and allocator, and compares the outcome with the database.
    pub(crate) fn plan(&mut self, now: Instant) -> Batch {
        // Nothing is decided before whoever led until now can write no more, and all that they have written is known.
        self.claiming = self.is_new();
        if self.claiming {
            return Batch::new(self.guard(Vec::new(), false));
        }
        self.settle();
        self.drifted = false;
        self.compare(now)
    }

    /// When something is to be done although nothing happens.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        self.drift.wakes_at().into_iter().chain(self.settling.wakes_at()).min()
    }

    /// Time has passed.
    pub(crate) fn wake(&mut self, now: Instant) {
        if self.drift.wakes_at().is_some_and(|at| at <= now) {
            self.dirty.merge(self.drift.wake(now));
        }
        for holder in self.settling.wake(now) {
            let known = <Instance as engine::Collection<World>>::table(self.engine.world()).get(&holder).cloned();
            let settled = |migration| topology::Migration { settling: false, ..migration };
            let settled = known.map(|known| Instance { migration: known.migration.map(settled), ..known });
            self.engine.set::<Instance>(&holder, settled, Age(0));
            self.observed = true;
        }
    }

    fn settle(&mut self) {
        if !self.started {
            // What others refer to first, so that less runs twice.
            self.urgent.make_contiguous().sort_by_key(|input| {
                if let Input::Replaced(kind, _) = input { KINDS.iter().position(|k| k == kind) } else { Some(KINDS.len()) }
            });
        }
        // The first batch takes all: what is wanted is known only when everything has been seen.
        let mut room = if self.compare_all { usize::MAX } else { self.config.batch };
        while room > 0 {
            let Some(input) = self.urgent.pop_front().or_else(|| self.waiting.pop_front()) else { break };
            room -= 1;
            self.take(input);
        }
        for (key, object) in self.brake.released(&self.config) {
            tracing::warn!(?key, "taken in, as confirmed");
            match object {
                Some(object) => self.set(object),
                None => self.remove(&key),
            }
            self.tell_of_brake();
        }
        self.complete = true;
        self.observed = false;
        self.run_rules();
        self.run_rules();
        self.started = true;
    }

    fn run_rules(&mut self) {
        let settled = self.engine.settle();
        self.metrics.settled(&settled.counts, settled.reads);
        self.facts(settled.changes);
    }

    /// Begins an audit: to be settled elsewhere, and given to [`Core::audited`].
    pub(crate) fn audit(&self) -> Audit {
        topology::from_scratch(&self.engine)
    }

    /// Compares with what was computed from scratch. What differs in the same way twice in a row is a defect of a rule, and told.
    pub(crate) fn audited(&mut self, audit: &Audit) {
        let mut differences = self.engine.differences(audit);
        // While very much changes, little can be said.
        differences.truncate(1000);
        let found: Vec<_> = differences.iter().filter(|difference| self.suspected.contains(difference)).cloned().collect();
        for Changed { fact, before: now, after: anew } in &found {
            tracing::error!(?fact, ?now, ?anew, "a fact differs from what is computed from scratch: this is a defect, please report it");
        }
        self.metrics.with(|figures| {
            figures.audits += 1;
            figures.audit_differences += found.len() as u64;
        });
        if let Some(Changed { fact, before: now, after: anew }) = found.first() {
            let count = found.len();
            self.defect =
                Some(format!("{count} facts differ from what is computed from scratch, such as {fact:?}: {now:?}, from scratch {anew:?}"));
            self.outputs.add(Output::Event(Subject::Audit));
        }
        self.suspected = differences;
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Set(object) => {
                self.believe(&object.key());
                self.set(*object);
            }
            Input::Removed(key) => {
                self.believe(&key);
                self.remove(&key);
            }
            Input::Replaced(kind, objects) => {
                let mut gone: FxHashSet<Key> = self.known.get(&kind).cloned().unwrap_or_default();
                let known = gone.len();
                let carries_rows = matches!(kind, Kind::Vpc | Kind::Subnet | Kind::Namespace | Kind::Pod);
                if carries_rows && objects.is_empty() && !self.started {
                    self.empty.insert(kind);
                }
                for (number, object) in objects.into_iter().enumerate() {
                    gone.remove(&object.key());
                    self.believe(&object.key());
                    self.set(object);
                    if !self.started && number % SLICE == SLICE - 1 {
                        self.run_rules();
                    }
                }
                let doubtful = Brake::doubts(&self.config, gone.len(), known);
                if doubtful {
                    tracing::error!(%kind, missing = gone.len(), known, "a list lacks too many objects to be believed: they stay until that is confirmed");
                }
                for key in gone {
                    if doubtful && !self.brake.is_going(&key) {
                        self.withhold(key, None);
                    } else {
                        self.believe(&key);
                        self.remove(&key);
                    }
                }
            }
            Input::Undefined(input) => match *input {
                // Once its end is agreed to, the rest of its life needs no further word.
                Input::Set(object) if self.brake.is_going(&object.key()) => self.set(*object),
                Input::Removed(key) if self.brake.is_going(&key) => {
                    self.brake.gone(&key);
                    self.remove(&key);
                }
                Input::Set(object) => self.withhold(object.key(), Some(*object)),
                Input::Removed(key) => self.withhold(key, None),
                listed => self.take(listed),
            },
        }
    }

    /// What is said of an object is held until a person confirms it.
    fn withhold(&mut self, key: Key, object: Option<Object>) {
        self.brake.withhold(key, object);
        self.tell_of_brake();
    }

    /// Something is said of an object that is to be believed, whatever was held of it.
    fn believe(&mut self, key: &Key) {
        if self.brake.believe(key) {
            self.tell_of_brake();
        }
    }

    fn tell_of_brake(&mut self) {
        self.outputs.add(Output::Event(Subject::Network));
        self.outputs.add(Output::Vpc(DEFAULT_VPC.into()));
    }

    /// Whether a removal waits for a person.
    pub(crate) fn holds(&self) -> bool {
        self.brake.holds()
    }

    /// What is held, and how to go on; `None` when nothing is.
    pub(crate) fn held(&self) -> Option<String> {
        self.brake.describe()
    }

    fn set(&mut self, object: Object) {
        let key = object.key();
        self.empty.remove(&key.kind());
        self.known.entry(key.kind()).or_default().insert(key);
        match object {
            Object::Vpc(name, vpc, age, shown) => {
                self.engine.set::<Vpc>(&name, Some(vpc), age);
                self.vpcs.insert(Arc::clone(&name), *shown);
                self.outputs.add(Output::Vpc(name));
            }
            Object::Subnet(name, subnet, age, shown) => {
                let subnet = self.with_gateway_mac(&name, *subnet);
                let subnet = self.unless_stranding(&name, subnet, shown.in_force.as_ref());
                self.engine.set::<Subnet>(&name, Some(subnet), age);
                self.subnets.insert(Arc::clone(&name), *shown);
                self.outputs.add(Output::Subnet(name));
            }
            Object::Namespace(name, namespace, age, confirmed) => {
                if *name == *SYSTEM_NAMESPACE {
                    self.brake.confirm(confirmed);
                }
                self.engine.set::<Namespace>(&name, Some(namespace), age);
            }
            Object::Node(name, node, reports, age) => {
                self.engine.set::<Node>(&name, Some(node), age);
                self.engine.set::<NodeReports>(&name, Some(*reports), age);
            }
            Object::ProviderNetwork(name, network, age, shown) => {
                self.engine.set::<ProviderNetwork>(&name, Some(*network), age);
                self.provider_networks.insert(Arc::clone(&name), *shown);
                self.outputs.add(Output::ProviderNetwork(name));
            }
            Object::Vlan(name, vlan, age, shown) => {
                self.engine.set::<Vlan>(&name, Some(vlan), age);
                self.vlans.insert(Arc::clone(&name), *shown);
                self.outputs.add(Output::Vlan(name));
            }
            Object::Pod(key, pod, networks, age) => {
                self.engine.set::<Pod>(&key, pod, age);
                self.engine.set::<Networks>(&key, networks.map(|networks| *networks), age);
            }
            Object::Definition(key, definition, age) => self.engine.set::<NetworkDefinition>(&key, Some(definition), age),
            Object::IpPool(name, pool, age, shown) => {
                self.engine.set::<Pool>(&name, Some(pool), age);
                self.pools.insert(Arc::clone(&name), *shown);
                self.after_commit.insert(Output::IpPool(name));
            }
            Object::Vip(name, vip, age, shown) => {
                self.engine.set::<Vip>(&name, Some(vip), age);
                self.vips.insert(Arc::clone(&name), *shown);
                self.after_commit.insert(Output::Vip(name));
            }
            Object::Replicas(key, replicas, age) => self.engine.set::<Replicas>(&key, replicas, age),
            Object::Instance(key, replicas, age, shown) => {
                self.engine.set::<Replicas>(&key, replicas, age);
                self.settling.set(&shown);
                self.engine.set::<Instance>(&shown.holder, Some(shown.instance), age);
            }
            Object::Ip(name, ip, age, shown) => {
                let ip = match ip {
                    Ok(ip) => {
                        self.unreadable.remove(&name);
                        ip
                    }
                    Err(problem) => {
                        self.unreadable.insert(Arc::clone(&name), problem);
                        self.outputs.add(Output::Event(Subject::Ip(Arc::clone(&name))));
                        None
                    }
                };
                self.engine.set::<Ip>(&name, ip, age);
                self.ips.insert(Arc::clone(&name), shown);
                self.after_commit.insert(Output::Ip(name));
            }
        }
    }

    /// The subnet with the MAC that its gateway has had under an earlier controller: those who know it keep it.
    fn with_gateway_mac(&mut self, name: &Name, mut subnet: Subnet) -> Subnet {
        let Ok(spec) = &mut subnet.spec else { return subnet };
        if spec.gateway_mac.is_some() {
            self.gateway_macs.remove(name);
            return subnet;
        }
        if !self.started
            && let Some(mac) = self.foreign_gateway_mac(&spec.vpc, name)
        {
            tracing::info!(subnet = %name, %mac, "gateway taken over from an earlier controller");
            self.gateway_macs.insert(Arc::clone(name), mac);
        }
        spec.gateway_mac = self.gateway_macs.get(name).copied();
        subnet
    }

    /// The MAC of the router port by which `vpc` serves `subnet`, if an earlier controller made it.
    fn foreign_gateway_mac(&self, vpc: &str, subnet: &str) -> Option<MacAddr> {
        let replica = self.replica.as_ref()?;
        let (name, own) = (format!("{vpc}-{subnet}").into_datum(), northbound::router_port(vpc, subnet).uuid(&nb::SCHEMA));
        let key = [name];
        let mut rows = replica.find(logical_router_port::TABLE, &[logical_router_port::NAME.index], &key);
        let ours = |row: &Row<'_>| row.get(logical_router_port::EXTERNAL_IDS).and_then(|ids| ids.get("vendor")) == Some(api::VENDOR);
        rows.find(|row| row.uuid != own && ours(row))?.text(logical_router_port::MAC).parse().ok()
    }

    /// The subnet as it takes effect: a change that would strand who holds an address waits until they are gone.
    fn unless_stranding(&mut self, name: &Name, wanted: Subnet, shown: Option<&stranding::Network>) -> Subnet {
        let known = <Subnet as engine::Collection<World>>::table(self.engine.world()).get(name);
        let known = known.and_then(|subnet| subnet.spec.as_ref().ok()).map(|spec| (spec.cidrs, spec.gateways.clone()));
        let now = known.or_else(|| shown.cloned());
        let waiting = now.as_ref().and_then(|now| stranding::waits(&self.ipam, self.started, name, now, &wanted));
        match (waiting, now) {
            (Some(waiting), Some(now)) => {
                self.after_commit.insert(Output::Event(Subject::Subnet(Arc::clone(name))));
                self.stranding.insert(Arc::clone(name), waiting);
                stranding::with(wanted, now)
            }
            _ => {
                self.stranding.remove(name);
                wanted
            }
        }
    }

    /// Changes that wait are looked at again when something was released.
    fn reconsider(&mut self, touched: &BTreeSet<Name>) {
        for (name, waiting) in self.stranding.iter().filter(|(name, _)| touched.contains(*name) || !self.started) {
            let age = Age(waiting.wanted.created);
            if let Some(shown) = self.subnets.get(name) {
                let subnet = Object::Subnet(Arc::clone(name), Box::new(waiting.wanted.clone()), age, Box::new(shown.clone()));
                self.urgent.push_back(Input::Set(Box::new(subnet)));
            }
        }
    }

    /// Why a change of a subnet is not in force, and what is.
    pub(crate) fn stranding(&self, name: &str) -> Option<&Waiting> {
        self.stranding.get(name)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(known) = self.known.get_mut(&key.kind()) {
            known.remove(key);
        }
        match key {
            Key::Vpc(name) => {
                self.engine.set::<Vpc>(name, None, Age(0));
                self.vpcs.remove(name);
            }
            Key::Subnet(name) => {
                self.stranding.remove(name);
                self.engine.set::<Subnet>(name, None, Age(0));
                self.subnets.remove(name);
            }
            Key::Namespace(name) => self.engine.set::<Namespace>(name, None, Age(0)),
            Key::Node(name) => {
                self.engine.set::<Node>(name, None, Age(0));
                self.engine.set::<NodeReports>(name, None, Age(0));
            }
            Key::ProviderNetwork(name) => {
                self.engine.set::<ProviderNetwork>(name, None, Age(0));
                self.provider_networks.remove(name);
            }
            Key::Vlan(name) => {
                self.engine.set::<Vlan>(name, None, Age(0));
                self.vlans.remove(name);
            }
            Key::Pod(key) => {
                self.engine.set::<Pod>(key, None, Age(0));
                self.engine.set::<Networks>(key, None, Age(0));
            }
            Key::Definition(key) => self.engine.set::<NetworkDefinition>(key, None, Age(0)),
            Key::IpPool(name) => {
                self.engine.set::<Pool>(name, None, Age(0));
                self.pools.remove(name);
            }
            Key::Vip(name) => {
                self.engine.set::<Vip>(name, None, Age(0));
                self.vips.remove(name);
            }
            Key::Replicas(key) => {
                self.engine.set::<Replicas>(key, None, Age(0));
                if key.kind == ReplicasKind::Instance {
                    let holder = PodKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
                    self.settling.remove(&holder);
                    self.engine.set::<Instance>(&holder, None, Age(0));
                }
            }
            Key::Ip(name) => {
                self.engine.set::<Ip>(name, None, Age(0));
                self.ips.remove(name);
                self.unreadable.remove(name);
                // A live pod's is made again.
                self.after_commit.insert(Output::Ip(Arc::clone(name)));
            }
        }
    }

    /// Carries out what the rules said: pools before releases, releases before records, records before new requests.
    fn facts(&mut self, changes: Vec<Changed<Fact>>) {
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        let (mut held, mut fresh) = (Vec::new(), Vec::new());
        let mut changed_refused = BTreeSet::new();
        for change in &changes {
            if let (Fact::Pool(name), Some(FactValue::Pool { vpc, cidrs, excluded })) = (&change.fact, &change.after) {
                self.ipam.set_subnet(name, ipam::SubnetSpec::new(Arc::clone(vpc), *cidrs, excluded.clone()));
                touched.insert(Arc::clone(name));
            }
        }
        for change in &changes {
            let Fact::IpPool(name) = &change.fact else { continue };
            if let Some(subnet) = self.pool_subnets.remove(name) {
                self.ipam.remove_pool(&subnet, name);
                touched.insert(subnet);
            }
            if let Some(FactValue::IpPool { subnet, ranges }) = &change.after {
                self.ipam.set_pool(subnet, name, PoolSpec { ranges: ranges.clone(), exclusive: true });
                self.pool_subnets.insert(Arc::clone(name), Arc::clone(subnet));
                touched.insert(Arc::clone(subnet));
            }
        }
        for change in changes {
            match (change.fact, change.after) {
                (Fact::Northbound(fact), after) => {
                    if let ovsdb_types::Fact::Row(row) = &fact
                        && (self.refused_rows.contains(row) || self.blocked.contains_key(row))
                    {
                        changed_refused.insert(row.clone());
                    }
                    let value = match &after {
                        Some(FactValue::Northbound(value)) => Some(value),
                        _ => None,
                    };
                    let change = self.desired.apply(&fact, value);
                    if !self.compare_all {
                        self.drift.touched(change.row());
                        self.dirty.change(change);
                    }
                }
                (Fact::Pool(name), None) => {
                    self.ipam.remove_subnet(&name);
                    touched.insert(name);
                }
                // What a pod was told stays, whatever decides by now about new ones: its record is on the way.
                (Fact::Request(key), Some(FactValue::Request(request)))
                    if !request.held
                        && self.told.contains(&key)
                        && self.requests.get(&key).is_some_and(|old| old.identity == request.identity) => {}
                (Fact::Request(key), Some(FactValue::Request(request))) => {
                    if request.held {
                        self.told.remove(&key);
                    }
                    if self.requests.get(&key).is_some_and(|old| old.identity != request.identity) {
                        self.release(&key, &mut touched);
                    }
                    self.requests.insert(key.clone(), request.clone());
                    if let Some(other) = self.namesake(&key) {
                        self.namesakes.insert(key.clone());
                        self.refused(key, format!("its port would have the name of that of {}", described(&other)));
                        continue;
                    }
                    if is_further(&key) {
                        self.further.insert(key.port(), key.clone());
                    }
                    if request.held { held.push((key, request)) } else { fresh.push((key, request)) }
                }
                (Fact::Request(key), _) => {
                    self.requests.remove(&key);
                    self.release(&key, &mut touched);
                    self.no_longer_awaited(&key);
                }
                (Fact::Record(key, _), Some(_)) => {
                    self.after_commit.insert(Output::Pod(key));
                }
                (Fact::Node(name), Some(_)) => {
                    self.after_commit.insert(Output::Node(name));
                }
                (Fact::ProviderNetwork(name), Some(_)) => {
                    self.after_commit.insert(Output::Event(Subject::ProviderNetwork(Arc::clone(&name))));
                    self.after_commit.insert(Output::ProviderNetwork(name));
                }
                (Fact::Vlan(name), Some(_)) => {
                    self.after_commit.insert(Output::Event(Subject::Vlan(Arc::clone(&name))));
                    self.after_commit.insert(Output::Vlan(name));
                }
                (Fact::GatewayProblem(name) | Fact::ExitProblem(name), Some(_)) => self.outputs.add(Output::Event(Subject::Subnet(name))),
                (Fact::ActiveGateway(name), _) => {
                    self.after_commit.insert(Output::Subnet(name));
                }
                (Fact::NodeProblem(name), Some(_)) => self.outputs.add(Output::Event(Subject::Node(name))),
                (Fact::Ip(key), _) => {
                    self.after_commit.insert(Output::Ip(key.port()));
                }
                (Fact::PoolState(name), Some(_)) => {
                    self.outputs.add(Output::Event(Subject::IpPool(Arc::clone(&name))));
                    self.after_commit.insert(Output::IpPool(name));
                }
                (Fact::VipState(name), Some(_)) => {
                    self.outputs.add(Output::Event(Subject::Vip(Arc::clone(&name))));
                    self.after_commit.insert(Output::Vip(name));
                }
                (Fact::IpProblem(name), Some(_)) => self.outputs.add(Output::Event(Subject::Ip(name))),
                (Fact::PodProblem(key) | Fact::NetworksProblem(key) | Fact::PortProblem(key, _), Some(_)) => {
                    self.outputs.add(Output::Event(Subject::Pod(key)));
                }
                (Fact::Vpc(name), Some(_)) => {
                    self.after_commit.insert(Output::Event(Subject::Vpc(Arc::clone(&name))));
                    self.after_commit.insert(Output::Vpc(name));
                }
                (Fact::Subnet(name), Some(_)) => {
                    self.after_commit.insert(Output::Event(Subject::Subnet(Arc::clone(&name))));
                    self.after_commit.insert(Output::Subnet(name));
                }
                _ => {}
            }
        }
        self.try_again(&changed_refused);
        self.admit_namesakes(&mut held, &mut fresh);
        self.adopt(held, &mut touched);
        self.adopt_contested(&mut touched);
        // Nobody is served before all who hold something are known.
        if self.epoch.is_some() && self.complete {
            // First those who have waited for it, or for a leader.
            let deferred = std::mem::take(&mut self.deferred);
            let open = deferred.into_iter().filter_map(|key| Some((key.clone(), self.requests.get(&key)?.clone())));
            let mut open: Vec<_> = open.filter(|(key, request)| !request.held && self.ipam.holding(&key.port()).is_none()).collect();
            open.sort_by_key(|(_, request)| request.created);
            // What is chosen for a router is no pod's that comes with it.
            let (routers, others): (Vec<_>, Vec<_>) = open.into_iter().chain(fresh).partition(|(key, _)| key.is_interconnection());
            for (key, request) in routers.into_iter().chain(others) {
                self.allocate(key, &request, &mut touched);
            }
            for subnet in touched.clone() {
                self.admit_limited(&subnet, &mut touched);
            }
        } else {
            self.deferred.extend(fresh.into_iter().map(|(key, _)| key));
        }
        // A MAC that was released may be what somebody in another subnet waits for.
        touched.extend(self.ipam.ready());
        self.reconsider(&touched);
        for subnet in touched {
            let served = if self.epoch.is_some() && self.complete { self.ipam.retry(&subnet) } else { Vec::new() };
            for (owner, holding) in served {
                let key = self.nic(&owner);
                if let Some(request) = self.requests.get(&key).cloned() {
                    self.allocated(key, &request, holding);
                }
            }
            let usage = self.subnets.contains_key(&subnet).then(|| Usage { holders: self.ipam.holders(&subnet).len() });
            self.engine.set::<Usage>(&subnet, usage, Age(0));
            let pools = self.pool_subnets.iter().filter(|(_, of)| **of == subnet);
            self.after_commit.extend(pools.map(|(pool, _)| Output::IpPool(Arc::clone(pool))));
            self.after_commit.insert(Output::Subnet(subnet));
        }
    }

    /// Serves pods that waited for room in `subnet`, as many as there is room for.
    fn admit_limited(&mut self, subnet: &Name, touched: &mut BTreeSet<Name>) {
        let Some(limit) = self.config.ports_per_subnet else { return };
        while self.ipam.holders(subnet).len() < limit {
            let Some(key) = self.limited.get_mut(subnet).and_then(BTreeSet::pop_first) else { return };
            let still = self.requests.get(&key).filter(|r| r.subnet == *subnet).cloned();
            if let Some(request) = still.filter(|_| self.ipam.holding(&key.port()).is_none()) {
                self.allocate(key, &request, touched);
            }
        }
    }

    /// The NIC whose port has this name.
    fn nic(&self, port: &str) -> NicKey {
        self.further.get(port).cloned().unwrap_or_else(|| NicKey::primary(PodKey::of_port(port)))
    }

    /// Another NIC that asks for addresses under the name of this one's port.
    fn namesake(&self, key: &NicKey) -> Option<NicKey> {
        if key.provider.is_none() && self.further.is_empty() {
            return None;
        }
        let other = self.nic(&key.port());
        (other != *key && self.requests.contains_key(&other) && !self.namesakes.contains(&other)).then_some(other)
    }

    /// Those whose name is free by now ask anew.
    fn admit_namesakes(&mut self, held: &mut Vec<(NicKey, NicRequest)>, fresh: &mut Vec<(NicKey, NicRequest)>) {
        for key in self.namesakes.clone() {
            if self.namesake(&key).is_some() {
                continue;
            }
            self.namesakes.remove(&key);
            let Some(request) = self.requests.get(&key).cloned() else { continue };
            if is_further(&key) {
                self.further.insert(key.port(), key.clone());
            }
            if request.held { held.push((key, request)) } else { fresh.push((key, request)) }
        }
    }

    /// A NIC is not to be had for now: its pods are told of the others.
    fn no_longer_awaited(&mut self, key: &NicKey) {
        self.after_commit.extend(pods_on(self.engine.world(), &key.holder).into_iter().map(Output::Pod));
    }

    fn release(&mut self, key: &NicKey, touched: &mut BTreeSet<Name>) {
        self.told.remove(key);
        self.unallocated.remove(key);
        if self.namesakes.remove(key) {
            return;
        }
        if is_further(key) {
            self.further.remove(&key.port());
        }
        self.contested.remove(key);
        self.shared.remove(key);
        if let Some(holding) = self.ipam.release(&key.port()) {
            touched.insert(holding.subnet);
        }
        self.engine.set::<Allocation>(key, None, Age(0));
    }

    /// Takes in what is recorded. Of several that record one address the allocator chooses; the others are told, and tried
    /// again when something is released.
    fn adopt(&mut self, held: Vec<(NicKey, NicRequest)>, touched: &mut BTreeSet<Name>) {
        let mut records = Vec::with_capacity(held.len());
        for (key, request) in &held {
            let Some(mac) = request.mac else { continue };
            let holding = Holding { subnet: Arc::clone(&request.subnet), addresses: request.addresses.clone(), mac };
            // Who is older counts among what is found at the start. Later an address is never taken from whoever runs.
            let age = if self.started { i64::MAX } else { request.created };
            records.push((key.port(), holding, Claim { running: request.running, age }));
            touched.insert(Arc::clone(&request.subnet));
        }
        let mut lost = Vec::new();
        for (owner, adopted) in self.ipam.adopt_all(records) {
            let key = self.nic(&owner);
            match adopted {
                Ok(Adopted { displaced, mac_shared_with }) => {
                    lost.extend(displaced.into_iter().map(|(loser, held)| (loser, held, Arc::clone(&owner))));
                    match mac_shared_with {
                        Some(other) => self.share(key, other),
                        None => drop(self.shared.remove(&key)),
                    }
                }
                Err(error) => {
                    self.contested.insert(key.clone());
                    self.refused(key, error.to_string());
                }
            }
        }
        for (loser, held, winner) in lost {
            let key = self.nic(&loser);
            let why = format!("subnet {}: {} is in use by {winner}, which has the better claim", held.subnet, join(&held.addresses));
            touched.insert(held.subnet);
            self.contested.insert(key.clone());
            self.refused(key, why);
        }
        for (key, request) in held {
            if let Some(holding) = self.ipam.holding(&key.port()) {
                self.contested.remove(&key);
                self.allocated(key, &request, holding);
            }
        }
    }

    /// Two that record one MAC both keep it, and both are told.
    fn share(&mut self, key: NicKey, other: Name) {
        let others = [(key.clone(), other.clone()), (self.nic(&other), key.port())];
        for (key, with) in others {
            for pod in pods_on(self.engine.world(), &key.holder) {
                self.outputs.add(Output::Event(Subject::Pod(pod)));
            }
            self.shared.insert(key, with);
        }
    }

    /// Records that lost an address to others are taken in when it is free again.
    fn adopt_contested(&mut self, touched: &mut BTreeSet<Name>) {
        let open = self.contested.iter().filter_map(|key| Some((key.clone(), self.requests.get(key)?.clone())));
        let held: Vec<_> = open.filter(|(_, request)| request.held && touched.contains(&request.subnet)).collect();
        if !held.is_empty() {
            self.adopt(held, touched);
        }
    }

    fn allocate(&mut self, key: NicKey, request: &NicRequest, touched: &mut BTreeSet<Name>) {
        if let Some(limit) = self.config.ports_per_subnet
            && self.ipam.holding(&key.port()).is_none()
            && self.ipam.holders(&request.subnet).len() >= limit
        {
            let why = format!("subnet {} has {limit} ports, and VXLAN tunnels carry no more per logical switch", request.subnet);
            self.limited.entry(Arc::clone(&request.subnet)).or_default().insert(key.clone());
            return self.refused(key, why);
        }
        if let Some(old) = self.ipam.holding(&key.port()) {
            touched.insert(Arc::clone(&old.subnet));
        }
        touched.insert(Arc::clone(&request.subnet));
        let Source { pools, candidates, family } = request.source.as_deref().cloned().unwrap_or_default();
        let families = match family {
            None => Families::All,
            Some(IpFamily::V4) => Families::V4,
            Some(IpFamily::V6) => Families::V6,
        };
        let (addresses, mac) = (request.addresses.clone(), request.mac);
        let wanted = Request { subnet: Arc::clone(&request.subnet), addresses, candidates, pools, families, mac };
        match self.ipam.allocate(&key.port(), &wanted) {
            Ok(holding) => self.allocated(key, request, holding),
            Err(error) => self.refused(key, error.to_string()),
        }
    }

    fn allocated(&mut self, key: NicKey, request: &NicRequest, holding: Holding) {
        self.unallocated.remove(&key);
        self.after_commit.extend(key.vip().map(Output::Vip));
        let Holding { subnet, addresses, mac } = holding;
        self.engine.set::<Allocation>(&key, Some(Allocation { identity: request.identity.clone(), subnet, addresses, mac }), Age(0));
    }

    fn refused(&mut self, key: NicKey, why: String) {
        self.engine.set::<Allocation>(&key, None, Age(0));
        for pod in pods_on(self.engine.world(), &key.holder) {
            self.outputs.add(Output::Event(Subject::Pod(pod)));
        }
        self.no_longer_awaited(&key);
        if let Some(vip) = key.vip() {
            self.outputs.add(Output::Event(Subject::Vip(Arc::clone(&vip))));
            self.after_commit.insert(Output::Vip(vip));
        }
        if let Some(node) = key.node() {
            self.outputs.add(Output::Event(Subject::Node(node.into())));
        }
        if let Some(subnet) = self.requests.get(&key).filter(|_| key.is_interconnection()).map(|request| Arc::clone(&request.subnet)) {
            self.outputs.add(Output::Event(Subject::Subnet(Arc::clone(&subnet))));
            self.after_commit.insert(Output::Subnet(subnet));
        }
        if self.ips.contains_key(&key.port()) {
            self.outputs.add(Output::Event(Subject::Ip(key.port())));
        }
        self.unallocated.insert(key, why);
    }

    /// The pod, if it has a network of its own.
    fn pod(&self, key: &PodKey) -> Option<&Pod> {
        <Pod as engine::Collection<World>>::table(self.engine.world()).get(key)
    }

    /// What the `IP` object of a NIC must show, if anybody holds the NIC, and what the API server shows.
    pub(crate) fn ip(&self, name: &str) -> (Option<(PodKey, &IpHolder)>, Option<&ShownIp>) {
        let nic = self.nic(name);
        let wanted = match self.engine.desired(&Fact::Ip(nic.clone())) {
            Some(FactValue::Ip(holder)) => Some((nic.holder, holder)),
            _ => None,
        };
        (wanted, self.ips.get(name))
    }

    fn compare(&mut self, now: Instant) -> Batch {
        let mut batch = Batch::new(Vec::new());
        let Some(replica) = &self.replica else { return batch };
        if self.compare_all {
            self.refused_rows.clear();
        }
        let diff = Diff { skip: &self.refused_rows, ..diff(&self.desired, replica, &self.ownership, &self.config) };
        if self.compare_all {
            self.dirty.merge(diff.everything());
        } else {
            self.drift.hold_back(&mut self.dirty, now);
        }
        let Difference { operations, inserted, modified, removed, written, blocked, kept } = diff.compute(&self.dirty, &mut self.bindings);
        let tables = self.ownership.iter().filter(|own| !own.singleton);
        let ours: usize = tables.map(|own| replica.len(own.table)).sum();
        if self.compare_all {
            tracing::info!(
                wanted = self.desired.len(),
                observed = ours,
                inserted,
                modified,
                deleted = removed.len(),
                kept,
                "compared with the northbound database"
            );
            self.blocked.clear();
        }
        for (row, why) in blocked {
            tracing::warn!(?row, %why, "row cannot be written");
            self.block(row, why);
        }
        if self.suspicious && !self.config.confirm_removal {
            // Addresses that are kept for who is not there show in no row.
            let (forgotten, kept_ips) = self.forgotten();
            let removals = [Removal::of_rows(&removed, ours), Removal::of_addresses(&forgotten, kept_ips)];
            let doubtful = removals
                .into_iter()
                .find(|removal| removal.is_doubtful(&self.config, &self.empty) && !self.brake.is_confirmed(Some(removal)));
            if let Some(removal) = doubtful {
                let Removal { what, removed, of, .. } = removal;
                if self.brake.hold(Some(removal)) {
                    tracing::error!(what, removed, of, "commit held until its removals are confirmed");
                    self.tell_of_brake();
                }
                // Dirty stays: the next plan computes anew, and goes ahead once the objects are back.
                self.compare_all = false;
                return batch;
            }
        }
        if self.brake.hold(None) {
            self.tell_of_brake();
        }
        let written = if self.compare_all { Vec::new() } else { written };
        for row in self.drift.written(&written, now) {
            tracing::warn!(?row, pause = ?self.drift.pause(&row), "changed by others again and again: put right less often from now on");
            self.outputs.add(Output::Event(Subject::Row(row)));
        }
        self.compare_all = false;
        self.in_flight = std::mem::take(&mut self.dirty);
        self.with_commit.append(&mut self.after_commit);
        // What this transaction closes is all that was open, so with it the database is complete.
        if !operations.is_empty() || self.is_unmarked() {
            batch = Batch { operations: self.guard(operations, true), inserted, modified, removed, kept };
        }
        batch
    }

    /// The `IP` objects that the controller keeps and is to delete after this commit, and how many it keeps.
    fn forgotten(&self) -> (Vec<Name>, usize) {
        let kept = self.ips.iter().filter(|(_, shown)| shown.kept).map(|(name, _)| name);
        let gone = |name: &&Name| self.engine.desired(&Fact::Ip(self.nic(name))).is_none();
        (kept.clone().filter(gone).cloned().collect(), kept.count())
    }

    /// Puts the epoch guard in front: a deposed leader's transaction fails as a whole. Marks the database as complete if it is
    /// so with these operations.
    fn guard(&self, mut operations: Vec<Operation>, completes: bool) -> Vec<Operation> {
        let (Some(row), Some(epoch)) = (self.global(), self.epoch) else { return operations };
        let mine = epoch.to_string();
        let shown = |key: &str| row.get(nb_global::EXTERNAL_IDS).and_then(|ids| ids.get(key)).map(str::to_owned);
        let pair = |key: &str, value: &str| Datum::map(vec![(key.into(), value.into())]);
        let mutation = |mutator, value| Mutation { column: "external_ids", mutator, value };
        let mut guarded = Vec::with_capacity(operations.len() + 2);
        let mut mutations = Vec::new();
        let mut replace = |key: &str, older: Option<String>, value: &str| {
            mutations.extend(older.map(|older| mutation(Mutator::Delete, pair(key, &older))));
            mutations.push(mutation(Mutator::Insert, pair(key, value)));
        };
        match shown(EPOCH) {
            Some(shown) if shown == mine => guarded.push(wait_for(pair(EPOCH, &mine))),
            Some(shown) if shown.parse::<u64>().is_ok_and(|theirs| theirs > epoch) => guarded.push(wait_for(pair(EPOCH, &mine))),
            older => {
                guarded.extend(older.as_deref().map(|older| wait_for(pair(EPOCH, older))));
                replace(EPOCH, older, &mine);
            }
        }
        if completes && self.is_unmarked() {
            replace(northbound::COMPLETE, shown(northbound::COMPLETE), "true");
        }
        if !mutations.is_empty() {
            guarded.push(Operation::Mutate { table: "NB_Global", condition: Condition::row(row.uuid), mutations });
        }
        guarded.append(&mut operations);
        guarded
    }

    /// The planned transaction is in the database: what waited for it may be written.
    pub(crate) fn committed(&mut self) {
        if std::mem::take(&mut self.claiming) {
            return;
        }
        self.in_flight = Dirty::default();
        // While a removal is held nothing was committed, and what follows is looked at as closely.
        self.suspicious &= self.brake.holds_commits();
        for output in std::mem::take(&mut self.with_commit) {
            self.outputs.add(output);
        }
    }

    /// The planned transaction failed: what it was to close is still open. A row that the database refused is left out of
    /// the next one, so that one bad row holds up nothing else.
    pub(crate) fn failed(&mut self, batch: &Batch, error: &TransactError) {
        self.dirty.merge(std::mem::take(&mut self.in_flight));
        self.after_commit.append(&mut self.with_commit);
        let TransactError::Operation { index, error } = error else { return };
        let mut refused = Vec::new();
        for (at, operation) in batch.operations.iter().enumerate() {
            let Operation::Insert { uuid: Some(uuid), .. } = operation else { continue };
            // Failures of the commit name the rows: ovsdb-server(7).
            if (at == *index || error.details.contains(&uuid.to_string()))
                && let Some(row) = self.bindings.owner(*uuid)
            {
                self.refused_rows.insert(row.clone());
                refused.push((row.clone(), error.to_string()));
            }
        }
        for (row, why) in refused {
            self.block(row, why);
        }
    }

    /// A row went from the database, perhaps the one that stood in the way of ours: those are tried again.
    fn unblock(&mut self) {
        let rows: BTreeSet<RowKey> = self.blocked.keys().chain(&self.refused_rows).cloned().collect();
        self.try_again(&rows);
    }

    /// Rows that were refused are compared anew, with the sets that refer to them, and what waited for them is written.
    fn try_again(&mut self, rows: &BTreeSet<RowKey>) {
        if rows.is_empty() {
            return;
        }
        for row in rows {
            self.refused_rows.remove(row);
            self.blocked.remove(row);
            for subject in self.subjects_of(row) {
                match subject {
                    Subject::Pod(pod) => drop(self.after_commit.insert(Output::Pod(pod))),
                    Subject::Subnet(name) => drop(self.after_commit.insert(Output::Subnet(name))),
                    Subject::Node(name) => drop(self.after_commit.insert(Output::Node(name))),
                    _ => {}
                }
            }
            self.dirty.row(row.clone());
        }
        for (key, wanted) in self.desired.iter() {
            for (column, element) in &wanted.members {
                if matches!(element, Element::Row(row) if rows.contains(row)) {
                    self.dirty.change(Change::Member(key.clone(), *column, element.clone()));
                }
            }
        }
    }

    /// A row cannot be written: the users of its object are told, by event and, where there is one, by condition.
    fn block(&mut self, row: RowKey, why: String) {
        for subject in self.subjects_of(&row) {
            match &subject {
                Subject::Subnet(name) => self.outputs.add(Output::Subnet(Arc::clone(name))),
                // Its other NICs wait no longer.
                Subject::Pod(pod) => drop(self.after_commit.insert(Output::Pod(pod.clone()))),
                _ => {}
            }
            self.outputs.add(Output::Event(subject));
        }
        self.blocked.insert(row, why);
    }

    /// The objects that a row is made for.
    fn subjects_of(&self, row: &RowKey) -> Vec<Subject> {
        let key = row.key.as_ref();
        match row.table {
            logical_router::TABLE => vec![Subject::Vpc(key.into())],
            logical_switch::TABLE => vec![Subject::Subnet(key.into())],
            dhcp_options::TABLE => match topology::options_of(row) {
                Some(OptionsOf::Subnet(subnet)) => vec![Subject::Subnet(subnet.into())],
                Some(OptionsOf::Port(port)) => pods_on(self.engine.world(), &self.nic(port).holder).into_iter().map(Subject::Pod).collect(),
                None => Vec::new(),
            },
            logical_router_port::TABLE => key.split_once('/').map(|(_, subnet)| Subject::Subnet(subnet.into())).into_iter().collect(),
            logical_switch_port::TABLE => match key.strip_prefix("router/").and_then(|rest| rest.split_once('/')) {
                Some((subnet, _)) => vec![Subject::Subnet(subnet.into())],
                None => match self.nic(key) {
                    _ if key.starts_with("localnet/") => vec![Subject::Subnet(key["localnet/".len()..].into())],
                    nic if nic.node().is_some() => nic.node().map(|node| Subject::Node(node.into())).into_iter().collect(),
                    nic => pods_on(self.engine.world(), &nic.holder).into_iter().map(Subject::Pod).collect(),
                },
            },
            _ => Vec::new(),
        }
    }

    /// Why a row of `subject` is not in the database, if one cannot be written.
    pub(crate) fn blocked(&self, subject: &Subject) -> Option<Problem> {
        let why = self.blocked.iter().find(|(row, _)| self.subjects_of(row).contains(subject)).map(|(_, why)| why.clone())?;
        Some(Problem { reason: "RowRefused", message: format!("the northbound database refuses a row: {why}") })
    }

    /// Something is about to be written.
    pub(crate) fn writes(&mut self, output: &Output) {
        let Output::Pod(key) = output else { return };
        let Some(holder) = self.pod(key).map(|pod| pod.holder(key)) else { return };
        let nics = self.pod_record(key).into_iter().flat_map(|record| record.nics);
        let told: Vec<_> = nics.map(|nic| NicKey { holder: holder.clone(), provider: nic.provider }).collect();
        self.told.extend(told);
    }

    /// What to write on a pod: its NICs whose ports are in the database, once there is none that will be there soon.
    pub(crate) fn pod_record(&self, key: &PodKey) -> Option<PodRecord<'_>> {
        let pod = self.pod(key)?;
        let holder = pod.holder(key);
        let world = self.engine.world();
        let mut nics = Vec::new();
        for provider in providers(world, key) {
            let nic = NicKey { holder: holder.clone(), provider };
            if self.blocked.contains_key(&RowKey::new(logical_switch_port::TABLE, nic.port())) {
                continue;
            }
            let NicKey { provider, .. } = &nic;
            match self.engine.desired(&Fact::Record(key.clone(), provider.clone())) {
                Some(FactValue::Record { vpc, ours, record, .. }) => {
                    nics.push(NicToRecord { provider: provider.clone(), vpc: vpc.as_deref(), ours: *ours, record });
                }
                _ if recorded(world, key, provider.as_ref()).is_some() => {}
                _ if self.requests.contains_key(&nic) && !self.unallocated.contains_key(&nic) => return None,
                _ => {}
            }
        }
        let machine = (holder != *key).then_some(holder.name);
        (!nics.is_empty()).then_some(PodRecord { uid: &pod.uid, machine, nics })
    }

    /// What to write on a node, once its port is in the database.
    pub(crate) fn node_record(&self, name: &Name) -> Option<(&str, &NicRecord)> {
        if self.blocked(&Subject::Node(Arc::clone(name))).is_some() {
            return None;
        }
        match self.engine.desired(&Fact::Node(Arc::clone(name)))? {
            FactValue::Node { uid, record } => Some((uid, record)),
            _ => None,
        }
    }

    pub(crate) fn subnet(&self, name: &str) -> Option<(&SubnetState, Addresses, &Shown<v1::SubnetStatus>)> {
        let addresses =
            Addresses { usage: self.ipam.usage(name), used: self.ipam.used_ranges(name), available: self.ipam.available_ranges(name) };
        match self.engine.desired(&Fact::Subnet(name.into()))? {
            FactValue::Subnet(state) => Some((state.as_ref(), addresses, self.subnets.get(name)?)),
            _ => None,
        }
    }

    /// The rows with what OVN answers to DHCP in a subnet, over IPv4 and over IPv6, without those that cannot be written.
    pub(crate) fn dhcp_rows(&self, state: &SubnetState) -> [Option<Uuid>; 2] {
        state.dhcp.each_ref().map(|row| row.as_ref().filter(|row| !self.blocked.contains_key(row)).map(|row| row.uuid(&nb::SCHEMA)))
    }

    /// Why a subnet is not connected with the others of its VPC as it asks for.
    pub(crate) fn interconnection_problem(&self, name: &str) -> Option<Problem> {
        let Some(FactValue::Subnet(state)) = self.engine.desired(&Fact::Subnet(name.into())) else { return None };
        match state.interconnection.as_ref()? {
            Ok(found) => {
                let message = self.unallocated.get(&NicKey::of_interconnection(&found.vpc, name))?;
                Some(Problem { reason: "NotInterconnected", message: format!("spec.u2oInterconnectionIP: {message}") })
            }
            Err(problem) => Some(problem.clone()),
        }
    }

    /// What is wrong with a pool, if anything, its addresses, and what the API server shows.
    pub(crate) fn pool(&self, name: &str) -> Option<(Option<&Problem>, Addresses, &Shown<v1::IpPoolStatus>)> {
        let subnet = self.pool_subnets.get(name).map_or("", AsRef::as_ref);
        let addresses = Addresses {
            usage: self.ipam.pool_usage(subnet, name),
            used: self.ipam.pool_used_ranges(subnet, name),
            available: self.ipam.pool_available_ranges(subnet, name),
        };
        match self.engine.desired(&Fact::PoolState(name.into()))? {
            FactValue::PoolState(problem) => Some((problem.as_ref(), addresses, self.pools.get(name)?)),
            _ => None,
        }
    }

    /// What is wrong with a `Vip`, if anything, what it holds, and what the API server shows.
    pub(crate) fn vip(&self, name: &str) -> Option<(Option<Problem>, Option<Holding>, &ShownVip)> {
        let shown = self.vips.get(name)?;
        let key = NicKey::of_vip(name);
        let problem = match self.engine.desired(&Fact::VipState(name.into())) {
            Some(FactValue::VipState(problem)) => problem.clone(),
            _ => None,
        };
        let refused = || self.unallocated.get(&key).map(|why| Problem { reason: "AddressNotAllocated", message: why.clone() });
        Some((problem.or_else(refused), self.ipam.holding(&key.port()), shown))
    }

    pub(crate) fn vpc(&self, name: &str) -> Option<(&VpcState, &Shown<v1::VpcStatus>)> {
        match self.engine.desired(&Fact::Vpc(name.into()))? {
            FactValue::Vpc(state) => Some((state, self.vpcs.get(name)?)),
            _ => None,
        }
    }

    pub(crate) fn provider_network(&self, name: &str) -> Option<(&NetworkState, &Shown<v1::ProviderNetworkStatus>)> {
        match self.engine.desired(&Fact::ProviderNetwork(name.into()))? {
            FactValue::ProviderNetwork(state) => Some((state, self.provider_networks.get(name)?)),
            _ => None,
        }
    }

    pub(crate) fn vlan(&self, name: &str) -> Option<(&VlanState, &Shown<v1::VlanStatus>)> {
        match self.engine.desired(&Fact::Vlan(name.into()))? {
            FactValue::Vlan(state) => Some((state, self.vlans.get(name)?)),
            _ => None,
        }
    }

    /// What is wrong with a pod's NICs, the primary one first; of each NIC one thing.
    fn pod_problems(&self, key: &PodKey) -> Vec<Problem> {
        let Some(holder) = self.pod(key).map(|pod| pod.holder(key)) else { return Vec::new() };
        let said = |fact| match self.engine.desired(&fact) {
            Some(FactValue::Problem(problem)) => Some(problem.clone()),
            _ => None,
        };
        let mut problems = Vec::from_iter(said(Fact::PodProblem(key.clone())));
        if problems.is_empty() {
            problems.extend(self.blocked(&Subject::Pod(key.clone())));
        }
        problems.extend(said(Fact::NetworksProblem(key.clone())));
        for provider in providers(self.engine.world(), key) {
            let nic = NicKey { holder: holder.clone(), provider: provider.clone() };
            let of = provider.as_ref().map(|provider| format!("NIC {provider}: ")).unwrap_or_default();
            let unallocated = self.unallocated.get(&nic).map(|why| ("AddressNotAllocated", why.clone()));
            let shared = || self.shared.get(&nic).map(|other| ("MacShared", format!("{other} has the same MAC address")));
            let port = || said(Fact::PortProblem(key.clone(), provider.clone())).map(|problem| (problem.reason, problem.message));
            let found = unallocated.or_else(port).or_else(shared);
            problems.extend(found.map(|(reason, message)| Problem { reason, message: format!("{of}{message}") }));
        }
        problems
    }

    /// What users are to be told of a subject now, if anything.
    pub(crate) fn notice(&self, subject: &Subject) -> Option<Notice> {
        let notice = |uid: &Name, p: &Problem| Notice { uid: Arc::clone(uid), reason: p.reason, message: p.message.clone() };
        match subject {
            Subject::Pod(key) => {
                let problems = self.pod_problems(key);
                let message = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
                Some(Notice { uid: Arc::clone(&self.pod(key)?.uid), reason: problems.first()?.reason, message })
            }
            Subject::Node(name) => {
                let uid = &<Node as engine::Collection<World>>::table(self.engine.world()).get(name)?.uid;
                let unallocated = || self.unallocated.get(&NicKey::of_node(name));
                let refused = || unallocated().map(|why| Problem { reason: "AddressNotAllocated", message: why.clone() });
                let problem = match self.engine.desired(&Fact::NodeProblem(Arc::clone(name))) {
                    Some(FactValue::Problem(problem)) => Some(problem.clone()),
                    _ => self.blocked(subject).or_else(refused),
                };
                problem.map(|problem| notice(uid, &problem))
            }
            Subject::Subnet(name) => {
                let (state, _, shown) = self.subnet(name)?;
                let blocked = self.blocked(subject);
                let stranding = self.stranding(name).map(|waiting| &waiting.problem);
                let said = |fact| match self.engine.desired(&fact) {
                    Some(FactValue::Problem(problem)) => Some(problem),
                    _ => None,
                };
                let gateway = said(Fact::GatewayProblem(Arc::clone(name))).or_else(|| said(Fact::ExitProblem(Arc::clone(name))));
                let first = state.network.as_ref().err().or(stranding).or(blocked.as_ref());
                let interconnection = self.interconnection_problem(name);
                let first = first.or(interconnection.as_ref()).or(state.waiting.as_ref());
                first.or(gateway).map(|p| notice(&shown.uid, p))
            }
            Subject::Vpc(name) => {
                let (state, shown) = self.vpc(name)?;
                let lost = state.told();
                state.problem.as_ref().or(lost.as_ref()).or(state.waiting.as_ref()).map(|p| notice(&shown.uid, p))
            }
            Subject::ProviderNetwork(name) => {
                let (state, shown) = self.provider_network(name)?;
                state.problem.as_ref().or(state.waiting.as_ref()).map(|p| notice(&shown.uid, p))
            }
            Subject::Vlan(name) => {
                let (state, shown) = self.vlan(name)?;
                state.problem.as_ref().or(state.waiting.as_ref()).map(|p| notice(&shown.uid, p))
            }
            Subject::IpPool(name) => {
                let (problem, _, shown) = self.pool(name)?;
                problem.map(|problem| notice(&shown.uid, problem))
            }
            Subject::Vip(name) => {
                let (problem, _, shown) = self.vip(name)?;
                problem.map(|problem| notice(&shown.shown.uid, &problem))
            }
            Subject::Ip(name) => {
                let uid = &self.ips.get(name)?.uid;
                if let Some(problem) = self.unreadable.get(name) {
                    return Some(notice(uid, problem));
                }
                if let Some(FactValue::Problem(problem)) = self.engine.desired(&Fact::IpProblem(Arc::clone(name))) {
                    return Some(notice(uid, problem));
                }
                let message = self.unallocated.get(&self.nic(name))?.clone();
                Some(Notice { uid: Arc::clone(uid), reason: "AddressNotAllocated", message })
            }
            Subject::Audit => Some(Notice { uid: "".into(), reason: "AuditFailed", message: self.defect.clone()? }),
            Subject::Row(row) => {
                let pause = self.drift.pause(row)?.as_secs();
                let (table, key) = (nb::SCHEMA.table(row.table).name, &row.key);
                let message = format!(
                    "somebody else keeps changing row {key:?} of the northbound table {table}: it is put right every {pause} s only, until that ends"
                );
                Some(Notice { uid: "".into(), reason: "Drift", message })
            }
            Subject::Network => {
                let message = self.held()?;
                Some(Notice { uid: "".into(), reason: "RemovalHeld", message })
            }
        }
    }
}

/// Whether the name of its port alone does not tell whose NIC it is.
fn is_further(nic: &NicKey) -> bool {
    nic.provider.is_some() || nic.node().is_some() || nic.is_interconnection()
}

/// A NIC, for people.
fn described(nic: &NicKey) -> String {
    if let Some(node) = nic.node() {
        return format!("node {node}");
    }
    if nic.is_interconnection() {
        return format!("the router with {}", nic.port());
    }
    let NicKey { holder, provider } = nic;
    let of = provider.as_ref().map(|provider| format!("NIC {provider} of ")).unwrap_or_default();
    format!("{of}pod {}/{}", holder.namespace, holder.name)
}

static NOTHING: BTreeSet<RowKey> = BTreeSet::new();

fn diff<'a>(desired: &'a Desired, replica: &'a Replica, ownership: &'a [Ownership], config: &Config) -> Diff<'a> {
    let claimed: &dyn Fn(TableId, &Row<'_>) -> bool =
        if config.egress.is_some() { &northbound::claimed } else { &northbound::claimed_but_ways_out };
    Diff { skip: &NOTHING, desired, replica, ownership, vendor: api::VENDOR, claimed }
}

fn wait_for(external_ids: Datum) -> Operation {
    Operation::Wait {
        table: "NB_Global",
        condition: vec![Condition { column: "external_ids", function: Function::Includes, value: external_ids }],
        columns: vec!["name"],
        until: Until::NotEqual,
        rows: Vec::new(),
        timeout: 0,
    }
}
