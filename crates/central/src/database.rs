//! A database of OVN: its file, its server, and what is in it that concerns us.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ovsdb::{Client, Event, Options, Remote, Remotes, Status};
use ovsdb_types::{Condition, Datum, Monitored, Mutation, Mutator, Operation, Replica, nb, sb};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use topology::northbound::COMPLETE;

use crate::config::{Cluster, Config};
use crate::daemon::Daemon;
use crate::kept::{Begun, Kept, Restart};
use crate::northd::Northd;
use crate::state::{Member, State};

/// How long peers may take to say that they have the database.
const PEERS_ANSWER: Duration = Duration::from_secs(2);

/// One of OVN's two central databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// What is wanted.
    Northbound,
    /// What `ovn-northd` makes of it.
    Southbound,
}

impl Database {
    /// Its name in the protocol.
    #[must_use]
    pub const fn schema(self) -> &'static str {
        match self {
            Self::Northbound => nb::SCHEMA.name,
            Self::Southbound => sb::SCHEMA.name,
        }
    }

    /// Stem of its files, as OVN's own tools expect it.
    #[must_use]
    pub const fn stem(self) -> &'static str {
        match self {
            Self::Northbound => "ovnnb_db",
            Self::Southbound => "ovnsb_db",
        }
    }

    /// TCP port on which it is served.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Northbound => 6641,
            Self::Southbound => 6642,
        }
    }

    const fn raft_port(self) -> u16 {
        match self {
            Self::Northbound => 6643,
            Self::Southbound => 6644,
        }
    }

    /// The row that belongs to everybody, and its column of notes.
    fn global(self) -> Monitored {
        let (schema, table, notes) = match self {
            Self::Northbound => (&nb::SCHEMA, nb::nb_global::TABLE, nb::nb_global::EXTERNAL_IDS.index),
            Self::Southbound => (&sb::SCHEMA, sb::sb_global::TABLE, sb::sb_global::EXTERNAL_IDS.index),
        };
        Monitored { schema, tables: vec![(table, vec![notes])] }
    }

    pub(crate) fn socket(self, config: &Config) -> PathBuf {
        config.run.join(format!("{}.sock", self.stem()))
    }

    pub(crate) fn file(self, config: &Config) -> PathBuf {
        config.data.join(format!("{}.db", self.stem()))
    }

    /// Where clients on this host find it: its socket, or, in a cluster, all members.
    pub(crate) fn remotes(self, config: &Config) -> String {
        match (&config.cluster, config.address) {
            (Some(cluster), Some(own)) => addresses(config, std::iter::once(&own).chain(&cluster.peers), self.port()).join(","),
            _ => format!("unix:{}", self.socket(config).display()),
        }
    }

    pub(crate) fn member(self, state: &mut State) -> &mut Member {
        match self {
            Self::Northbound => &mut state.nb,
            Self::Southbound => &mut state.sb,
        }
    }

    fn daemon(self, config: &Config) -> Daemon {
        let run = |extension: &str| config.run.join(format!("{}.{extension}", self.stem())).display().to_string();
        let mut arguments = vec![format!("--unixctl={}", run("ctl")), format!("--remote=punix:{}", run("sock"))];
        if let Some(address) = config.address {
            let method = if config.tls.is_some() { "pssl" } else { "ptcp" };
            let bracketed = SocketAddr::new(address, 0).to_string();
            let host = bracketed.rsplit_once(':').map_or("", |(host, _)| host);
            arguments.push(format!("--remote={method}:{}:{host}", self.port()));
        }
        arguments.extend(tls_arguments(config));
        arguments.push(self.file(config).display().to_string());
        Daemon { program: "ovsdb-server", name: self.stem(), run: config.run.clone(), arguments }
    }

    /// Makes the file if there is none: alone, as the first of a cluster, or as one that joins.
    async fn prepare(self, config: &Config) -> anyhow::Result<()> {
        let file = self.file(config);
        if file.exists() {
            return check_kind(&file, config.cluster.is_some()).await;
        }
        let path = file.display().to_string();
        let name = match self {
            Self::Northbound => "ovn-nb.ovsschema",
            Self::Southbound => "ovn-sb.ovsschema",
        };
        let schema = config.schemas.join(name).display().to_string();
        let (Some(cluster), Some(own)) = (&config.cluster, config.address) else {
            tracing::info!(file = path, "database made anew");
            return tool(&["create", &path, &schema]).await;
        };
        let local = addresses(config, [&own], self.raft_port()).concat();
        if cluster.bootstrap && !self.is_served(config, cluster).await? {
            tracing::info!(file = path, "cluster made anew");
            let election = format!("--election-timer={}", cluster.election.as_millis());
            return tool(&[&election, "create-cluster", &path, &schema, &local]).await;
        }
        tracing::info!(file = path, peers = ?cluster.peers, "joining the cluster of a peer");
        let remotes = addresses(config, &cluster.peers, self.raft_port());
        let arguments: Vec<&str> =
            ["join-cluster", &path, self.schema(), &local].into_iter().chain(remotes.iter().map(String::as_str)).collect();
        tool(&arguments).await
    }

    /// Whether a peer has the database. Otherwise a member that lost its disk would make a second cluster of the same name.
    async fn is_served(self, config: &Config, cluster: &Cluster) -> anyhow::Result<bool> {
        if cluster.peers.is_empty() {
            return Ok(false);
        }
        let remotes: Remotes = addresses(config, &cluster.peers, self.port()).join(",").parse()?;
        let (_client, mut events, driver) = ovsdb::connect(Options { tls: config.tls.clone(), ..Options::new(remotes, self.global()) });
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        let asked = async {
            loop {
                match events.recv().await {
                    Some(Event::Status(Some(status))) if status.connected => return true,
                    Some(Event::Disconnected(_)) | None => return false,
                    Some(_) => {}
                }
            }
        };
        Ok(timeout(PEERS_ANSWER, asked).await.unwrap_or(false))
    }

    /// Keeps the server running, and follows what it says.
    pub(crate) async fn keep(
        self,
        config: &Config,
        northd: &Northd,
        state: &Arc<watch::Sender<State>>,
        restarts: mpsc::Receiver<Restart>,
    ) -> anyhow::Result<()> {
        let daemon = self.daemon(config);
        let mut kept = Kept::new(restarts, config.backoff);
        let mark = |change: &dyn Fn(&mut Member)| state.send_modify(|state| change(self.member(state)));
        loop {
            kept.turn().await;
            let begun = match daemon.running() {
                Some(process) => Ok(Begun::Adopted(process)),
                None => {
                    if self == Self::Northbound {
                        // Before anybody can read from a database that may have lost everything.
                        northd.pause().await;
                    }
                    match self.prepare(config).await {
                        Ok(()) => daemon.start().await.map(Begun::Started),
                        Err(error) => Err(error),
                    }
                }
            };
            let (process, started) = match begun {
                Ok(Begun::Adopted(process)) => (process, false),
                Ok(Begun::Started(process)) => (process, true),
                Err(error) => {
                    let problem = format!("{error:#}");
                    tracing::error!(database = self.schema(), problem);
                    kept.failed();
                    mark(&|member| member.problem = Some(problem.clone()));
                    continue;
                }
            };
            let pid = process.pid();
            tracing::info!(database = self.schema(), pid, adopted = !started, "ovsdb-server runs");
            mark(&|member| (member.pid, member.problem) = (Some(pid), None));
            // One connection per life of the server: what an earlier one said must not be taken for this one's word.
            let watched = self.watch(config, northd, state, started);
            kept.runs();
            tokio::select! {
                ended = kept.ended(process) => ended?,
                failed = watched => return failed,
            }
            tracing::warn!(database = self.schema(), pid, "ovsdb-server has ended");
            mark(&|member| {
                *member = Member { restarts: member.restarts + 1, ..Member::default() };
            });
        }
    }

    async fn watch(self, config: &Config, northd: &Northd, state: &Arc<watch::Sender<State>>, started: bool) -> anyhow::Result<()> {
        let monitored = self.global();
        let table = monitored.tables[0].0;
        let remote = Remote::Unix(self.socket(config));
        let (client, mut events, driver) = ovsdb::connect(Options::new(remote, monitored.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run());
        let mut replica = Replica::new(monitored.clone(), Vec::new());
        let mut status: Option<Status> = None;
        let mut doubted = started;
        while let Some(event) = events.recv().await {
            match event {
                Event::Status(said) => {
                    state.send_modify(|state| self.member(state).take(said.as_ref()));
                    let told = |s: &Option<Status>| s.as_ref().map(|s| (s.connected, s.leader));
                    if told(&said) != told(&status) {
                        let (connected, leader) = told(&said).unwrap_or_default();
                        tracing::info!(database = self.schema(), connected, leader, "database");
                    }
                    status = said;
                }
                Event::Snapshot(monitored, snapshot) => drop(replica.replace(monitored, snapshot)?),
                Event::Updates(updates) => drop(replica.apply(updates)?),
                Event::Disconnected(why) => {
                    tracing::debug!(database = self.schema(), why);
                    state.send_modify(|state| self.member(state).take(None));
                    continue;
                }
            }
            let Some(served) = status.as_ref().filter(|status| status.connected) else { continue };
            let name = monitored.schema.table(table).name;
            let Some(global) = replica.rows(table).next() else {
                if served.leader {
                    insert_global(&client, name).await;
                }
                continue;
            };
            if self == Self::Southbound {
                continue;
            }
            let complete = global.get(nb::nb_global::EXTERNAL_IDS).and_then(|notes| notes.get(COMPLETE)) == Some("true");
            if complete && doubted && !served.clustered {
                // Marked from the beginning: it may be an old copy. The controller compares, and marks it again.
                unmark(&client, name, global.uuid).await;
                continue;
            }
            doubted = false;
            if complete {
                northd.release().await;
            } else {
                northd.pause().await;
            }
        }
        bail!("the connection to {} is given up", self.schema())
    }
}

