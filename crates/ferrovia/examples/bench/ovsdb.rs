//! The OVSDB client against a socket that carries the very same bytes: what understanding them costs.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use ovsdb::{Client, Event, Options, Remote, connect};
use ovsdb_types::nb::{logical_switch as ls, logical_switch_port as lsp};
use ovsdb_types::{Datum, IntoDatum, Monitored, Operation, Replica, RowKey, TableId, nb};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::raw::{self, Recorder, Recording};
use crate::report::{Report, Row, median};
use crate::servers::Database;

const BATCHES: usize = 20;
const BATCH: usize = 1000;
const SINGLES: usize = 4000;
/// Measurements of each client, taken in turns.
const ROUNDS: usize = 7;
/// Transactions under way at once.
const BATCHES_AT_ONCE: usize = 4;
const SINGLES_AT_ONCE: usize = 128;
/// What a replica holds.
const TABLES: [TableId; 2] = [ls::TABLE, lsp::TABLE];

pub fn measure(report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::start(folder.path(), "nb");
    let runtime = Runtime::new().unwrap();
    let bench = Bench { database, recorder: folder.path().join("recorder.sock"), runtime };

    let singles: Vec<Vec<Operation>> = (0..SINGLES).map(|i| vec![switch(&format!("single-{i}"), vec![])]).collect();
    let (ours, raw) = bench.throughput(&singles, SINGLES_AT_ONCE, &[]);
    let row = Row::new("OVSDB client, transactions of one row, 128 pipelined", ours, "rows/s");
    report.add(row.against("same bytes, raw socket", raw).ratio_at_least(0.9));

    let batches: Vec<Vec<Operation>> = (0..BATCHES).map(|b| (0..BATCH).map(|i| switch(&format!("{b}-{i}"), vec![])).collect()).collect();
    let (ours, raw) = bench.throughput(&batches, BATCHES_AT_ONCE, &[]);
    let row = Row::new("OVSDB client, batches of 1,000 inserts", ours, "rows/s");
    report.add(row.against("same bytes, raw socket", raw).ratio_at_least(0.9));

    let batches: Vec<Vec<Operation>> = (0..BATCHES).map(batch).collect();
    let (ours, raw) = bench.throughput(&batches, BATCHES_AT_ONCE, &TABLES);
    let row = Row::new("OVSDB client, batches of 1,000 ports, and a replica that follows", ours, "rows/s");
    report.add(row.against("same bytes, raw socket", raw).ratio_at_least(0.9));

    let (ours, raw) = bench.replica(&batches);
    let row = Row::new("OVSDB client, replica of 20,000 rows, from connecting until applied", ours * 1e3, "ms");
    report.add(row.against("same bytes, raw socket", raw * 1e3).ratio_at_most(1.5));
}

fn switch(name: &str, ports: Vec<ovsdb_types::Uuid>) -> Operation {
    let ports = Datum::set(ports.into_iter().map(Into::into).collect());
    let uuid = Some(RowKey::new(ls::TABLE, name).uuid(&nb::SCHEMA));
    Operation::Insert { table: "Logical_Switch", uuid, name: None, row: vec![("name", name.to_owned().into_datum()), ("ports", ports)] }
}

/// A switch and its ports, spelled as the rules spell them.
fn batch(number: usize) -> Vec<Operation> {
    let mut ports = Vec::new();
    let mut operations = Vec::new();
    for i in 1..BATCH {
        let name = format!("pod-{number}-{i}.default");
        let uuid = RowKey::new(lsp::TABLE, name.as_str()).uuid(&nb::SCHEMA);
        ports.push(uuid);
        let address = format!("02:00:00:00:{number:02x}:{:02x} 10.16.{}.{}", i % 256, number * 4 + i / 256, i % 256);
        let notes = [("ls", "ovn-default".to_owned()), ("pod", format!("default/pod-{number}-{i}")), ("vendor", "kube-ovn".to_owned())];
        let row = vec![
            ("name", name.into_datum()),
            ("addresses", std::collections::BTreeSet::from([address]).into_datum()),
            ("external_ids", Datum::map(notes.into_iter().map(|(k, v)| (k.into(), v.into())).collect())),
        ];
        operations.push(Operation::Insert { table: "Logical_Switch_Port", uuid: Some(uuid), name: None, row });
    }
    operations.push(switch(&format!("switch-{number}"), ports));
    operations
}

/// A client whose updates are applied to a replica, as the controller does it.
struct Follower {
    client: Client,
    driver: JoinHandle<()>,
    replica: JoinHandle<Replica>,
    stop: oneshot::Sender<()>,
}

