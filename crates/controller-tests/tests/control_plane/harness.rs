//! A controller between an API server and a real `ovsdb-server`, and what a test asks of them. The API server is the embedded
//! one, or a real one where the environment names it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use api::view::PodView;
use api::{annotations, v1};
use controller::{Config, Election};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt as _};
use linux::process::Process;
use ovsdb::{Remote, connect};
use ovsdb_types::nb::{logical_router, logical_router_port, logical_switch, logical_switch_port, nb_global, port_group};
use ovsdb_types::{Monitored, Replica, nb};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::real::{self, RealServer};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A database in a folder of its own, and the real `ovsdb-server` that serves it.
pub struct OvsdbServer(tempfile::TempDir);

impl OvsdbServer {
    /// Makes the database, by OVN's schema of that name; nobody serves it yet.
    pub fn create(schema: &str) -> Self {
        let server = Self(tempfile::tempdir().unwrap());
        let made =
            Command::new("ovsdb-tool").arg("create").arg(server.path("db")).arg(format!("/usr/share/ovn/{schema}.ovsschema")).status();
        assert!(made.unwrap().success());
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn start(&self) {
        let path = self.0.path().display();
        // It detaches when it is ready.
        let started = Command::new("ovsdb-server")
            .args(["--detach", "--no-chdir"])
            .args([format!("--remote=punix:{path}/sock"), format!("--unixctl={path}/ctl")])
            .args([format!("--pidfile={path}/pid"), format!("{path}/db")])
            .stderr(Stdio::null())
            .status();
        assert!(started.unwrap().success());
    }

    /// Ends the server, if there is one.
    pub fn stop(&self) {
        let pid = std::fs::read_to_string(self.path("pid")).ok().and_then(|text| text.trim().parse().ok());
        if let Some(process) = pid.and_then(|pid| Process::open(pid).ok()) {
            process.stop(PATIENCE).unwrap();
        }
    }

    pub fn remote(&self) -> Remote {
        Remote::Unix(self.path("sock"))
    }
}

impl Drop for OvsdbServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A northbound database of its own.
pub struct Database {
    ovsdb: OvsdbServer,
    /// The API server of the same cluster, when it is a real one.
    server: Option<RealServer>,
}

impl Database {
    pub fn start() -> Self {
        let database = Self { ovsdb: OvsdbServer::create("ovn-nb"), server: None };
        database.ovsdb.start();
        assert!(database.nbctl(&["--timeout=10", "init"]).1);
        database
    }

    pub fn remote(&self) -> Remote {
        self.ovsdb.remote()
    }

    pub fn nbctl(&self, args: &[&str]) -> (String, bool) {
        let out = Command::new("ovn-nbctl").arg(format!("--db={}", self.remote())).args(args).output().unwrap();
        (String::from_utf8(out.stdout).unwrap(), out.status.success())
    }
}

/// A watcher of the database, as a test sees it. Counts what is written.
pub struct Mirror {
    pub replica: Replica,
    pub events: mpsc::Receiver<ovsdb::Event>,
    pub task: JoinHandle<()>,
    _client: ovsdb::Client,
    /// Row changes seen.
    pub changes: usize,
}

impl Mirror {
    pub fn open(database: &Database) -> Self {
        let ours =
            [logical_router::TABLE, logical_router_port::TABLE, logical_switch::TABLE, logical_switch_port::TABLE, port_group::TABLE];
        let mut monitored = Monitored::tables(&nb::SCHEMA, &ours);
        monitored.tables.push((nb_global::TABLE, vec![nb_global::EXTERNAL_IDS.index]));
        let (client, events, driver) = connect(ovsdb::Options::new(database.remote(), monitored.clone()));
        Self { replica: Replica::new(monitored, vec![]), events, task: tokio::spawn(driver.run()), _client: client, changes: 0 }
    }

    pub fn take(&mut self, event: ovsdb::Event) {
        self.changes += match event {
            ovsdb::Event::Snapshot(monitored, snapshot) => self.replica.replace(monitored, snapshot).unwrap().len(),
            ovsdb::Event::Updates(updates) => self.replica.apply(updates).unwrap().len(),
            ovsdb::Event::Status(_) | ovsdb::Event::Disconnected(_) => 0,
        };
    }

    pub fn ports(&self) -> BTreeMap<String, String> {
        let row =
            |r: ovsdb_types::Row<'_>| (r.text(logical_switch_port::NAME).to_owned(), r.text(logical_switch_port::ADDRESSES).to_owned());
        self.replica.rows(logical_switch_port::TABLE).map(row).collect()
    }

