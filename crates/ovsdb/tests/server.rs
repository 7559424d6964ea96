//! Against a real `ovsdb-server`, and against peers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ovsdb::{Client, Event, Options, Remote, TransactError, connect};
use ovsdb_types::{Condition, Datum, Function, IndexDef, Monitored, Operation, Replica, RowChange, RowKey, Until, nb};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

struct Server {
    child: Child,
    dir: tempfile::TempDir,
}

impl Server {
    /// A clustered database of one server, as production runs it: only those can resume a monitor.
    fn start(clustered: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("nb.db");
        let mut tool = Command::new("ovsdb-tool");
        if clustered {
            let local = format!("unix:{}/raft.sock", dir.path().display());
            tool.arg("create-cluster").arg(&db).arg("/usr/share/ovn/ovn-nb.ovsschema").arg(local);
        } else {
            tool.arg("create").arg(&db).arg("/usr/share/ovn/ovn-nb.ovsschema");
        }
        assert!(tool.status().unwrap().success());
        let child = Self::spawn(dir.path());
        Self { child, dir }
    }

    fn spawn(dir: &Path) -> Child {
        let dir = dir.display();
        Command::new("ovsdb-server")
            .args([format!("--remote=punix:{dir}/nb.sock"), format!("--unixctl={dir}/ctl"), format!("{dir}/nb.db"), "--no-chdir".into()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let _ = std::fs::remove_file(self.dir.path().join("nb.sock"));
        self.child = Self::spawn(self.dir.path());
    }

    fn options(&self) -> Options {
        let monitored = Monitored::tables(&nb::SCHEMA, &[nb::logical_switch::TABLE, nb::logical_switch_port::TABLE]);
        Options::new(Remote::Unix(self.dir.path().join("nb.sock")), monitored)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(Duration::from_secs(10), events.recv()).await.expect("an event within 10 s").expect("the driver runs")
}

/// Skips failed attempts until the server answers.
async fn connected(events: &mut mpsc::Receiver<Event>) -> Event {
    loop {
        match next(events).await {
            Event::Disconnected(_) | Event::Status(_) => {}
            event => return event,
        }
    }
}

/// Waits until the connection, or a round of attempts, is over; says why.
async fn ended(events: &mut mpsc::Receiver<Event>) -> String {
    loop {
        if let Event::Disconnected(why) = next(events).await {
            return why;
        }
    }
}

fn switch(name: &str) -> Operation {
    let key = RowKey::new(nb::logical_switch::TABLE, name);
    Operation::Insert {
        table: "Logical_Switch",
        uuid: Some(key.uuid(&nb::SCHEMA)),
        name: None,
        row: vec![("name", Datum::One(name.into()))],
    }
}

fn start(server: &Server) -> (Client, mpsc::Receiver<Event>, tokio::task::JoinHandle<()>) {
    let (client, events, driver) = connect(server.options());
    (client, events, tokio::spawn(driver.run()))
}

#[tokio::test]
async fn a_transaction_shows_in_the_replica_before_its_result() {
    let server = Server::start(false);
    let (client, mut events, task) = start(&server);
    let Event::Snapshot(monitored, snapshot) = connected(&mut events).await else { panic!("expected a snapshot") };
    let index = IndexDef { table: nb::logical_switch::TABLE, columns: vec![nb::logical_switch::NAME.index] };
    let mut replica = Replica::new(monitored.clone(), vec![index]);
    assert!(replica.replace(monitored, snapshot).unwrap().is_empty());

    client.transact(&[switch("a"), switch("b")]).await.unwrap();
    let Ok(Event::Updates(updates)) = events.try_recv() else { panic!("the update must have come before the result") };
    assert_eq!(replica.apply(updates).unwrap().len(), 2);
    let found: Vec<_> =
        replica.find(nb::logical_switch::TABLE, &[nb::logical_switch::NAME.index], &[Datum::One("b".into())]).map(|row| row.uuid).collect();
    assert_eq!(found, [RowKey::new(nb::logical_switch::TABLE, "b").uuid(&nb::SCHEMA)]);

    drop(client);
    drop(events);
    timeout(Duration::from_secs(5), task).await.expect("the driver ends with its handles").unwrap();
}

#[tokio::test]
async fn a_failed_operation_is_named_and_nothing_is_committed() {
    let server = Server::start(false);
    let (client, mut events, _task) = start(&server);
    connected(&mut events).await;
    let wait = Operation::Wait {
        table: "Logical_Switch",
        condition: vec![Condition { column: "name", function: Function::Eq, value: Datum::One("leader".into()) }],
        columns: vec!["name"],
        until: Until::NotEqual,
        rows: vec![],
        timeout: 0,
    };
    let error = client.transact(&[switch("a"), wait]).await.unwrap_err();
    let TransactError::Operation { index: 1, error } = error else { panic!("{error}") };
    assert_eq!(error.error, "timed out");
    // The same identifier twice is refused, and the switch of the failed transaction is not there.
    client.transact(&[switch("a")]).await.unwrap();
    let error = client.transact(&[switch("a")]).await.unwrap_err();
    assert!(matches!(error, TransactError::Operation { index: 0, .. }), "{error}");
}

#[tokio::test]
async fn many_transactions_are_pipelined_and_answered_in_order() {
    let server = Server::start(false);
    let (client, mut events, _task) = start(&server);
    connected(&mut events).await;
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let mut inserts = tokio::task::JoinSet::new();
    for i in 0..500 {
        let client = client.clone();
        inserts.spawn(async move { client.transact(&[switch(&format!("s{i}"))]).await });
    }
    while let Some(result) = inserts.join_next().await {
        result.unwrap().unwrap();
    }
    drop(client);
    drain.abort();
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_a_clustered_one_resumes() {
    let mut server = Server::start(true);
    let (client, mut events, _task) = start(&server);
    let Event::Snapshot(monitored, snapshot) = connected(&mut events).await else { panic!("expected a snapshot") };
    let mut replica = Replica::new(monitored.clone(), vec![]);
    replica.replace(monitored, snapshot).unwrap();
    client.transact(&[switch("a")]).await.unwrap();
    let Event::Updates(updates) = next(&mut events).await else { panic!("expected an update") };
    replica.apply(updates).unwrap();

    server.kill();
    ended(&mut events).await;
    let error = client.transact(&[switch("b")]).await.unwrap_err();
    assert!(matches!(error, TransactError::NotConnected | TransactError::Lost), "{error}");
    server.restart();
    match connected(&mut events).await {
        Event::Updates(updates) => assert_eq!(replica.apply(updates).unwrap(), []),
        // A server that kept no history sends everything; nothing has changed either way.
        Event::Snapshot(monitored, snapshot) => assert_eq!(replica.replace(monitored, snapshot).unwrap(), []),
        event => panic!("{event:?}"),
    }
    client.transact(&[switch("b")]).await.unwrap();
    let Event::Updates(updates) = next(&mut events).await else { panic!("expected an update") };
    assert!(matches!(replica.apply(updates).unwrap().as_slice(), [RowChange::Inserted(..)]));
}

#[tokio::test]
async fn garbage_from_the_peer_ends_the_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = r#"{"id":1,"error":null,"result":{"Database":{"u":{"new":{"name":"OVN_Northbound","model":"standalone","connected":true,
        "leader":true,"cid":["set",[]],"index":["set",[]]}}}}}"#;
    let after = |rest: &str| format!("{server}{rest}").into_bytes();
    let replies: [Vec<u8>; 8] = [
        b"garbage".to_vec(),
        b"{\"id\":1,\"result\":17,\"error\":null}".to_vec(),
        b"{\"id\":1,\"result\":null,\"error\":\"unknown database\"}".to_vec(),
        after(r#"{"id":2,"result":17,"error":null}"#),
        after(r#"{"id":2,"result":null,"error":"unknown database"}"#),
        b"{\"method\":\"update3\",\"params\":[],\"id\":null}".to_vec(),
        b"{\"id\":99,\"result\":[],\"error\":null}".to_vec(),
        after(r#"{"id":2,"error":null,"result":{"tables":{}}}{"id":3,"error":null,"result":[true,1]}"#),
    ];
    let sent = replies.clone();
    let peer = tokio::spawn(async move {
        for reply in sent {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&reply).await.unwrap();
            let mut sink = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut sink).await;
        }
    });
    let mut options = Options::new(Remote::Unix(path), Monitored::tables(&nb::SCHEMA, &[nb::logical_switch::TABLE]));
    options.backoff = (Duration::from_millis(1), Duration::from_millis(1));
    let (_client, mut events, driver) = connect(options);
    let task = tokio::spawn(driver.run());
    for reply in replies {
        assert!(!ended(&mut events).await.is_empty(), "{}", String::from_utf8_lossy(&reply));
    }
    drop(events);
    timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    peer.await.unwrap();
}

