//! What happens to the pods, as others see it: the northbound and southbound databases by monitors, the API by watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use api::v1;
use api::view::PodView;
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use ovsdb::Remotes;
use ovsdb_types::nb::{logical_switch, logical_switch_port, nb_global};
use ovsdb_types::sb::port_binding;
use ovsdb_types::{Column, Monitored, Replica, RowChange, TableId, sb};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::objects::LABEL;

/// Nothing that is waited for may stand still for as long.
const STALL: Duration = Duration::from_secs(120);

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its port is in the northbound database.
    Committed,
    /// Its annotations show its address.
    Patched,
    /// Its port is in the southbound database.
    Bound,
}

/// When a pod was created, and reached each stage.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub created: Instant,
    stages: [Option<Instant>; 3],
}

impl Times {
    pub fn until(&self, stage: Stage) -> Option<Duration> {
        Some(self.stages[stage as usize]?.saturating_duration_since(self.created))
    }
}

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pods on the ledger that reached each stage.
    pub stages: [usize; 3],
    /// Ports of pods that are in the northbound database.
    pub ports: usize,
    /// Transactions of the northbound database, and rows that they changed.
    pub transactions: usize,
    pub rows: usize,
    /// Logical switches that are there.
    pub switches: usize,
    /// The latest marker's switch.
    pub marker: String,
    /// `IP` objects that are there.
    pub ips: usize,
    /// Changes of pods and `IP` objects since they were first listed.
    pub written: usize,
    /// Why an observer has given up.
    pub failure: Option<String>,
}

/// The pods that are watched, and what was seen of them.
#[derive(Debug, Default)]
pub struct Ledger {
    pods: Mutex<HashMap<String, Times>>,
    seen: watch::Sender<Seen>,
}

impl Ledger {
    fn pods(&self) -> MutexGuard<'_, HashMap<String, Times>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod is about to be created.
    pub fn creating(&self, namespace: &str, name: &str) {
        self.pods().insert(port(namespace, name), Times { created: Instant::now(), stages: [None; 3] });
    }

    fn reached(&self, port: &str, stage: Stage, at: Instant) -> bool {
        let mut pods = self.pods();
        let Some(stages) = pods.get_mut(port).map(|times| &mut times.stages) else { return false };
        stages[stage as usize].replace(at).is_none()
    }

    /// Takes all pods off it.
    pub fn take(&self) -> Vec<Times> {
        let taken = std::mem::take(&mut *self.pods());
        self.seen.send_modify(|seen| seen.stages = [0; 3]);
        taken.into_values().collect()
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    /// Waits until `enough` was seen.
    pub async fn until(&self, what: &str, enough: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
        let mut seen = self.seen.subscribe();
        loop {
            {
                let seen = seen.borrow_and_update();
                if let Some(failure) = &seen.failure {
                    bail!("{failure}");
                }
                if enough(&seen) {
                    return Ok(());
                }
            }
            let moved = tokio::time::timeout(STALL, seen.changed()).await;
            let stalled = || format!("nothing has moved for {STALL:?} while waiting until {what}; seen: {:?}", *self.seen.borrow());
            moved.with_context(stalled)??;
        }
    }
}

fn port(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}")
}

/// Everybody who looks; they end when dropped.
pub struct Observers {
    _tasks: JoinSet<()>,
}

impl Observers {
    /// Begins to look.
    pub fn start(ledger: &Arc<Ledger>, client: &kube::Client, northbound: &Remotes, southbound: Option<&Remotes>) -> Self {
        let mut tasks = JoinSet::new();
        let mut spawn = |what: &'static str, work: futures::future::BoxFuture<'static, anyhow::Result<()>>| {
            let ledger = Arc::clone(ledger);
            tasks.spawn(async move {
                if let Err(error) = work.await {
                    ledger.note(|seen| seen.failure = Some(format!("{what}: {error:#}")));
                }
            });
        };
        spawn("northbound database", Box::pin(follow_northbound(Arc::clone(ledger), northbound.clone())));
        if let Some(southbound) = southbound {
            spawn("southbound database", Box::pin(follow_southbound(Arc::clone(ledger), southbound.clone())));
        }
        spawn("pods", Box::pin(follow_pods(Arc::clone(ledger), client.clone())));
        spawn("IP objects", Box::pin(follow_ips(Arc::clone(ledger), client.clone())));
        Self { _tasks: tasks }
    }
}

async fn follow_northbound(ledger: Arc<Ledger>, remotes: Remotes) -> anyhow::Result<()> {
    let changed = |replica: &Replica, changes: &[RowChange], ledger: &Ledger| {
        let rows = changes.iter().filter(|change| is_network(change)).count();
        let switches = replica.rows(logical_switch::TABLE).map(|row| row.text(logical_switch::NAME));
        let marker = changes.iter().any(|change| table_of(change) == logical_switch::TABLE);
        let marker = marker.then(|| switches.filter(|name| name.starts_with("bench-marker-")).max().unwrap_or_default().to_owned());
        ledger.note(|seen| {
            seen.transactions += usize::from(rows > 0);
            seen.rows += rows;
            seen.switches = replica.len(logical_switch::TABLE);
            // Each switch has one port for its router.
            seen.ports = replica.len(logical_switch_port::TABLE).saturating_sub(seen.switches);
            seen.marker = marker.unwrap_or(std::mem::take(&mut seen.marker));
        });
    };
    follow(ledger, remotes, topology::northbound::monitored(), logical_switch_port::NAME, Stage::Committed, changed).await
}