    /// The addresses of a router port.
    pub fn router_networks(&self, port: &str) -> Option<String> {
        let row = self.replica.rows(logical_router_port::TABLE).find(|row| row.text(logical_router_port::NAME) == port)?;
        Some(row.text(logical_router_port::NETWORKS).to_owned())
    }

    pub fn is_complete(&self) -> bool {
        self.note(topology::northbound::COMPLETE).as_deref() == Some("true")
    }

    /// What the row that belongs to everybody says.
    pub fn note(&self, key: &str) -> Option<String> {
        let notes = self.replica.rows(nb_global::TABLE).find_map(|row| row.get(nb_global::EXTERNAL_IDS).cloned());
        notes?.get(key).map(str::to_owned)
    }

    pub fn rows(&self) -> usize {
        [logical_router::TABLE, logical_router_port::TABLE, logical_switch::TABLE, logical_switch_port::TABLE]
            .iter()
            .map(|t| self.replica.len(*t))
            .sum()
    }

    pub async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition(self) {
            let Ok(event) = tokio::time::timeout_at(deadline, self.events.recv()).await else {
                panic!("not within {PATIENCE:?}: {what}; ports: {:#?}", self.ports())
            };
            self.take(event.unwrap());
        }
    }

    /// Takes in all that has happened up to now, known by a row that the test itself writes and removes.
    pub async fn catch_up(&mut self, database: &Database) {
        let before = self.changes;
        assert!(database.nbctl(&["ls-add", "marker"]).1);
        let name = |m: &Self| m.replica.rows(logical_switch::TABLE).any(|r| r.text(logical_switch::NAME) == "marker");
        self.until("marker", name).await;
        assert!(database.nbctl(&["ls-del", "marker"]).1);
        self.until("no marker", |m| !name(m)).await;
        self.changes = before + (self.changes - before - 2);
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Controller {
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Controller {
    pub fn start(client: &Client, database: &Database) -> Self {
        Self::start_with(client, Config::new(database.remote()))
    }

    /// One of several: the lease says which of them leads.
    pub fn candidate(client: &Client, database: &Database, identity: &str) -> Self {
        Self::start_with(client, Config { election: Some(Election::new(identity)), ..Config::new(database.remote()) })
    }

    pub fn start_with(client: &Client, config: Config) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(controller::run(client.clone(), config, stop.clone()));
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("the controller drains").unwrap().unwrap();
    }

    /// As `kill -9` would: nothing is drained.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Starts a controller where one was killed, all being quiet: what it writes is what the next pod needs.
pub async fn started_again(client: &Client, database: &Database, mirror: &mut Mirror) -> Controller {
    let (before, ports) = (mirror.changes, mirror.ports());
    let controller = Controller::start(client, database);
    // A pod that comes now proves that the controller has looked at everything else.
    create_pod(client, "late", &[]).await;
    allocated(client, "late").await;
    mirror.catch_up(database).await;
    // The late pod's port and its switch's set of ports.
    assert_eq!(mirror.changes - before, 2, "northbound rows written by a restart");
    let mut after = mirror.ports();
    after.remove("late.default");
    assert_eq!(after, ports);
    controller
}

/// Installs our kinds, and waits until they are served.
pub async fn install(client: &Client) {
    serve(client, &v1::crds()).await;
}

/// Installs kinds, and waits until they are served.
pub async fn serve(client: &Client, definitions: &[CustomResourceDefinition]) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in definitions {
        crds.create(&PostParams::default(), definition).await.unwrap();
    }
    for definition in definitions {
        timeout(PATIENCE, real::served(client, &definition.name_any())).await.expect("the kind is served");
    }
}

pub async fn cluster() -> (Client, Database, Mirror) {
    let mut database = Database::start();
    let client = match real::programs() {
        None => apiserver::Server::open(None).unwrap().client(),
        Some(programs) => database.server.insert(RealServer::start(&programs).await).client.clone(),
    };
    install(&client).await;
    let mirror = Mirror::open(&database);
    (client, database, mirror)
}

/// Waits for an object by watching it.
pub async fn until<K>(api: &Api<K>, name: &str, what: &str, condition: impl Fn(&K) -> bool) -> K
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    use futures::TryStreamExt;
    let search = async {
        let mut last = None;
        let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(60);
        let mut stream = std::pin::pin!(api.watch(&params, "0").await.unwrap());
        while let Some(event) = stream.try_next().await.unwrap() {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                if condition(&object) {
                    return object;
                }
                last = Some(object);
            }
        }
        panic!("{what}: the watch ended; last seen: {last:#?}");
    };
    match timeout(PATIENCE, search).await {
        Ok(found) => found,
        Err(_) => panic!("not within {PATIENCE:?}: {what}; now: {:#?}", api.get_opt(name).await),
    }
}