#[tokio::test]
async fn a_silent_peer_is_probed_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("silent.sock");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut options = Options::new(Remote::Unix(path), Monitored::tables(&nb::SCHEMA, &[nb::logical_switch::TABLE]));
    options.probe = Duration::from_millis(30);
    let (_client, mut events, driver) = connect(options);
    let _task = tokio::spawn(driver.run());
    let why = ended(&mut events).await;
    assert!(why.contains("no answer"), "{why}");
}

#[tokio::test]
async fn of_a_table_only_the_rows_that_are_asked_for_are_monitored() {
    let server = Server::start(false);
    let named = |name: &str| Condition { column: "name", function: Function::Eq, value: Datum::One(name.into()) };
    let only = vec![(nb::logical_switch::TABLE, vec![named("one"), named("other")])];
    let (client, mut events, driver) = connect(Options { only, ..server.options() });
    let task = tokio::spawn(driver.run());
    let Event::Snapshot(monitored, snapshot) = connected(&mut events).await else { panic!("expected a snapshot") };
    let mut replica = Replica::new(monitored.clone(), Vec::new());
    replica.replace(monitored, snapshot).unwrap();
    for name in ["foreign", "one", "other"] {
        client.transact(&[switch(name)]).await.unwrap();
    }
    while replica.len(nb::logical_switch::TABLE) < 2 {
        let Event::Updates(updates) = connected(&mut events).await else { panic!("expected updates") };
        replica.apply(updates).unwrap();
    }
    let mut names: Vec<_> = replica.rows(nb::logical_switch::TABLE).map(|row| row.text(nb::logical_switch::NAME).to_owned()).collect();
    names.sort();
    assert_eq!(names, ["one", "other"]);
    drop(client);
    drop(events);
    task.await.unwrap();
}
