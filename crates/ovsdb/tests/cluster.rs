//! Against RAFT clusters of real `ovsdb-server`s, schema conversion and TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ovsdb::{Client, Event, Options, Remotes, Tls, connect};
use ovsdb_types::{Datum, Monitored, Operation, Replica, RowKey, nb};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SCHEMA: &str = "/usr/share/ovn/ovn-nb.ovsschema";

/// A database that one server serves, alone or with others. Gone when dropped.
struct Server {
    dir: tempfile::TempDir,
}

fn run(program: &str, arguments: &[String]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

impl Server {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }

    fn remote(&self) -> String {
        format!("unix:{}", self.path("nb.sock"))
    }

    fn raft(&self) -> String {
        format!("unix:{}", self.path("raft.sock"))
    }

    fn start(&self, more: &[String]) {
        let own = [
            "--detach".into(),
            "--no-chdir".into(),
            format!("--remote=p{}", self.remote()),
            format!("--unixctl={}", self.path("ctl")),
            format!("--pidfile={}", self.path("pid")),
            format!("--log-file={}", self.path("log")),
        ];
        run("ovsdb-server", &[&own[..], more, &[self.path("nb.db")]].concat());
    }

    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.path("pid")).unwrap_or_default();
        let _ = Command::new("kill").args([signal, pid.trim()]).stderr(Stdio::null()).status();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal("-KILL");
    }
}

/// A cluster of three; elections take a second or so.
fn cluster() -> [Server; 3] {
    let servers = [Server::new(), Server::new(), Server::new()];
    let [first, others @ ..] = &servers;
    run("ovsdb-tool", &["create-cluster".into(), first.path("nb.db"), SCHEMA.into(), first.raft()]);
    first.start(&[]);
    for server in others {
        run("ovsdb-tool", &["join-cluster".into(), server.path("nb.db"), "OVN_Northbound".into(), server.raft(), first.raft()]);
        server.start(&[]);
        run("ovsdb-client", &["wait".into(), server.remote(), "OVN_Northbound".into(), "connected".into()]);
    }
    servers
}

fn options(servers: &[Server]) -> Options {
    let remotes: Vec<String> = servers.iter().map(Server::remote).collect();
    let remotes: Remotes = remotes.join(",").parse().unwrap();
    Options { leader: true, ..Options::new(remotes, Monitored::tables(&nb::SCHEMA, &[nb::logical_switch::TABLE])) }
}

fn switch(name: &str) -> Operation {
    let uuid = Some(RowKey::new(nb::logical_switch::TABLE, name).uuid(&nb::SCHEMA));
    Operation::Insert { table: "Logical_Switch", uuid, name: None, row: vec![("name", Datum::One(name.into()))] }
}

/// A connection with its replica.
struct Connection {
    client: Client,
    events: mpsc::Receiver<Event>,
    replica: Replica,
    /// Whole contents received.
    snapshots: usize,
    /// Connections lost, and rounds of attempts that failed.
    failures: Vec<String>,
}

impl Connection {
    fn open(options: Options) -> Self {
        let replica = Replica::new(options.monitored.clone(), vec![]);
        let (client, events, driver) = connect(options);
        tokio::spawn(driver.run());
        Self { client, events, replica, snapshots: 0, failures: Vec::new() }
    }

    /// Takes events until the replica satisfies `holds`.
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waited = timeout(Duration::from_secs(30), async {
            loop {
                match self.events.recv().await.expect("the driver runs") {
                    Event::Snapshot(monitored, snapshot) => {
                        self.snapshots += 1;
                        self.replica.replace(monitored, snapshot).unwrap();
                    }
                    Event::Updates(updates) => {
                        self.replica.apply(updates).unwrap();
                    }
                    Event::Status(_) => {}
                    Event::Disconnected(why) => self.failures.push(why),
                }
                if holds(self) {
                    return;
                }
            }
        });
        let done = waited.await.is_ok();
        assert!(done, "waited for {what}; seen {:?}, {} snapshots, failures {:?}", self.switches(), self.snapshots, self.failures);
    }

    fn switches(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.replica.rows(nb::logical_switch::TABLE).map(|row| row.text(nb::logical_switch::NAME).to_owned()).collect();
        names.sort_unstable();
        names
    }
}