/// Without its row, `ovn-controller` and the controller wait; `ovn-northd` makes it only once it may work.
async fn insert_global(client: &Client, table: &'static str) {
    let insert = Operation::Insert { table, uuid: None, name: None, row: Vec::new() };
    match client.transact(&[insert]).await {
        Ok(_) => tracing::info!(table, "row made"),
        // Somebody was faster: there can be one only.
        Err(error) => tracing::debug!(table, %error, "row not made"),
    }
}

async fn unmark(client: &Client, table: &'static str, row: ovsdb_types::Uuid) {
    let value = Datum::map(vec![(COMPLETE.into(), "true".into())]);
    let mutations = vec![Mutation { column: "external_ids", mutator: Mutator::Delete, value }];
    if let Err(error) = client.transact(&[Operation::Mutate { table, condition: Condition::row(row), mutations }]).await {
        tracing::warn!(%error, "the mark of completeness cannot be removed");
    }
}

fn addresses<'a>(config: &Config, hosts: impl IntoIterator<Item = &'a IpAddr>, port: u16) -> Vec<String> {
    let method = if config.tls.is_some() { "ssl" } else { "tcp" };
    hosts.into_iter().map(|host| format!("{method}:{}", SocketAddr::new(*host, port))).collect()
}

pub(crate) fn tls_arguments(config: &Config) -> Vec<String> {
    let files = config
        .tls
        .iter()
        .flat_map(|tls| [("private-key", &tls.private_key), ("certificate", &tls.certificate), ("ca-cert", &tls.authority)]);
    files.map(|(name, file)| format!("--{name}={}", file.display())).collect()
}

async fn check_kind(file: &Path, clustered: bool) -> anyhow::Result<()> {
    let path = file.display().to_string();
    let is = Command::new("ovsdb-tool").args(["db-is-clustered", &path]).status().await.context("cannot execute ovsdb-tool")?;
    match (is.success(), clustered) {
        (true, false) => {
            bail!("{path} belongs to a cluster: give --peers, or make it a database of its own with `ovsdb-tool cluster-to-standalone`")
        }
        (false, true) => {
            bail!("{path} belongs to no cluster: make one of it with `ovsdb-tool create-cluster`, or move it away to join one")
        }
        _ => Ok(()),
    }
}

async fn tool(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ovsdb-tool").args(arguments).output().await.context("cannot execute ovsdb-tool")?;
    if !output.status.success() {
        bail!("ovsdb-tool {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