impl Follower {
    /// Connects, and returns when the first snapshot has been applied.
    async fn start(socket: &Path, tables: &[TableId]) -> Self {
        let monitored = Monitored::tables(&nb::SCHEMA, tables);
        let (client, mut events, driver) = connect(Options::new(Remote::Unix(socket.to_owned()), monitored.clone()));
        let driver = tokio::spawn(driver.run());
        let mut replica = Replica::new(monitored, topology::northbound::indexes());
        loop {
            if let Event::Snapshot(monitored, snapshot) = events.recv().await.unwrap() {
                replica.replace(monitored, snapshot).unwrap();
                break;
            }
        }
        let (stop, stopped) = oneshot::channel();
        let replica = tokio::spawn(follow(replica, events, stopped));
        Self { client, driver, replica, stop }
    }

    async fn end(self) -> Replica {
        let _ = self.stop.send(());
        let replica = self.replica.await.unwrap();
        self.driver.abort();
        replica
    }
}

async fn follow(mut replica: Replica, mut events: mpsc::Receiver<Event>, mut stopped: oneshot::Receiver<()>) -> Replica {
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event.unwrap() {
                Event::Updates(updates) => drop(replica.apply(updates).unwrap()),
                Event::Status(_) => {}
                other => panic!("{other:?}"),
            },
            _ = &mut stopped => return replica,
        }
    }
}

struct Bench {
    database: Database,
    recorder: std::path::PathBuf,
    runtime: Runtime,
}

impl Bench {
    /// Rows per second of our client and of a raw one. The last round's rows stay.
    fn throughput(&self, transactions: &[Vec<Operation>], at_once: usize, tables: &[TableId]) -> (f64, f64) {
        let server = self.database.socket();
        let rows: usize = transactions.iter().map(Vec::len).sum();
        let recorder = Recorder::listen(&self.recorder, &server);
        self.clear();
        self.ours(&self.recorder, transactions, at_once, tables);
        let recording = recorder.recording();
        assert_eq!(recording.count, transactions.len());
        let (mut ours, mut raws) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            self.clear();
            raws.push(rows as f64 / raw::replay(&server, &recording).1.as_secs_f64());
            self.clear();
            ours.push(rows as f64 / self.ours(&server, transactions, at_once, tables).as_secs_f64());
        }
        (median(ours), median(raws))
    }

    /// Time until every transaction is answered; their rows must then be in the replica.
    fn ours(&self, socket: &Path, transactions: &[Vec<Operation>], at_once: usize, tables: &[TableId]) -> Duration {
        self.runtime.block_on(async {
            let follower = Follower::start(socket, tables).await;
            let began = Instant::now();
            let client = &follower.client;
            let answers = futures::stream::iter(transactions).map(|operations| client.transact(operations)).buffered(at_once);
            answers
                .for_each(|answer| {
                    assert!(answer.is_ok(), "{answer:?}");
                    std::future::ready(())
                })
                .await;
            let took = began.elapsed();
            let replica = follower.end().await;
            let expected = if tables.is_empty() { 0 } else { transactions.iter().map(Vec::len).sum() };
            assert_eq!(replica.len(ls::TABLE) + replica.len(lsp::TABLE), expected);
            took
        })
    }

    /// Seconds from connecting until the content is there, of our client and of a raw one.
    fn replica(&self, content: &[Vec<Operation>]) -> (f64, f64) {
        let server = self.database.socket();
        let rows: usize = content.iter().map(Vec::len).sum();
        let recorder = Recorder::listen(&self.recorder, &server);
        self.connect(&self.recorder, rows);
        let recording = recorder.recording();
        let (mut ours, mut raws) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            self.rest();
            raws.push(raw::replay(&server, &recording).0.as_secs_f64());
            self.rest();
            ours.push(self.connect(&server, rows).as_secs_f64());
        }
        (median(ours), median(raws))
    }

    fn connect(&self, socket: &Path, rows: usize) -> Duration {
        self.runtime.block_on(async {
            let began = Instant::now();
            let follower = Follower::start(socket, &TABLES).await;
            let took = began.elapsed();
            let replica = follower.end().await;
            assert_eq!(replica.len(ls::TABLE) + replica.len(lsp::TABLE), rows);
            took
        })
    }

    /// Returns when the server has forgotten the last connection, which takes it some time.
    fn rest(&self) {
        let transactions = br#"{"method":"list_dbs","params":[],"id":1}"#.to_vec();
        raw::replay(&self.database.socket(), &Recording { transactions, count: 1, ..Recording::default() });
    }

    /// Removes all switches; their ports go with them.
    fn clear(&self) {
        let transactions =
            br#"{"method":"transact","params":["OVN_Northbound",{"op":"delete","table":"Logical_Switch","where":[]}],"id":1}"#;
        raw::replay(&self.database.socket(), &Recording { transactions: transactions.to_vec(), count: 1, ..Recording::default() });
    }
}