/// Deletes a pod at once, and waits until it is gone.
pub async fn delete_pod(client: &Client, name: &str) {
    pods(client).delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&pods(client), name).await;
}

pub async fn create_subnet(client: &Client, name: &str, spec: Value) {
    let subnet = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name }, "spec": spec });
    Api::<v1::Subnet>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(subnet).unwrap()).await.unwrap();
}

/// A StatefulSet `web`, as its pods name it.
pub async fn create_stateful_set(client: &Client, replicas: u32) -> Value {
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas, "serviceName": "web", "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": "none" }] } },
        },
    }))
    .unwrap();
    let set = Api::<StatefulSet>::namespaced(client.clone(), "default").create(&PostParams::default(), &set).await.unwrap();
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": set.uid() })
}

/// What was written since a version of the kinds that a controller writes. The version itself counts more than that: a real
/// server writes leases of its own.
pub async fn writes_since(client: &Client, version: &str) -> Vec<String> {
    use futures::TryStreamExt;
    let kinds = [
        ApiResource::erase::<PodView>(&()),
        ApiResource::erase::<Event>(&()),
        ApiResource::erase::<v1::Vpc>(&()),
        ApiResource::erase::<v1::Subnet>(&()),
        ApiResource::erase::<v1::Ip>(&()),
        ApiResource::erase::<v1::IpPool>(&()),
        ApiResource::erase::<v1::Vip>(&()),
    ];
    let written = kinds.iter().map(async |kind| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), kind);
        // The server ends the watch after a second.
        let events: Vec<_> = api.watch(&WatchParams::default().timeout(1), version).await.unwrap().try_collect().await.unwrap();
        let written = events.iter().filter_map(|event| match event {
            WatchEvent::Added(object) => Some(("added", object)),
            WatchEvent::Modified(object) => Some(("modified", object)),
            WatchEvent::Deleted(object) => Some(("deleted", object)),
            _ => None,
        });
        written.map(|(how, object)| format!("{} {} {how}: {}", kind.kind, object.name_any(), object.data)).collect::<Vec<_>>()
    });
    futures::future::join_all(written).await.concat()
}

/// Waits until an event on an object says something.
pub async fn told(client: &Client, name: &str, why: &str) {
    let events: Api<Event> = Api::all(client.clone());
    let says = |e: &Event| e.involved_object.name.as_deref() == Some(name) && e.message.as_deref().is_some_and(|m| m.contains(why));
    let search = async {
        let mut stream = std::pin::pin!(events.watch(&WatchParams::default().timeout(60), "0").await.unwrap());
        loop {
            use futures::TryStreamExt;
            if events.list(&ListParams::default()).await.unwrap().items.iter().any(says) {
                return;
            }
            stream.try_next().await.unwrap();
        }
    };
    if timeout(PATIENCE, search).await.is_err() {
        panic!("no event on {name} says {why:?}: {:#?}", events.list(&ListParams::default()).await.unwrap().items);
    }
}

/// Waits until an object is gone.
pub async fn gone<K>(api: &Api<K>, name: &str)
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let absent = kube::runtime::wait::await_condition(api.clone(), name, |object: Option<&K>| object.is_none());
    match timeout(PATIENCE, absent).await {
        Ok(result) => drop(result.unwrap()),
        Err(_) => panic!("{name} is still there after {PATIENCE:?}: {:#?}", api.get_opt(name).await),
    }
}

pub async fn create_pod(client: &Client, name: &str, annotations: &[(&str, &str)]) {
    let notes: BTreeMap<_, _> = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": notes },
        "spec": { "containers": [{ "name": "c", "image": "none" }] },
    }))
    .unwrap();
    Api::<Pod>::namespaced(client.clone(), "default").create(&PostParams::default(), &pod).await.unwrap();
}

pub fn pods(client: &Client) -> Api<PodView> {
    Api::namespaced(client.clone(), "default")
}

pub fn note(pod: &PodView, key: &str) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(key).cloned()
}

pub async fn allocated(client: &Client, name: &str) -> PodView {
    until(&pods(client), name, "the pod is allocated", |pod| note(pod, annotations::ALLOCATED).is_some()).await
}

pub fn within<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}