#[tokio::test]
async fn the_leader_is_followed_when_it_is_killed_and_when_it_hands_over() {
    let servers = cluster();
    let mut connection = Connection::open(options(&servers));
    connection.until("the first snapshot", |c| c.snapshots == 1).await;
    connection.client.transact(&[switch("a")]).await.unwrap();
    connection.until("a", |c| c.switches() == ["a"]).await;

    servers[0].signal("-KILL");
    connection.until("the loss of the leader", |c| !c.failures.is_empty()).await;
    let began = std::time::Instant::now();
    loop {
        // Between leaders nobody takes transactions; what is refused is not committed.
        match connection.client.transact(&[switch("b")]).await {
            Ok(_) => break,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
        while let Ok(event) = connection.events.try_recv() {
            apply(&mut connection, event);
        }
    }
    connection.until("b", |c| c.switches() == ["a", "b"]).await;
    assert_eq!(connection.snapshots, 1, "another server of the cluster knows where the monitor was: nothing is sent twice");

    servers[0].start(&[]);
    let lost = connection.failures.len();
    let leader = servers.iter().find(|server| role(server).contains("Role: leader")).expect("a leader");
    run("ovs-appctl", &["-t".into(), leader.path("ctl"), "cluster/failure-test".into(), "transfer-leadership".into()]);
    connection.until("the notice that it leads no more", |c| c.failures.len() > lost).await;
    assert!(connection.failures[lost].contains("does not lead"), "{:?}", connection.failures);
}

fn apply(connection: &mut Connection, event: Event) {
    match event {
        Event::Updates(updates) => drop(connection.replica.apply(updates).unwrap()),
        Event::Snapshot(monitored, snapshot) => {
            connection.snapshots += 1;
            connection.replica.replace(monitored, snapshot).unwrap();
        }
        Event::Status(_) => {}
        Event::Disconnected(why) => connection.failures.push(why),
    }
}

fn role(server: &Server) -> String {
    run("ovs-appctl", &["-t".into(), server.path("ctl"), "cluster/status".into(), "OVN_Northbound".into()])
}

#[tokio::test]
async fn a_converted_database_is_monitored_anew_and_a_missing_column_left_out() {
    let server = Server::new();
    let whole = std::fs::read_to_string(SCHEMA).unwrap();
    let mut older: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let columns = older.pointer_mut("/tables/Logical_Switch/columns").unwrap().as_object_mut().unwrap();
    columns.remove("copp").expect("the schema has the column");
    older["version"] = "5.0.0".into();
    let file = server.path("older.ovsschema");
    std::fs::write(&file, older.to_string()).unwrap();
    run("ovsdb-tool", &["create".into(), server.path("nb.db"), file]);
    server.start(&[]);

    let copp = nb::logical_switch::COPP.index;
    let mut connection = Connection::open(options(std::slice::from_ref(&server)));
    connection.until("the first snapshot", |c| c.snapshots == 1).await;
    assert!(!connection.replica.monitored().columns(nb::logical_switch::TABLE).unwrap().contains(&copp));
    connection.client.transact(&[switch("a")]).await.unwrap();
    connection.until("a", |c| c.switches() == ["a"]).await;

    run("ovsdb-client", &["convert".into(), server.remote(), SCHEMA.into()]);
    connection.until("the snapshot after the conversion", |c| c.snapshots == 2).await;
    assert!(connection.replica.monitored().columns(nb::logical_switch::TABLE).unwrap().contains(&copp));
    assert_eq!(connection.switches(), ["a"]);
    connection.client.transact(&[switch("b")]).await.unwrap();
    connection.until("b", |c| c.switches() == ["a", "b"]).await;
    assert_eq!(connection.failures, Vec::<String>::new(), "the connection stays");
}

/// Keys and certificates as `ovs-pki` makes them: of an authority, and of two parties that it has signed.
fn pki(folder: &Path, name: &str) {
    let pki = |arguments: &[&str]| {
        let own = [format!("--dir={}", folder.join(name).display()), format!("--log={}", folder.join("pki.log").display())];
        let out = Command::new("ovs-pki").args(own).args(arguments).current_dir(folder).output().unwrap();
        assert!(out.status.success(), "ovs-pki {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    pki(&["init"]);
    pki(&["-u", "req+sign", &format!("{name}-server"), "switch"]);
    pki(&["-u", "req+sign", &format!("{name}-client"), "switch"]);
}

fn files(folder: &Path, authority: &str, party: &str) -> Tls {
    Tls {
        private_key: folder.join(format!("{party}-privkey.pem")),
        certificate: folder.join(format!("{party}-cert.pem")),
        authority: folder.join(authority).join("switchca/cacert.pem"),
    }
}

#[tokio::test]
async fn tls_trusts_who_the_authority_has_signed_and_nobody_else() {
    let server = Server::new();
    let folder = server.dir.path();
    pki(folder, "ours");
    pki(folder, "theirs");
    run("ovsdb-tool", &["create".into(), server.path("nb.db"), SCHEMA.into()]);
    let Tls { private_key, certificate, authority } = files(folder, "ours", "ours-server");
    let given = [("private-key", private_key), ("certificate", certificate), ("ca-cert", authority)];
    let mut arguments: Vec<String> = given.iter().map(|(name, file)| format!("--{name}={}", file.display())).collect();
    arguments.push("--remote=pssl:0:127.0.0.1".into());
    server.start(&arguments);
    let log = std::fs::read_to_string(server.path("log")).unwrap();
    let port = log.lines().find_map(|line| line.split_once("listening on port ")?.1.split('.').next().map(str::to_owned));
    let port = port.unwrap_or_else(|| panic!("no port in {log}"));
    let remote: Remotes = format!("ssl:127.0.0.1:{port}").parse().unwrap();
    let options = |tls: Option<Tls>| Options { remotes: remote.clone(), tls, ..options(std::slice::from_ref(&server)) };

    let mut connection = Connection::open(options(Some(files(folder, "ours", "ours-client"))));
    connection.until("the first snapshot", |c| c.snapshots == 1).await;
    connection.client.transact(&[switch("a")]).await.unwrap();
    connection.until("a", |c| c.switches() == ["a"]).await;

    let missing = Tls { certificate: folder.join("nowhere.pem"), ..files(folder, "ours", "ours-client") };
    for (tls, why) in [
        (Some(files(folder, "theirs", "ours-client")), "invalid peer certificate"),
        (Some(files(folder, "ours", "theirs-client")), "alert"),
        (Some(missing), "nowhere.pem"),
        (None, "needs a private key"),
    ] {
        let mut refused = Connection::open(options(tls));
        refused.until("a refusal", |c| !c.failures.is_empty()).await;
        assert_eq!(refused.snapshots, 0);
        assert!(refused.failures[0].contains(why), "{why}: {:?}", refused.failures);
    }
}