async fn follow_southbound(ledger: Arc<Ledger>, remotes: Remotes) -> anyhow::Result<()> {
    let monitored = Monitored { schema: &sb::SCHEMA, tables: vec![(port_binding::TABLE, vec![port_binding::LOGICAL_PORT.index])] };
    follow(ledger, remotes, monitored, port_binding::LOGICAL_PORT, Stage::Bound, |_, _, _| {}).await
}

/// Whether the controller may have made it, as part of a network.
fn is_network(change: &RowChange) -> bool {
    // `ovn-northd` says in these how a port is: ovn-nb(5). The row that belongs to everybody says who leads.
    let told = [logical_switch_port::UP.index, logical_switch_port::DYNAMIC_ADDRESSES.index];
    match change {
        RowChange::Modified(logical_switch_port::TABLE, _, columns) => columns.iter().any(|(column, _)| !told.contains(column)),
        change => table_of(change) != nb_global::TABLE,
    }
}

const fn table_of(change: &RowChange) -> TableId {
    match change {
        RowChange::Inserted(table, _) | RowChange::Modified(table, ..) | RowChange::Deleted(table, _) => *table,
    }
}

/// Follows a database: a row whose `name` is that of a pod's port means that the pod has reached `stage`.
async fn follow<T>(
    ledger: Arc<Ledger>,
    remotes: Remotes,
    monitored: Monitored,
    name: Column<T>,
    stage: Stage,
    changed: impl Fn(&Replica, &[RowChange], &Ledger),
) -> anyhow::Result<()> {
    let (table, name) = (name.table, name.index);
    let (_client, mut events, driver) = ovsdb::connect(ovsdb::Options::new(remotes, monitored.clone()));
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let mut replica = Replica::new(monitored, Vec::new());
    while let Some(event) = events.recv().await {
        let at = Instant::now();
        let changes = match event {
            ovsdb::Event::Snapshot(monitored, snapshot) => replica.replace(monitored, snapshot)?,
            ovsdb::Event::Updates(updates) => replica.apply(updates)?,
            ovsdb::Event::Status(_) | ovsdb::Event::Disconnected(_) => continue,
        };
        let inserted = changes.iter().filter_map(|change| match change {
            RowChange::Inserted(of, uuid) if *of == table => replica.get(table, *uuid),
            _ => None,
        });
        let names = inserted.filter_map(|row| row.value(name)?.as_str());
        let reached = names.filter(|name| ledger.reached(name, stage, at)).count();
        ledger.note(|seen| seen.stages[stage as usize] += reached);
        changed(&replica, &changes, &ledger);
    }
    bail!("the connection is given up")
}

async fn follow_pods(ledger: Arc<Ledger>, client: kube::Client) -> anyhow::Result<()> {
    let config = watcher::Config::default().labels(LABEL);
    let mut events = std::pin::pin!(watcher::watcher(Api::<PodView>::all(client), config).default_backoff());
    while let Some(event) = events.next().await {
        let (pod, listed) = match event {
            Ok(Event::Apply(pod)) => (pod, false),
            Ok(Event::InitApply(pod)) => (pod, true),
            Ok(_) => continue,
            Err(error) => {
                tracing::debug!(%error, "watch of pods");
                continue;
            }
        };
        let patched = pod.annotations().contains_key(api::annotations::ALLOCATED);
        let name = port(&pod.namespace().unwrap_or_default(), &pod.name_any());
        let reached = patched && ledger.reached(&name, Stage::Patched, Instant::now());
        ledger.note(|seen| {
            seen.stages[Stage::Patched as usize] += usize::from(reached);
            seen.written += usize::from(!listed);
        });
    }
    bail!("the watch has ended")
}

async fn follow_ips(ledger: Arc<Ledger>, client: kube::Client) -> anyhow::Result<()> {
    let mut events = std::pin::pin!(watcher::watcher(Api::<v1::Ip>::all(client), watcher::Config::default()).default_backoff());
    let mut there = std::collections::HashSet::new();
    while let Some(event) = events.next().await {
        let written = matches!(event, Ok(Event::Apply(_) | Event::Delete(_)));
        match event {
            Ok(Event::Apply(ip) | Event::InitApply(ip)) => drop(there.insert(ip.name_any())),
            Ok(Event::Delete(ip)) => drop(there.remove(&ip.name_any())),
            Ok(Event::Init) => there.clear(),
            Ok(Event::InitDone) => {}
            Err(error) => {
                tracing::debug!(%error, "watch of IP objects");
                continue;
            }
        }
        ledger.note(|seen| {
            seen.ips = there.len();
            seen.written += usize::from(written);
        });
    }
    bail!("the watch has ended")
}
